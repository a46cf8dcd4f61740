"""The command `softfeat`."""

import json
import os
import signal
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from softfeat import cli
from softfeat.cli import main
from softfeat.imaging import documents
from softfeat.imaging.photo import MAX_PIXELS
from softfeat.matting import soft_segmentation
from tests.helpers.photos import picture, write_checkpoint

NAMES = [
    "photo (1).jpg",
    "a,b.jpg",
    "it's.jpg",
    '"quoted".jpg',
    "#1.jpg",
    "a=b.jpg",
    "~x.jpg",
    "[1].jpg",
    "{a}.jpg",
    "*.jpg",
    "$HOME.jpg",
    "[bold]x.jpg",
    ":smile:.jpg",
    "naïve 猫.jpg",
    "-leading.jpg",
    "no suffix",
    ".hidden.jpg",
    "a.b.c.jpg",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt", clicks=True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a photo in it."""
    monkeypatch.chdir(tmp_path)
    picture().save("a.png")
    return tmp_path


class Command:
    """`softfeat`, in this process, with a tiny network and small layers."""

    def __init__(self, checkpoint: Path) -> None:
        self.options = ["--weights", str(checkpoint), "--size", "32"]

    def __call__(self, name: str, *arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(main, [name, *self.options, *arguments], input=stdin)


@pytest.fixture
def command(checkpoint: Path) -> Command:
    return Command(checkpoint)


def test_photos_become_folders(command: Command, here: Path) -> None:
    done = command("segment", "a.png", "-k", "2", "--bits", "16")
    assert done.exit_code == 0
    assert done.stderr.startswith("1/1 a.png: 2 layers, ")
    assert "a.png" in done.stdout
    assert "layers/a" in done.stdout
    summary = json.loads((here / "layers" / "a" / "summary.json").read_text())
    assert (summary["photo"], len(summary["coverage"])) == ("a.png", 2)
    assert summary["settings"]["bits"] == 16
    assert np.asarray(Image.open(here / "layers" / "a" / "alpha_1.png")).dtype == np.uint16


def test_file_names_of_every_kind(command: Command, here: Path) -> None:
    for name in NAMES:
        picture(32, 40).save(here / name, "JPEG")
    done = command("segment", "--json", "-o", "out", "--", *NAMES)
    assert done.exit_code == 0, done.output
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["photo"] for r in results] == NAMES
    for name, result in zip(NAMES, results, strict=True):
        summary = json.loads((Path(result["folder"]) / "summary.json").read_text())
        assert summary["photo"] == name
    assert len({r["folder"] for r in results}) == len(NAMES)
    again = command("segment", "-o", "out", "--", *NAMES)  # as a table
    assert again.exit_code == 0
    assert again.stdout.count("skipped") == len(NAMES)
    assert "[bold]x.jpg" in again.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_is_no_text(command: Command, here: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (here / "a.png").rename(name)
    (here / os.fsdecode(b"\xfe.png")).touch()
    done = command("segment", name, os.fsdecode(b"\xfe.png"))
    assert done.exit_code == 1
    assert (here / "layers" / os.fsdecode(b"\xff") / "summary.json").is_file()
    assert done.stderr.count("\n") == 3  # the photos, and the count
    assert r"1/2 \xff.png: " in done.stderr
    assert r"error: \xfe.png: " in done.stderr


def test_a_folder_of_photos(command: Command, here: Path) -> None:
    (here / "photos (new)").mkdir()
    for name in ("b.jpg", "c.PNG"):
        picture().save(here / "photos (new)" / name)
    (here / "photos (new)" / "notes.txt").touch()
    (here / "photos (new)" / "deep").mkdir()
    picture().save(here / "photos (new)" / "deep" / "no suffix", "PNG")
    output = str(here / "photos (new)" / "layers")
    for _ in range(2):  # what it wrote is not segmented
        done = command("segment", "photos (new)", "a.png", "a.png", "--json", "-o", output)
        assert done.exit_code == 0
        photos = [json.loads(line)["photo"] for line in done.stdout.splitlines()]
        inside = ("b.jpg", "c.PNG", "deep/no suffix")
        assert photos == [*(f"photos (new)/{name}" for name in inside), "a.png"]
        assert done.stderr == "1 file is no photo: photos (new)/notes.txt\n"


def test_the_real_command(checkpoint: Path, here: Path) -> None:
    name = "-it's [1], ~50% (naïve).png"
    (here / "a.png").rename(name)
    options = ["--weights", str(checkpoint), "--size", "32", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "softfeat", "segment", *options, "--", name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["photo"], result["status"]) == (name, "segmented")
    assert (here / result["folder"] / "layers.psd").is_file()
    assert done.stderr == ""


def test_finished_photos_are_skipped(command: Command, here: Path) -> None:
    def status(*options: str) -> str:
        done = command("segment", "a.png", "--json", *options)
        assert done.exit_code == 0
        return json.loads(done.stdout)["status"]

    assert status() == "segmented"
    assert status() == "skipped"
    assert status("--overwrite") == "segmented"
    assert status("--seed", "1") == "segmented"
    assert status("--seed", "1") == "skipped"
    assert [p.name for p in (here / "layers").iterdir()] == ["a"]


def test_a_bad_photo_stops_no_other(command: Command, here: Path) -> None:
    (here / "bad\n.jpg").write_text("not a picture")
    (here / "empty").mkdir()
    picture(20, 90).save("small.png")
    arguments = ["missing.jpg", "bad\n.jpg", "empty", "small.png", "a.png"]
    done = command("segment", *arguments)
    assert done.exit_code == 1
    *lines, last = done.stderr.splitlines()
    assert last == "4 of 5 photos failed"
    assert lines[0] == "error: missing.jpg: no such file"
    assert lines[1].startswith(r"error: bad\n.jpg: ")
    assert lines[2].startswith("error: empty: no photos in this folder and its subfolders: add")
    assert lines[3].startswith("error: small.png: 90x20 pixels: a photo needs 32 or more")
    assert lines[4].startswith("5/5 a.png: ")
    assert len(lines) == 5
    assert [p.name for p in (here / "layers").iterdir()] == ["a"]
    done = command("segment", *arguments, "--json")
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == ["failed"] * 4 + ["skipped"]
    assert json.loads(done.stdout.splitlines()[0])["error"] == "no such file"


def test_a_name_that_is_too_long(command: Command, here: Path) -> None:
    done = command("segment", "a" * 300 + ".jpg", "a.png")
    assert done.exit_code == 1
    assert "File name too long" in done.stderr
    assert [p.name for p in (here / "layers").iterdir()] == ["a"]


def test_standard_input(command: Command, here: Path) -> None:
    photo = (here / "a.png").read_bytes()
    done = command("segment", "-", "--json", stdin=photo)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["photo"], result["folder"]) == ("standard input", "layers/stdin")
    again = command("segment", "-", "--json", stdin=photo)
    assert json.loads(again.stdout)["status"] == "skipped"
    stream = BytesIO()
    picture(seed=1).save(stream, "PNG")
    other = command("segment", "-", "--json", stdin=stream.getvalue())
    assert json.loads(other.stdout)["folder"] == "layers/stdin-2"  # nothing is replaced
    bad = command("segment", "-", stdin=b"not a picture")
    assert bad.exit_code == 1
    assert bad.stderr.startswith("error: standard input: unreadable")


def test_several_processes_write_the_same(command: Command, here: Path) -> None:
    for seed in (1, 2):
        picture(seed=seed).save(here / f"{seed}.png")
    Path("broken.jpg").write_bytes(b"\xff\xd8 nothing")
    names = ["a.png", "1.png", "broken.jpg", "2.png"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: another number rounds differently
    try:
        one = command("segment", *names, "-o", "one", "--json")
    finally:
        torch.set_num_threads(threads)
    many = command("segment", *names, "-o", "many", "--json", "-j", "2")
    assert (one.exit_code, many.exit_code) == (1, 1)
    assert many.stderr.count("broken.jpg") == one.stderr.count("broken.jpg")
    expected, found = (
        {line["photo"]: line for line in map(json.loads, done.stdout.splitlines())}
        for done in (one, many)
    )
    assert set(found) == set(expected) == set(names)
    for name in ("a.png", "1.png", "2.png"):
        assert found[name]["coverage"] == expected[name]["coverage"]
        alphas = (here / folder / Path(name).stem / "alpha_1.png" for folder in ("one", "many"))
        assert len({file.read_bytes() for file in alphas}) == 1
    again = command("segment", *names, "-o", "many", "--json", "-j", "2")
    assert [json.loads(line)["status"] for line in again.stdout.splitlines()].count("skipped") == 3


def test_a_cutout(command: Command, here: Path) -> None:
    done = command("cutout", "a.png", "--include", "40,30", "--exclude", "5,5", "--matte", "m.png")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote cutout.png\n")
    saved, matte = Image.open(here / "cutout.png"), Image.open(here / "m.png")
    assert (saved.mode, saved.size, matte.mode) == ("RGBA", (80, 60), "L")
    np.testing.assert_array_equal(np.asarray(saved)[..., 3], np.asarray(matte))
    assert matte.getpixel((40, 30)) > 220
    assert matte.getpixel((5, 5)) < 35
    done = command("cutout", "-", "--box", "0,0,80,60", "-o", "-", stdin=Path("a.png").read_bytes())
    assert done.exit_code == 0
    whole = Image.open(BytesIO(done.stdout_bytes))
    assert (whole.format, whole.size) == ("PNG", (80, 60))
    assert command("cutout", "a.png", "-o", "new/b.png").exit_code == 0  # the subject
    assert (here / "new" / "b.png").is_file()


def test_a_cutout_before_a_background(command: Command, here: Path) -> None:
    clicks = ["--include", "40,30", "--exclude", "5,5"]
    Image.new("RGB", (10, 30), (9, 8, 200)).save(here / "blue.png")
    for background, corner in (("#102030", (16, 32, 48)), ("blue.png", (9, 8, 200))):
        done = command("cutout", "a.png", *clicks, "--background", background)
        assert done.exit_code == 0, done.stderr
        saved = Image.open(here / "cutout.png")
        assert (saved.mode, saved.size) == ("RGB", (80, 60))
        assert np.abs(np.subtract(saved.getpixel((5, 5)), corner)).max() <= 20
    done = command("cutout", "a.png", *clicks, "--background", "nothing.png")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: nothing.png: no such file")


def test_the_border_of_a_cutout_can_be_moved(command: Command, here: Path) -> None:
    def area(*options: str) -> float:
        done = command("cutout", "a.png", "--include", "40,30", "--exclude", "5,5", *options)
        assert done.exit_code == 0, done.stderr
        return float(np.asarray(Image.open(here / "cutout.png"))[..., 3].mean())

    assert area("--grow", "-3") < area() < area("--grow", "3")
    assert area("--feather", "5") == pytest.approx(area(), abs=12)


def test_weights_without_a_click_network_are_named(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_checkpoint(tmp_path_factory.mktemp("other") / "best.ckpt")
    done = CliRunner().invoke(main, ["cutout", "a.png", "--weights", str(other)])
    assert done.exit_code == 1
    assert "answer no clicks" in done.stderr
    assert not (here / "cutout.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "--include", "1,1"], "Error: missing.png: no such file"),
        (["a.png", "--include", "80,1"], "Error: a.png: point 80, 1 is outside the photo"),
        (["a.png", "--include", "-1,1"], "Error: a.png: point -1, 1 is outside the photo"),
        (["a.png", "--include", "1,1", "-o", "a.png/b.png"], "Error: a.png/b.png: "),
        (["a.png", "--include", "1,1", "-o", "x" * 300 + ".png"], "Error: xxx"),
        (["\x1b.png", "--include", "1,1"], r"Error: \x1b.png: no such file"),
    ],
)
def test_cutouts_that_fail(
    command: Command, here: Path, arguments: list[str], message: str
) -> None:
    done = command("cutout", *arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment"], "Missing argument 'PHOTO...'"),
        (["segment", "a.png", "-k", "many"], "neither a whole number nor auto"),
        (["segment", "a.png", "-k", "41"], "41 is not in the range 1 to 40"),
        (["segment", "a.png", "--size", "16"], "16 is not in the range x>=32"),
        (["segment", "a.png", "--threads", "0"], "0 is not in the range x>=1"),
        (["segment", "a.png", "--bits", "12"], "'12' is not one of '8', '16'"),
        (["segment", "a.png", "--weights", "nowhere"], "no checkpoint at nowhere"),
        (
            ["segment", "a.png", "--device", "abacus"],
            "device abacus is not available here: choose cpu",
        ),
        (["segment", "a.png", "-o", "a.png"], "'a.png' is a file"),
        (["segment", "a.png", "-o", "a.png/b"], "output=a.png/b cannot be a folder"),
        (["segment", ""], "Invalid value for 'PHOTO...': it is empty"),
        (["segment", "a.png", "-o", ""], "Invalid value for '-o' / '--output': it is empty"),
        (["segment", "a.png", "--weights", ""], "it is empty"),
        (["segment", "a.png", "--\x1b[31m"], r"--\x1b[31m"),
        (["cutout", "", "--include", "1,1"], "it is empty"),
        (["cutout", "a.png", "--include", "1,1", "-o", ""], "it is empty"),
        (["cutout", "a.png", "--matte", "m.jpg"], "choose a name in .png"),
        (["cutout", "a.png", "--matte", "a.png"], "is the photo"),
        (["cutout", "a.png", "--matte", "cutout.png"], "are the same file"),
        (["cutout", "a.png", "--background", "a.png", "-o", "a.png"], "is the photo"),
        (["cutout", "a.png", "--feather", "-1"], "-1.0 is not in the range"),
        (["cutout", "a.png", "--include", "1"], "'1' is not X,Y in whole pixels"),
        (["cutout", "a.png", "--box", "1,2,3,x"], "'1,2,3,x' is not L,T,R,B"),
        (["cutout", "a.png", "--include", "1,1", "-o", "b.jpg"], "choose a name in .png"),
        (["cutout", "a.png", "--include", "1,1", "-o", "./a.png"], "is the photo"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_usage(here: Path, checkpoint: Path, arguments: list[str], message: str) -> None:
    if "--weights" not in arguments and len(arguments) > 1:
        arguments = [arguments[0], "--weights", str(checkpoint), *arguments[1:]]
    before = sorted(here.rglob("*"))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["segment"], ["cutout"]])
def test_help_has_examples(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [*arguments, "--help"])
    assert done.exit_code == 0
    assert "Examples:\n" in done.stdout
    assert f"  softfeat {arguments[0] if arguments else 'segment'} photo.jpg" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_continues(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    picture(seed=1).save("b.png")
    save = documents.write_ora

    def stop(path: Path, *arguments: Any) -> None:
        if ".b." in str(path):
            signal.raise_signal(number)
        save(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(documents, "write_ora", stop)
        done = command("segment", "a.png", "b.png")
    assert done.exit_code == 128 + number
    assert "ed: 1 of 2 photos are finished; the same command continues" in done.stderr
    assert [p.name for p in (here / "layers").iterdir()] == ["a"]
    assert command("segment", "a.png", "b.png").exit_code == 0


@pytest.mark.slow
def test_several_processes_stop_together(checkpoint: Path, here: Path) -> None:
    for seed in range(12):
        picture(300, 400, seed).save(here / f"{seed}.png")
    options = ["--weights", str(checkpoint), "-j", "2", "-o", "layers"]
    command = [sys.executable, "-m", "softfeat", "segment", *options, "."]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("1/13 ")  # the first photo is finished
        workers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "of 13 photos are finished; the same command continues" in errors
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]


def test_a_pipe_that_nobody_reads(checkpoint: Path, here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    options = ["--weights", str(checkpoint), "--size", "32", "--json"]
    command = [sys.executable, "-m", "softfeat", "segment", *options, "a.png"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_version() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("softfeat, version ")


def test_the_reader_of_photos_warns_in_one_line(command: Command, here: Path) -> None:
    picture().convert("CMYK").save(here / "new\nline.jpg")
    before = warnings.showwarning
    done = command("cutout", "new\nline.jpg", "--include", "1,1")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("warning: new\\nline.jpg: CMYK without a colour profile")
    assert warnings.showwarning is before


def test_the_limit_of_megapixels(command: Command, here: Path) -> None:
    done = command("cutout", "a.png", "--include", "1,1", "--max-megapixels", "0.0047")
    assert done.exit_code == 1
    assert "80x60" in done.stderr
    assert "--max-megapixels" in done.stderr
    whole = command("cutout", "a.png", "--include", "1,1", "--max-megapixels", "0.0048")
    assert whole.exit_code == 0
    default = {option.name: option.default for option in cli.segment.params}["max_megapixels"]
    assert round(default * 1e6) == MAX_PIXELS


def test_the_most_layers_are_those_of_soft_segmentation() -> None:
    assert cli.MOST_LAYERS == soft_segmentation.MOST_LAYERS


def test_the_page_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfeat.app.server.find_spec", lambda _: None)
    done = CliRunner().invoke(main, ["app"])
    assert done.exit_code == 2
    assert 'pip install "softfeat[app]"' in done.stderr


def test_the_page_is_for_this_computer_only() -> None:
    default = {option.name: option.default for option in cli.app.params}
    assert default["host"] == "127.0.0.1"
    assert default["share"] is False
