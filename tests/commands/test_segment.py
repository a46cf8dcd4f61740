import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from softfeat.commands.segment import main
from softfeat.imaging import documents
from tests.helpers.photos import picture, write_checkpoint

ALWAYS = {"layers.psd", "layers.ora", "overview.png", "summary.json"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one photo."""
    (tmp_path / "photos").mkdir()
    picture().save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


class Command:
    """The command line, in this process, with its exit status."""

    def __init__(self, checkpoint: Path, photos: Path, output: Path) -> None:
        self.given = {"input": photos, "output": output, "checkpoint": checkpoint}

    def __call__(self, *options: str, **given: object) -> int:
        keys = {**self.given, "size": 48, "layers": 3, **given}
        arguments = [*(f"{key}={value}" for key, value in keys.items()), *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["segment", *arguments])
            try:
                main()
            except SystemExit as stopped:
                return int(stopped.code or 0)
        return 0


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(checkpoint: Path, photos: Path, output: Path) -> Command:
    return Command(checkpoint, photos, output)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_photo_becomes_layers(command: Command, photos: Path, output: Path) -> None:
    assert command("select.point=[40,30]", bits=16) == 0
    folder = output / "a"
    told = summary(folder)
    count = len(told["coverage"])
    assert 2 <= count <= 3
    numbers = range(1, count + 1)
    layers = {f"layer_{k}.png" for k in numbers} | {f"alpha_{k}.png" for k in numbers}
    assert {p.name for p in folder.iterdir()} == ALWAYS | layers | {"selection.png", "cutout.png"}
    assert [p.name for p in output.iterdir()] == ["a"]

    photo = read(photos / "a.png")
    alphas = np.stack([read(folder / f"alpha_{k}.png") for k in numbers])
    assert alphas.dtype == np.uint16
    assert alphas.shape[1:] == photo.shape[:2]
    assert np.abs(alphas.sum(0, dtype=int) - 65535).max() <= count
    assert alphas.mean((1, 2)) / 65535 == pytest.approx(told["coverage"], abs=1e-3)
    colours = np.stack([read(folder / f"layer_{k}.png") for k in numbers])
    assert np.abs(colours[..., 3] / 255 - alphas / 65535).max() <= 0.51 / 255
    mixed = (colours[..., :3] * (alphas / 65535)[..., None]).sum(0)
    assert np.abs(mixed - photo).max() < 2
    psd = PSDImage.open(folder / "layers.psd")
    assert [layer.has_mask() for layer in psd] == [True] * count
    shown = np.asarray(psd.composite(force=True, ignore_preview=True).convert("RGB"))
    assert np.abs(shown.astype(int) - photo).max() <= 1
    matte = read(folder / "selection.png")
    assert matte[30, 40] >= alphas[:, 30, 40].max()
    assert np.array_equal(read(folder / "cutout.png")[..., 3], np.rint(matte / 257))

    assert (told["photo"], told["size"], told["working_size"]) == ("a.png", [80, 60], [48, 36])
    assert told["settings"] == {
        "layers": 3, "size": 48, "seed": 0, "bits": 16, "masks": True, "point": [40, 30],
        "box": None, "backend": "fast_slic", "features_sizes": [320, 448],
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", told["weights"])
    assert all(seconds >= 0 for seconds in told["seconds"].values())


def test_what_is_done_is_not_done_again(
    command: Command, photos: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    capsys.readouterr()
    folder = output / "a"

    def changed(**given: object) -> bool:
        before = (folder / "summary.json").stat().st_mtime_ns
        assert command(**given) == 0
        return (folder / "summary.json").stat().st_mtime_ns != before

    assert not changed()
    assert "skipped" in capsys.readouterr().out
    assert changed(layers=2)
    assert not (folder / "alpha_3.png").exists()  # of the run before
    assert changed(seed=1)
    assert not changed(seed=1)
    os.utime(photos / "a.png", (1, 1))
    assert changed(seed=1)
    (folder / "layers.psd").unlink()
    assert changed(seed=1)
    other = folder.parent / "other.ckpt"
    shutil.copy(command.given["checkpoint"], other)
    assert not changed(seed=1, checkpoint=other)
    assert changed(seed=1, checkpoint=write_checkpoint(other, seed=1))


def test_what_others_wrote_stays(command: Command, output: Path) -> None:
    mine = output / "a"
    mine.mkdir(parents=True)
    (mine / "alpha_mine.png").write_text("mine")
    (mine / "overview.png").write_text("mine")
    for text in (None, '{"photo": "a.png"', '{"input": []}', '{"input": [], "files": [1]}'):
        if text is not None:
            (mine / "summary.json").write_text(text)
        assert command() == 0
        assert (mine / "overview.png").read_text() == "mine"
        assert (mine / "alpha_mine.png").read_text() == "mine"
        assert (output / "a-2" / "summary.json").is_file()
    assert {p.name for p in output.iterdir()} == {"a", "a-2"}


def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(
    command: Command, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(documents, "write_ora", full)
        assert command() == 1
    assert not list(output.iterdir())
    assert command() == 0
    assert (output / "a" / "summary.json").is_file()


def test_a_bad_photo_does_not_stop_the_others(
    command: Command, photos: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_text("not a picture")
    (photos / "c.jpg").mkdir()
    picture(20, 90).save(photos / "d.jpg")
    picture().save(photos / "e.jpg")
    assert command() == 1
    said = capsys.readouterr()
    assert {p.name for p in output.iterdir()} == {"a", "e"}
    assert "3 of 5 photos failed" in said.err
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        assert name in said.out


def test_photos_of_one_name_have_folders_of_their_own(
    command: Command, photos: Path, output: Path
) -> None:
    picture(seed=1).save(photos / "a.jpg")
    (photos / "deeper").mkdir()
    picture(seed=2).save(photos / "deeper" / "a.png")
    inputs = f"[{photos},{photos / 'deeper'}]"
    for _ in range(2):
        assert command(input=inputs) == 0
        names = {p.name: summary(p)["input"][0] for p in output.iterdir()}
        assert names == {
            "a": str(photos / "a.jpg"),
            "a-2": str(photos / "a.png"),
            "a-3": str(photos / "deeper" / "a.png"),
        }
    before = (output / "a" / "summary.json").stat().st_mtime_ns
    assert command(input=photos / "deeper") == 0
    assert (output / "a" / "summary.json").stat().st_mtime_ns == before
    assert len(list(output.iterdir())) == 3


def upright(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture(40, 70).save(path, exif=exif)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257).save(path)


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("exif.jpg", upright, (40, 70)),
        ("grey.png", lambda path: picture().convert("L").save(path), (80, 60)),
        ("bilevel.png", lambda path: picture().convert("1").save(path), (80, 60)),
        ("palette.gif", lambda path: picture().convert("P").save(path), (80, 60)),
        ("alpha.png", lambda path: picture().convert("RGBA").save(path), (80, 60)),
        ("sixteen.png", sixteen_bits, (80, 60)),
        ("cmyk.jpg", lambda path: picture().convert("CMYK").save(path), (80, 60)),
        ("tiny.png", lambda path: picture(32, 32).save(path), (32, 32)),
        ("wide.png", lambda path: picture(40, 2000).save(path), (2000, 40)),
        ("constant.png", lambda path: Image.new("RGB", (64, 48), "teal").save(path), (64, 48)),
    ],
)
def test_any_photo(
    command: Command, tmp_path: Path, output: Path, name: str, make: object, size: tuple[int, int]
) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    assert command(input=path) == 0
    told = summary(output / path.stem)
    assert told["size"] == list(size)
    assert sum(told["coverage"]) == pytest.approx(1, abs=1e-3)
    assert Image.open(output / path.stem / "alpha_1.png").size == size
    assert PSDImage.open(output / path.stem / "layers.psd").size == size


@pytest.mark.parametrize(
    ("photo", "reason"),
    [((31, 90), "32 or more"), ((32, 3300), "100 times"), ((60, 80), "not inside the photo")],
)
def test_photos_that_cannot_be_done_are_named(
    command: Command,
    photos: Path,
    photo: tuple[int, int],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture(*photo).save(photos / "a.png")
    options = ["select.box=[0,0,81,60]"] if photo == (60, 80) else []
    assert command(*options) == 1
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "a.png" in said
    assert reason in said


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("layers=0", "layers=0"),
        ("layers=many", "layers=many"),
        ("size=16", "size=16"),
        ("bits=12", "bits=12"),
        ("seed=0.5", "seed=0.5"),
        ("select.point=[1]", "select.point=[1]"),
        ("select.point=5", "select.point=5"),
        ("select={point:[1,1],box:[0,0,5,5]}", "set one of them"),
        ("input=nowhere/*.jpg", "nowhere/*.jpg: set input"),
        ("input=", "input= is empty"),
        ("input=[]", "input= has no names"),
        ("input={a:1}", "input= has no names"),
        ("output=", "output= is empty"),
        ("checkpoint=", "checkpoint= is empty"),
        ("checkpoint=nowhere.ckpt", "no checkpoint at nowhere.ckpt"),
        ("output=LICENSE", "output=LICENSE"),
        ("output=LICENSE/deeper", "output=LICENSE/deeper"),
    ],
)
def test_bad_settings_stop_before_any_work(
    command: Command, output: Path, option: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _, value = option.partition("=")
    assert (command(option) if "." in key or key == "select" else command(**{key: value})) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert reason in said.err
    assert "segmenting" not in said.out
    assert not list(output.glob("*"))


def test_without_input_a_photo_is_at_hand(command: Command, output: Path) -> None:
    assert command(input="null") == 0
    assert summary(output / "astronaut")["size"] == [512, 512]


@pytest.mark.parametrize("name", ["2024_06_01", "1e5", "a=b", "it's (1), 50%"])
def test_names_are_text(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(photos)
    (photos / "a.png").rename(name)
    assert command(input=name, output=f"../{name}") == 0
    assert summary(photos.parent / name / name)["photo"] == name


def test_null_is_a_name_of_a_folder(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    assert command(output="null") == 0
    assert summary(photos.parent / "null" / "a")["photo"] == "a.png"
