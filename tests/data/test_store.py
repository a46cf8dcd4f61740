import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from softfeat.data import store as store_module
from softfeat.data.layouts import DataError, Folder, Record
from softfeat.data.records import read_record, resize_label
from softfeat.data.store import SampleStore
from softfeat.imaging.images import read_image, resize_image
from softfeat.imaging.slic import Superpixels
from tests.helpers.datasets import make_folder

SLIC = Superpixels(count=20)


def make(
    root: Path,
    cache: Path,
    superpixels: Superpixels | None = SLIC,
    size: tuple[int, int] = (32, 24),
    pack: bool = False,
) -> SampleStore:
    return SampleStore(cache, Folder(root).records("train"), size, superpixels, pack)


def check_rows(store: SampleStore, pack: bool) -> None:
    assert len(store) == 4
    for index, record in enumerate(store.records):
        photo, label = read_record(record)
        image = resize_image(photo, (32, 24))
        expected = {"superpixels": SLIC(image)}
        if pack:
            expected |= {"image": image, "label": resize_label(label, (32, 24))}
        row = store[index]
        assert set(row) == set(expected)
        for name, array in expected.items():
            assert row[name].dtype == array.dtype
            assert np.array_equal(row[name], array)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_files(
    folder_root: Path, tmp_path: Path, workers: int, pack: bool
) -> None:
    store = make(folder_root, tmp_path / "cache", pack=pack)
    store.prepare(workers)
    check_rows(store, pack)


def test_a_row_is_a_copy(folder_root: Path, tmp_path: Path) -> None:
    store = make(folder_root, tmp_path / "cache", pack=True)
    store.prepare(0)
    before = {name: array.copy() for name, array in store[0].items()}
    for array in store[0].values():
        array[...] = 7
    for name, array in store[0].items():
        assert np.array_equal(array, before[name])


def test_everything_that_decides_a_packed_row_is_in_its_key(
    folder_root: Path, tmp_path: Path
) -> None:
    cache, label = tmp_path / "cache", folder_root / "labels" / "train" / "1.png"
    paths = {make(folder_root, cache, pack=True).path, make(folder_root, cache).path}
    paths.add(make(folder_root, cache, None, pack=True).path)
    paths.add(make(folder_root, cache, Superpixels(count=21), pack=True).path)
    paths.add(make(folder_root, cache, size=(24, 32), pack=True).path)
    store = make(folder_root, cache, pack=True)
    store.prepare(0)
    assert store[1]["label"].any()
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(label)
    changed = make(folder_root, cache, pack=True)
    paths.add(changed.path)
    changed.prepare(0)
    assert not changed[1]["label"].any()
    (folder_root / "classes.txt").write_text("a\nb\nc\nd\n")  # another table of labels
    paths.add(make(folder_root, cache, pack=True).path)
    assert len(paths) == 7
    records = [replace(record, upright=False) for record in changed.records]
    paths.add(SampleStore(cache, records, (32, 24), SLIC, True).path)
    assert len(paths) == 8


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


def test_bad_files_leave_no_packed_store_behind(folder_root: Path, tmp_path: Path) -> None:
    images, labels = folder_root / "images" / "train", folder_root / "labels" / "train"
    kept = (images / "0.jpg").read_bytes()
    (images / "0.jpg").write_bytes(kept[:200])
    (labels / "2.png").unlink()
    with pytest.raises(DataError, match="2 of 4 records") as error:
        make(folder_root, tmp_path / "cache", pack=True).prepare(0)
    truncated, unlabelled = error.value.problems
    assert "0.jpg" in truncated
    assert "2.jpg has no label" in unlabelled
    assert [p for p in (tmp_path / "cache" / "packed").iterdir() if p.is_dir()] == []
    (images / "0.jpg").write_bytes(kept)
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(labels / "2.png")
    mended = make(folder_root, tmp_path / "cache", pack=True)
    mended.prepare(0)
    check_rows(mended, pack=True)


@pytest.mark.parametrize("pack", [False, True])
def test_an_interrupted_run_is_continued(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    real_map = store_module.map_in_workers

    def interrupted(function: Any, *args: Any) -> object:
        def until_the_third(item: tuple[int, Record]) -> object:
            if item[0] == 2:
                raise KeyboardInterrupt
            return function(item)

        return real_map(until_the_third, *args)

    monkeypatch.setattr(store_module, "map_in_workers", interrupted)
    store = make(folder_root, tmp_path / "cache", pack=pack)
    with pytest.raises(KeyboardInterrupt):
        store.prepare(0)
    assert not store.complete

    # a row that was only half written when the power went: its checksum does not fit
    file = store.path.with_suffix(".partial") / ("rows.u8" if pack else "maps.u16")
    rows = np.memmap(file, np.uint8, "r+").reshape(4, -1)
    rows[0, rows.shape[1] // 2 :] = 0
    rows.flush()
    done: list[int] = []

    def counted(function: object, items: list[tuple[int, Record]], *args: object) -> object:
        done.extend(index for index, _ in items)
        return real_map(function, items, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "map_in_workers", counted)
    store.prepare(0)
    assert done == [0, 2, 3]
    check_rows(store, pack)


SCRIPT = """
import sys
from pathlib import Path
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels
from softfeat.data.store import SampleStore
root, cache, workers = sys.argv[1:]
records = Folder(root).records("train")
SampleStore(cache, records, (160, 160), Superpixels(count=300), True).prepare(int(workers))
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


@pytest.mark.slow
def test_kill_at_any_point_leaves_nothing_that_is_taken_for_finished(tmp_path: Path) -> None:
    root, cache = many_photos(tmp_path / "set", 60), tmp_path / "cache"
    records = Folder(root).records("train")
    slic = Superpixels(count=300)
    store = SampleStore(cache, records, (160, 160), slic, pack=True)
    checksums = store.path.with_suffix(".partial") / "checksums.u64"
    command = [sys.executable, "-c", SCRIPT, str(root), str(cache), "0"]
    for target in (1, 20, 45):  # rows done when the process is killed
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        deadline = time.time() + 300
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
        image = read_image(records[index].image)
        assert np.array_equal(store[index]["image"], image)
        assert np.array_equal(store[index]["superpixels"], slic(image))


def test_two_runs_at_once_share_one_computation(tmp_path: Path) -> None:
    root, cache = many_photos(tmp_path / "set", 60), tmp_path / "cache"
    command = [sys.executable, "-c", SCRIPT, str(root), str(cache), "1"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert all("finished" in output for output in outputs)
    # whoever came second waited, or found the first one's work complete: one of them computed
    assert sum("60/60" in output for output in outputs) == 1
    assert len([p for p in (cache / "packed").iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize(("pack", "name"), [(False, "maps.u16"), (True, "rows.u8")])
def test_a_truncated_store_names_the_remedy(
    folder_root: Path, tmp_path: Path, pack: bool, name: str
) -> None:
    store = make(folder_root, tmp_path / "cache", pack=pack)
    store.prepare(0)
    rows = store.path / name
    rows.write_bytes(rows.read_bytes()[:-100])
    damaged = make(folder_root, tmp_path / "cache", pack=pack)
    with pytest.raises(DataError, match=f"(?s){name}.*Delete the folder"):
        damaged.prepare(0)
    with pytest.raises(DataError, match="Delete the folder"):
        damaged[0]
    (store.path / "checksums.u64").unlink()
    rows.write_bytes(rows.read_bytes() + bytes(100))
    with pytest.raises(DataError, match=r"checksums\.u64 has 0 bytes instead of 32"):
        damaged.prepare(0)


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fills_up_on_the_way_names_the_remedy(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module, "_write", fail)
    with pytest.raises(DataError, match=r"is full.*data\.cache_dir"):
        make(folder_root, tmp_path / "cache").prepare(workers)


def test_a_cache_that_is_a_file_is_explained(folder_root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_dir"):
        make(folder_root, tmp_path / "cache").prepare(0)


def test_a_packed_store_on_a_read_only_disk_is_read(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder_root, tmp_path / "cache", pack=True).prepare(0)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "write_text", "rename"):
        monkeypatch.setattr(Path, name, fail)
    monkeypatch.setattr("softfeat.data.cache_folder.FileLock", fail)
    store = make(folder_root, tmp_path / "cache", pack=True)
    store.prepare(0)
    check_rows(store, pack=True)


def test_maps_are_read_memory_mapped(folder_root: Path, tmp_path: Path) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(0)
    store[0]
    assert isinstance(store._rows, np.memmap)
    assert store.__getstate__()["_rows"] is None  # workers open it themselves


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fraction=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), pack=st.booleans())
def test_no_changed_bit_of_a_complete_store_is_believed(
    folder_root: Path, tmp_path: Path, fraction: float, bit: int, pack: bool
) -> None:
    store = make(folder_root, tmp_path / "cache", pack=pack)
    store.prepare(0)
    file = store.path / ("rows.u8" if pack else "maps.u16")
    content = bytearray(file.read_bytes())
    place = int(fraction * len(content))
    content[place] ^= 1 << bit
    file.write_bytes(content)
    changed = make(folder_root, tmp_path / "cache", pack=pack)
    row = place // (len(content) // 4)
    with pytest.raises(DataError, match=f"(?s)row {row} of .* has changed.*Delete the folder"):
        changed[row]
    content[place] ^= 1 << bit
    file.write_bytes(content)
    check_rows(make(folder_root, tmp_path / "cache", pack=pack), pack)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kept=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["maps.u16", "checksums.u64"]))
def test_no_shortened_store_is_believed(
    folder_root: Path, tmp_path: Path, kept: float, name: str
) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(0)
    content = (store.path / name).read_bytes()
    (store.path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"{name} has .* bytes instead of {len(content)}"):
        make(folder_root, tmp_path / "cache").prepare(0)
    # the same files, left by a killed run: they are mended
    store.path.rename(store.path.with_suffix(".partial"))
    mended = make(folder_root, tmp_path / "cache")
    mended.prepare(0)
    check_rows(mended, pack=False)


@pytest.mark.slow
def test_eight_starts_on_an_empty_store_build_it_once(tmp_path: Path) -> None:
    root, cache = many_photos(tmp_path / "set", 60), tmp_path / "cache"
    command = [sys.executable, "-c", SCRIPT, str(root), str(cache), "0"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    outputs = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 8
    assert sum("60/60" in output for output in outputs) == 1
    assert [path.suffix for path in (cache / "packed").iterdir() if path.is_dir()] == [""]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5)])
@pytest.mark.parametrize("pack", [False, True])
def test_photos_smaller_than_the_crop_and_of_extreme_shape(
    tmp_path: Path, size: tuple[int, int], pack: bool
) -> None:
    root = make_folder(tmp_path / "set", size=size, counts=(4, 0, 0))
    store = make(root, tmp_path / "cache", pack=pack)
    store.prepare(0)
    check_rows(store, pack)


def test_identical_pixels_make_a_map(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", counts=(1, 0, 0))
    Image.new("RGB", (48, 40), (9, 9, 9)).save(root / "images" / "train" / "0.jpg")
    store = make(root, tmp_path / "cache")
    store.prepare(0)
    assert store[0]["superpixels"].max() < 20


@pytest.mark.parametrize(("field", "last"), [("superpixels", 19), ("label", 2), ("label", 255)])
def test_ids_of_a_store_exist(folder_root: Path, tmp_path: Path, field: str, last: int) -> None:
    """The rows are changed before the checksums are made, as a faulty version might do."""
    store = make(folder_root, tmp_path / "cache", pack=True)
    store.prepare(0)
    for value, exists in ((0, True), (last, True), (20 if field == "superpixels" else 3, False)):
        rows = np.memmap(store.path / "rows.u8", store.dtype, "r+")
        rows[1][field][...] = value
        rows.flush()
        (store.path / "checksums.u64").write_bytes(bytes(8 * len(store)))  # 0: compared before
        opened = make(folder_root, tmp_path / "cache", pack=True)
        if exists:
            assert (opened[1][field] == value).all()
        else:
            with pytest.raises(DataError, match=r"rows\.u8 has ids that do not exist"):
                opened[1]


def test_rows_that_were_not_written_are_no_finished_store(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_write", lambda *_: None)  # a disk that loses everything
    store = make(folder_root, tmp_path / "cache")
    with pytest.raises(DataError, match=r"not all rows of .* were written"):
        store.prepare(0)
    assert not store.complete


def test_the_index_says_what_is_stored(folder_root: Path, tmp_path: Path) -> None:
    store = make(folder_root, tmp_path / "cache")
    store.prepare(0)
    index = json.loads((store.path / "index.json").read_text(encoding="utf-8"))
    assert index["image_size"] == [32, 24]
    assert index["photos"] == [str(record.image) for record in store.records]
