"""Many photos: several processes, kills, names, damaged results, and what is printed."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from softfeat import reporting
from softfeat.batch import COLUMNS, Result, segment_photos
from softfeat.imaging.photo import Photo, read_photo
from softfeat.interrupt import Interrupted, interruptible
from softfeat.results import replacing, write_summary
from softfeat.segmenter import Segmenter
from tests.helpers.photos import picture

report = partial(reporting.report, columns=COLUMNS, doing="segmenting")
FORK = multiprocessing.get_context("fork")


@dataclass
class FakeLayers:
    """Writes two files in place of layers."""

    work: Callable[[], None]

    def save(self, folder: Path, bits: int, cutout: None, entries: dict, masks: bool) -> dict:
        with replacing(folder) as unfinished:
            (unfinished / "alpha_1.png").write_text(f"{os.getpid()} {entries['settings']}")
            self.work()
            (unfinished / "alpha_2.png").write_text(f"{os.getpid()} {entries['settings']}")
            found = {"coverage": [0.5, 0.5], "size": [4, 4], "seconds": {"all": 0.1}}
            write_summary(unfinished, {**entries, **found})
        return {**entries, **found}


@dataclass
class FakeSegmenter:
    """Logs its calls, and does some work in each."""

    log: Path
    work: Callable[[], None] = lambda: None
    seed: int = 0

    @property
    def identity(self) -> str:
        return "weights"

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def read(self, photo: Path) -> Photo:
        return read_photo(photo)

    def __call__(self, photo: object) -> FakeLayers:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return FakeLayers(self.work)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def fake(tmp_path: Path) -> FakeSegmenter:
    return FakeSegmenter(tmp_path / "log")


def make(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        picture(32, 32, seed=number).save(folder / name, "PNG")
    return [folder / name for name in names]


def run(segmenter: FakeSegmenter, photos: list[Path], output: Path, **options: Any) -> list[Result]:
    return list(segment_photos(cast(Segmenter, segmenter), photos, output, **options))


def statuses(results: list[Result]) -> list[str]:
    return [result.status for result in results]


def sleep() -> None:
    time.sleep(0.03)


def test_processes_share_the_photos(tmp_path: Path) -> None:
    photos = make(tmp_path / "in", *(f"{n}.png" for n in range(8)), "0.jpg", "1.JPG")
    fake, output = FakeSegmenter(tmp_path / "log", sleep), tmp_path / "out"

    def work() -> None:
        results = run(fake, photos, output)
        assert len(results) == len(photos)
        assert {r.error for r in results} == {None}
        assert {r.photo for r in results} == {str(p) for p in photos}
        assert len({r.folder for r in results}) == len(photos)

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(fake.calls) == len(photos)  # none twice
    assert len(list(output.iterdir())) == len(photos)  # and nothing is left besides
    assert statuses(run(fake, photos, output)) == ["skipped"] * len(photos)


def test_processes_with_other_settings_do_not_mix_their_files(tmp_path: Path) -> None:
    photos, output = make(tmp_path / "in", "a.png"), tmp_path / "out"

    def work(seed: int) -> None:
        for _ in range(10):
            run(FakeSegmenter(tmp_path / "log", sleep, seed), photos, output, overwrite=True)

    processes = [FORK.Process(target=work, args=(seed,)) for seed in range(3)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    one, two = (output / "a" / f"alpha_{k}.png" for k in (1, 2))
    assert one.read_text() == two.read_text()
    assert [p.name for p in output.iterdir()] == ["a"]


def test_a_killed_process_leaves_nothing_that_counts(tmp_path: Path, fake: FakeSegmenter) -> None:
    photos, output = make(tmp_path / "in", "a.png", "a.jpg"), tmp_path / "out"
    ours, theirs = FORK.Pipe()

    def hang() -> None:
        theirs.send("working")
        time.sleep(60)

    slow = FakeSegmenter(tmp_path / "log", hang)
    process = FORK.Process(target=run, args=(slow, photos[:1], output))
    process.start()
    ours.recv()
    assert statuses(run(fake, photos[1:], output)) == ["segmented"]  # it takes another folder
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(list(output.iterdir())) == 4  # two locks, an unfinished folder, and a finished one
    assert statuses(run(fake, photos, output)) == ["segmented", "skipped"]
    assert sorted(p.name for p in output.iterdir()) == ["a", "a-2"]


@pytest.mark.parametrize("damage", ["", "12 {'seed': 9}", None])
def test_a_damaged_file_is_written_again(
    tmp_path: Path, fake: FakeSegmenter, damage: str | None
) -> None:
    photos, output = make(tmp_path / "in", "a.png"), tmp_path / "out"
    assert statuses(run(fake, photos, output)) == ["segmented"]
    file = output / "a" / "alpha_1.png"
    whole = file.read_text()
    file.unlink()
    if damage is not None:  # empty, or with as many bytes
        file.write_text(damage.ljust(len(whole))[: len(whole)] if damage else "")
    assert statuses(run(fake, photos, output)) == ["segmented"]
    assert file.read_text() == whole
    assert statuses(run(fake, photos, output)) == ["skipped"]


def test_overwriting_does_no_photo_twice(tmp_path: Path, fake: FakeSegmenter) -> None:
    photos, output = make(tmp_path / "in", "a.png"), tmp_path / "out"
    run(fake, photos, output)
    time.sleep(0.02)  # the clock of the file system is coarse
    again = run(fake, [*photos, tmp_path / "in" / "." / "a.png"], output, overwrite=True)
    assert statuses(again) == ["segmented", "skipped"]


ODD = [
    *("..jpg", "...jpg", "....jpg", "... ", "con", "NUL.jpg", "a .jpg", "a. .jpg", " .jpg"),
    *("-x.jpg", "%s.jpg", "[red]x.jpg", "👩‍👩‍👧.jpg", "a\nb.jpg", "\x1b[31m.jpg", "\u202ex.jpg"),
    *("A.jpg", "a.jpg", "a.png", "a-2.png", "a-2.jpg", "É.jpg", "é.jpg", "e\u0301.jpg"),
    *("b" * 251 + ".jpg", "b" * 250 + "c.jpg", "猫" * 83 + ".jpg", os.fsdecode(b"\xff.jpg")),
    *(".softfeat-lock", ".a.softfeat-lock", ".a.01234567.softfeat-unfinished", "summary.json"),
]


def test_every_name_has_a_folder_of_its_own(tmp_path: Path, fake: FakeSegmenter) -> None:
    photos, output = make(tmp_path / "in", *ODD), tmp_path / "out"
    results = run(fake, photos, output)
    assert statuses(results) == ["segmented"] * len(ODD)
    folders = [result.folder for result in results]
    assert {folder.parent for folder in folders if folder} == {output}
    assert len({folder.name.casefold() for folder in folders if folder}) == len(ODD)
    for name, folder in zip(ODD, folders, strict=True):
        assert folder is not None
        assert json.loads((folder / "summary.json").read_text())["photo"] == name
    again = run(fake, photos[::-1], output)  # in any order
    assert statuses(again) == ["skipped"] * len(ODD)
    assert [result.folder for result in again] == folders[::-1]
    assert len(list(output.iterdir())) == len(ODD)


def test_a_full_disk_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = make(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    failures = iter([OSError(28, "No space left on device", "a path"), None])

    def work() -> None:
        if error := next(failures):
            raise error

    assert report(iter(run(FakeSegmenter(tmp_path / "log", work), photos, output)), 2) == 1
    first, second, last = capsys.readouterr().err.splitlines()
    reason = f"{output / 'a'} cannot be written: No space left on device"
    assert first == f"error: {photos[0]}: {reason}"
    assert second == f"2/2 {photos[1]}: 2 layers, 0.1 s"
    assert last == "1 of 2 photos failed"
    assert [p.name for p in output.iterdir()] == ["b"]


def test_an_output_that_cannot_be_written_stops_before_any_work(fake: FakeSegmenter) -> None:
    with pytest.raises(ValueError, match="output=/proc/nowhere cannot be a folder"):
        segment_photos(cast(Segmenter, fake), [], Path("/proc/nowhere"))


def test_what_is_no_photo_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(iter([]), 0, others=[Path("a\x1b.txt")]) == 0
    assert capsys.readouterr().err == "1 file is no photo: a\\x1b.txt\n"
    report(iter([]), 0, others=[Path(str(n)) for n in range(12)])
    listed = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more"
    assert capsys.readouterr().err == f"12 files are no photos: {listed}\n"


def test_a_stop_says_how_to_continue(
    tmp_path: Path, fake: FakeSegmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = make(tmp_path / "in", "a.png", "b.png", "c.png"), tmp_path / "out"

    def work() -> None:
        if len(interrupted.calls) == 2:
            signal.raise_signal(signal.SIGTERM)

    interrupted = FakeSegmenter(tmp_path / "log", work)

    def results() -> Iterator[Result]:
        return segment_photos(cast(Segmenter, interrupted), photos, output)

    with pytest.raises(Interrupted) as stopped, interruptible():
        report(results(), 3)
    assert stopped.value.status == 143
    printed = capsys.readouterr()
    assert str(stopped.value).startswith("stopped: 1 of 3 photos are finished; ")
    assert "a.png" in printed.out
    assert [p.name for p in output.iterdir()] == ["a"]  # nothing half written
    assert statuses(run(fake, photos, output)) == ["skipped", "segmented", "segmented"]


def test_a_second_signal_leaves_nothing_that_counts_as_finished(
    tmp_path: Path, fake: FakeSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the first one removes the files of the photo that is not finished."""
    photos, output = make(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"

    def work() -> None:
        if len(interrupted.calls) == 2:
            signal.raise_signal(signal.SIGINT)

    def remove(folder: Path, **_: object) -> None:
        if folder.exists():  # not yet moved
            signal.raise_signal(signal.SIGINT)

    interrupted = FakeSegmenter(tmp_path / "log", work)
    with monkeypatch.context() as patch:
        patch.setattr("softfeat.results.shutil.rmtree", remove)
        with pytest.raises(Interrupted) as stopped, interruptible():
            report(segment_photos(cast(Segmenter, interrupted), photos, output), 2)
    assert stopped.value.status == 130
    assert "1 of 2 photos are finished" in str(stopped.value)
    left = [p.name for p in output.iterdir() if p.name != "a"]
    assert left  # the removal was cut short
    assert all(name.startswith(".") for name in left)
    assert statuses(run(fake, photos, output)) == ["skipped", "segmented"]
    assert sorted(p.name for p in output.iterdir()) == ["a", "b"]
