"""Features as tables: what is in them, what is skipped, and what a stop leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pyarrow import Table, dataset

from softfeat import extraction
from softfeat.cli import main
from softfeat.extraction import extract, extract_photos, open_tables, rounded
from softfeat.imaging.images import resize_image
from softfeat.models.photo_features import features_of
from softfeat.processes import map_in_processes
from softfeat.segmenter import Segmenter
from tests.helpers.photos import picture, write_checkpoint

SETTINGS = {"version": 1}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt")
    return Segmenter(checkpoint, size=64, features_sizes=[48])


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Four photos, of which the second is none."""
    files = []
    for index in range(4):
        files.append(tmp_path / f"{index}.png")
        picture(90, 120 + 8 * index).save(files[-1])
    files[1].write_bytes(b"no photo")
    return files


def rows(folder: Path) -> Table:
    return dataset.dataset(folder, format="parquet").to_table()


def test_features_are_means_over_superpixels(segmenter: Segmenter, photos: list[Path]) -> None:
    found = extract(segmenter, photos[0], 20)
    assert found.size == (120, 90)
    assert found.superpixels.shape == (48, 64)
    count = int(found.superpixels.max()) + 1
    assert 10 <= count <= 20
    small = resize_image(np.asarray(Image.open(photos[0]).convert("RGB")), (48, 64))
    maps = features_of(segmenter.extractor, small, [48])
    large = np.stack(
        [np.asarray(Image.fromarray(plane).resize((64, 48), Image.Resampling.BILINEAR))
         for plane in maps.transpose(2, 0, 1)], -1,
    )  # fmt: skip
    for number in range(count):
        inside = found.superpixels == number
        np.testing.assert_allclose(found.features[number], large[inside].mean(0), atol=1e-4)
        assert np.abs(found.colours[number] - small[inside].mean(0)).max() <= 0.51
        y, x = (np.argwhere(inside).mean(0) + 0.5) * (90 / 48, 120 / 64)
        np.testing.assert_allclose(found.centres[number], (x, y), rtol=1e-4)
        assert found.areas[number] == pytest.approx(inside.mean())
    assert found.components.shape == (*maps.shape[:2], 3)
    assert (found.components.min((0, 1)) == 0).all()
    assert (found.components.max((0, 1)) == 255).all()


def test_tables_hold_all_photos(segmenter: Segmenter, photos: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    results = list(extract_photos(segmenter, photos, output, superpixels=20))
    assert [r.status for r in results] == ["extracted", "failed", "extracted", "extracted"]
    assert results[1].reason
    table = rows(output / "photos")
    assert table.column("photo").to_pylist() == [str(photos[n]) for n in (0, 2, 3)]
    assert table.column("width").to_pylist() == [120, 136, 144]
    parts = rows(output / "superpixels")
    for row in table.to_pylist():
        own = parts.filter(dataset.field("photo") == row["photo"])
        assert own.column("superpixel").to_pylist() == list(range(row["superpixels"]))
        ids = imagecodecs.png_decode(row["map"])
        assert ids.dtype == np.uint16
        assert np.unique(ids).tolist() == list(range(row["superpixels"]))
        assert imagecodecs.png_decode(row["components"]).shape[2] == 3
        assert sum(own.column("area").to_pylist()) == pytest.approx(1, abs=1e-5)
        features = np.stack(own.column("features").to_numpy())
        expected = extract(segmenter, Path(row["photo"]), 20).features
        np.testing.assert_allclose(features, expected, rtol=2.0**-12)
        assert features.dtype == np.float32
    assert not [path for path in output.rglob("*") if path.name.startswith(".")]


def test_finished_photos_are_skipped(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run = lambda: [r.status for r in extract_photos(segmenter, photos[2:], output)]  # noqa: E731
    assert run() == ["extracted", "extracted"]
    assert run() == ["skipped", "skipped"]
    picture(70, 50).save(photos[3])  # another file
    assert run() == ["skipped", "extracted"]
    assert rows(output / "photos").num_rows == 3


def test_files_are_written_meanwhile(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "_PHOTOS_PER_FILE", 1)
    output = tmp_path / "out"
    results = extract_photos(segmenter, photos, output)
    next(results)
    assert rows(output / "photos").num_rows == 1
    results.close()  # type: ignore[attr-defined]
    assert rows(output / "photos").num_rows == 1
    list(extract_photos(segmenter, photos[2:], output))  # nobody holds the folder any more
    assert rows(output / "superpixels").num_rows == sum(
        rows(output / "photos").column("superpixels").to_pylist()
    )


def test_what_was_extracted_is_written_at_a_stop(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    results = extract_photos(segmenter, photos, output)
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert rows(output / "photos").column("photo").to_pylist() == [str(photos[0])]


def test_leftovers_of_a_killed_process_do_not_count(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    list(extract_photos(segmenter, photos[:1], output))
    whole = next((output / "superpixels").iterdir())
    (output / "superpixels" / "alone.parquet").write_bytes(whole.read_bytes())
    (output / "photos" / ".partial-1.parquet").write_bytes(b"half")
    list(extract_photos(segmenter, photos[:1], output))
    assert [path.name for path in (output / "superpixels").iterdir()] == [whole.name]
    assert [path.name for path in (output / "photos").iterdir()] == [whole.name]


def test_several_processes(segmenter: Segmenter, photos: list[Path], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    list(extract_photos(segmenter, photos, one))
    results = list(
        extract_photos(segmenter, photos, two, map_photos=partial(map_in_processes, count=2))
    )
    assert sorted(r.status for r in results) == ["extracted", "extracted", "extracted", "failed"]
    order = [("photo", "ascending"), ("superpixel", "ascending")]
    first, second = (rows(folder / "superpixels").sort_by(order) for folder in (one, two))
    assert first.drop_columns("features").equals(second.drop_columns("features"))
    values, others = (np.stack(table["features"].to_numpy()) for table in (first, second))
    np.testing.assert_allclose(values, others, rtol=1e-3, atol=1e-5)  # other threads


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "photos" / "a.parquet").write_bytes(b"PAR1"), r"a\.parquet: it is dam"),
        (lambda out: out.rmdir() or out.write_text(""), "cannot be a folder of tables"),
    ],
)
def test_unusable_folders(
    segmenter: Segmenter, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    output = tmp_path / "out"
    if "PAR1" in message or "parquet" in message:
        (output / "photos").mkdir(parents=True)
    else:
        output.mkdir()
    spoil(output)
    with pytest.raises(ValueError, match=message):
        extract_photos(segmenter, [], output)


def test_features_of_other_settings_are_not_mixed(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path
) -> None:
    list(extract_photos(segmenter, photos[:1], tmp_path / "out", superpixels=20))
    with pytest.raises(ValueError, match="of other weights or settings: choose another folder"):
        extract_photos(segmenter, photos[:1], tmp_path / "out", superpixels=30)


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom softfeat.extraction import open_tables\n"
        f"with open_tables(Path({str(tmp_path / 'out')!r}), {SETTINGS}):\n"
        "    print('open', flush=True)\n    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"open\n"
        with (
            pytest.raises(ValueError, match="another process writes to it"),
            open_tables(tmp_path / "out", SETTINGS),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with open_tables(tmp_path / "out", SETTINGS) as tables:  # a dead process holds nothing
        assert tables.finished == set()


def test_a_full_disk_is_an_error(
    segmenter: Segmenter, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    with pytest.raises(ValueError, match="cannot be written: No space left"):
        list(extract_photos(segmenter, photos[:1], tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_rounding() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 1e3
    found = rounded(values)
    np.testing.assert_allclose(found, values, rtol=2.0**-13)
    assert (found.view(np.int32) & 0x7FF == 0).all()
    np.testing.assert_array_equal(rounded(found), found)
    assert rounded(np.float32([0, -0.5, 3])).tolist() == [0, -0.5, 3]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["extract", *map(str, arguments)])


def test_the_command(photos: list[Path], tmp_path: Path, segmenter: Segmenter) -> None:
    output = tmp_path / "out"
    options = ["-o", output, "--weights", segmenter.checkpoint, "--size", 64, "-s", 20]
    done = invoke(*photos, *options, "--json")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["extracted", "failed", "extracted", "extracted"]
    assert lines[0]["superpixels"] == rows(output / "photos")["superpixels"][0].as_py()
    again = invoke(photos[0], *options)
    assert again.exit_code == 0
    assert "skipped, it is finished" in again.stderr
    other = invoke(photos[0], *options, "--size", 80)
    assert other.exit_code == 2
    assert "other weights or settings" in other.stderr


def test_standard_input(segmenter: Segmenter, tmp_path: Path) -> None:
    stream = BytesIO()
    picture().save(stream, "PNG")
    stream.name = "standard input"
    stream.seek(0)
    (result,) = extract_photos(segmenter, [stream], tmp_path / "out")
    assert (result.photo, result.status) == ("standard input", "extracted")


def test_without_pyarrow(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "softfeat\[tables\]"'):
        extract_photos(segmenter, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(photos: list[Path], tmp_path: Path) -> None:
    for number in range(60):
        picture(100, 100 + number).save(tmp_path / f"many{number}.png")
    many = sorted(tmp_path.glob("many*.png"))
    command = [sys.executable, "-m", "softfeat", "extract", *many, "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for _ in range(3):
        process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "photos are finished" in rest
    done = rows(tmp_path / "out" / "photos").num_rows
    assert 3 <= done < 60
    time.sleep(0.1)
    assert subprocess.run([str(part) for part in command], check=False).returncode == 0
    assert rows(tmp_path / "out" / "photos").num_rows == 60
