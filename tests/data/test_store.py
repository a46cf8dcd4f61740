import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.data import store as store_module
from src.data.images import read_image, resize_image
from src.data.layouts import DataError, Folder, Record
from src.data.slic import Superpixels
from src.data.store import SuperpixelStore

SLIC = Superpixels(count=20)


def make(
    root: Path, cache: Path, superpixels: Superpixels = SLIC, size: tuple[int, int] = (32, 24)
) -> SuperpixelStore:
    return SuperpixelStore(cache, Folder(root).records("train"), size, superpixels)


def expected(record: Record) -> np.ndarray:
    return SLIC(resize_image(read_image(record.image), (32, 24)))


@pytest.mark.parametrize("workers", [0, 2])
def test_maps_are_those_of_the_photos(folder_root: Path, tmp_path: Path, workers: int) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(workers)
    assert len(store) == 4
    for index, record in enumerate(store.records):
        assert store[index].dtype == np.uint16
        assert np.array_equal(store[index], expected(record))


def test_a_second_run_computes_nothing(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder_root, tmp_path / "cache").prepare(0)
    monkeypatch.setattr(store_module, "map_in_workers", None)
    again = make(folder_root, tmp_path / "cache")
    again.prepare(0)
    assert again.complete


def test_a_changed_parameter_misses(folder_root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    paths = {make(folder_root, cache).path}
    paths.add(make(folder_root, cache, Superpixels(count=21)).path)
    paths.add(make(folder_root, cache, Superpixels(count=20, compactness=11)).path)
    paths.add(make(folder_root, cache, Superpixels(count=20, iterations=9)).path)
    paths.add(make(folder_root, cache, Superpixels(count=20, backend="skimage")).path)
    paths.add(make(folder_root, cache, size=(24, 32)).path)
    photo = folder_root / "images" / "train" / "0.jpg"
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(photo)
    paths.add(make(folder_root, cache).path)
    photo.unlink()
    paths.add(make(folder_root, cache).path)
    assert len(paths) == 8


def test_all_bad_files_are_reported_in_one_pass_and_good_ones_kept(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = folder_root / "images" / "train", folder_root / "labels" / "train"
    (images / "0.jpg").write_bytes((images / "0.jpg").read_bytes()[:200])
    (labels / "1.png").unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(labels / "2.png")
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(labels / "3.png")
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(images / "4.jpg")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(labels / "4.png")
    store = make(folder_root, tmp_path / "cache")
    with pytest.raises(DataError) as error:
        store.prepare(2)
    problems = error.value.problems
    assert len(problems) == 4
    for problem, (file, reason) in zip(
        problems,
        [("0.jpg", "truncated"), ("1.png", "has no label"), ("2.png", "48x40"), ("3.png", "id 77")],
        strict=True,
    ):
        assert file in problem
        assert reason in problem
    assert not store.complete
    with pytest.raises(DataError, match=r"src\.precompute"):
        store[0]

    # labels mended: only what was missing is computed
    for i in (1, 2, 3):
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(labels / f"{i}.png")
    done: list[int] = []
    real_map = store_module.map_in_workers

    def counted(function: object, items: list[tuple[int, Record]], *args: object) -> object:
        done.extend(index for index, _ in items)
        return real_map(function, items, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "map_in_workers", counted)
    with pytest.raises(DataError, match="1 of 5 records"):
        make(folder_root, tmp_path / "cache").prepare(0)
    assert done == [0, 1, 2, 3]


def test_an_interrupted_run_is_continued(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_map = store_module.map_in_workers

    def interrupted(function: Any, *args: Any) -> object:
        def until_the_third(item: tuple[int, Record]) -> object:
            if item[0] == 2:
                raise KeyboardInterrupt
            return function(item)

        return real_map(until_the_third, *args)

    monkeypatch.setattr(store_module, "map_in_workers", interrupted)
    store = make(folder_root, tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        store.prepare(0)
    assert not store.complete

    # a map that was only half written when the power went: its checksum does not fit
    partial = store.path.with_suffix(".partial")
    maps = np.memmap(partial / "maps.u16", np.uint16, "r+", shape=(4, 32, 24))
    maps[0, 16:] = 0
    maps.flush()
    done: list[int] = []

    def counted(function: object, items: list[tuple[int, Record]], *args: object) -> object:
        done.extend(index for index, _ in items)
        return real_map(function, items, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "map_in_workers", counted)
    store.prepare(0)
    assert done == [0, 2, 3]
    for index, record in enumerate(store.records):
        assert np.array_equal(store[index], expected(record))


SCRIPT = """
import sys
from pathlib import Path
from src.data.layouts import Folder
from src.data.slic import Superpixels
from src.data.store import SuperpixelStore
root, cache, workers = sys.argv[1:]
records = Folder(root).records("train")
SuperpixelStore(cache, records, (160, 160), Superpixels(count=300)).prepare(int(workers))
print("finished", flush=True)
"""


def many_photos(root: Path, count: int) -> Path:
    rng = np.random.default_rng(3)
    for i in range(count):
        for kind, array in (
            ("images", rng.integers(0, 256, (160, 160, 3)).astype(np.uint8)),
            ("labels", np.zeros((160, 160), np.uint8)),
        ):
            path = root / kind / "train" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path, compress_level=1)
    (root / "classes.txt").write_text("all\n")
    return root


def test_kill_at_any_point_leaves_nothing_that_is_taken_for_finished(tmp_path: Path) -> None:
    root, cache = many_photos(tmp_path / "set", 60), tmp_path / "cache"
    records = Folder(root).records("train")
    slic = Superpixels(count=300)
    store = SuperpixelStore(cache, records, (160, 160), slic)
    checksums = store.path.with_suffix(".partial") / "checksums.u64"
    command = [sys.executable, "-c", SCRIPT, str(root), str(cache), "0"]
    for target in (1, 20, 45):  # maps done when the process is killed
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        deadline = time.time() + 60
        while time.time() < deadline:
            if (
                checksums.is_file()
                and np.count_nonzero(np.fromfile(checksums, np.uint64)) >= target
            ):
                break
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not store.complete
        done = np.count_nonzero(np.fromfile(checksums, np.uint64))
        assert target <= done < len(records)
    store.prepare(0)
    for index in (0, 21, 59):
        assert np.array_equal(store[index], slic(read_image(records[index].image)))


def test_two_runs_at_once_share_one_computation(tmp_path: Path) -> None:
    root, cache = many_photos(tmp_path / "set", 60), tmp_path / "cache"
    command = [sys.executable, "-c", SCRIPT, str(root), str(cache), "1"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert all("finished" in output for output in outputs)
    # whoever came second waited, or found the first one's work complete: one of them computed
    assert sum("60/60" in output for output in outputs) == 1
    assert len([p for p in (cache / "superpixels").iterdir() if p.is_dir()]) == 1


def test_a_truncated_store_names_the_remedy(folder_root: Path, tmp_path: Path) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(0)
    maps = store.path / "maps.u16"
    maps.write_bytes(maps.read_bytes()[:-100])
    damaged = make(folder_root, tmp_path / "cache")
    with pytest.raises(DataError, match=r"(?s)maps\.u16.*Delete the folder"):
        damaged.prepare(0)
    with pytest.raises(DataError, match="Delete the folder"):
        damaged[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, r"is full: 6,144 bytes are needed"), (errno.EROFS, "cannot be written")],
)
def test_a_full_or_read_only_disk_names_the_remedy(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_module, "reserve", fail)
    with pytest.raises(DataError, match=rf"{words}.*data\.cache_dir"):
        make(folder_root, tmp_path / "cache").prepare(0)


def test_a_cache_that_is_a_file_is_explained(folder_root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_dir"):
        make(folder_root, tmp_path / "cache").prepare(0)


def test_maps_are_read_memory_mapped(folder_root: Path, tmp_path: Path) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(0)
    store[0]
    assert isinstance(store._maps, np.memmap)
    assert store.__getstate__()["_maps"] is None  # workers open it themselves


def test_labels_that_change_later_are_checked_again(folder_root: Path, tmp_path: Path) -> None:
    cache, label = tmp_path / "cache", folder_root / "labels" / "train" / "1.png"
    make(folder_root, cache).prepare(0)
    kept = label.read_bytes()
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(label)
    with pytest.raises(DataError, match=r"1 of 4 records") as error:
        make(folder_root, cache).prepare(0)
    assert "1.png: label id 77" in error.value.problems[0]
    label.write_bytes(kept)
    make(folder_root, cache).prepare(0)
    (folder_root / "classes.txt").write_text("only one\n")
    with pytest.raises(DataError, match="records cannot be used"):
        make(folder_root, cache).prepare(0)
