"""What is opened, and what is refused."""

import os
import re
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from softfeat.imaging.images import open_picture
from softfeat.imaging.photo import read_photo
from tests.helpers.photos import picture


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # which would wait for a writer
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "link.jpg"):
        with pytest.raises(ValueError, match=rf"{name}: a pipe or device"):
            read_photo(tmp_path / name)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(ValueError, match=r"loop\.jpg: cannot be opened"):
        read_photo(tmp_path / "loop.jpg")
    with pytest.raises(FileNotFoundError, match=r"dangling\.jpg"):
        read_photo(tmp_path / "dangling.jpg")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "PCX", "SGI", "DDS"])
def test_other_formats_of_pillow_are_refused(tmp_path: Path, kind: str) -> None:
    picture().save(tmp_path / "a.jpg", kind)
    with pytest.raises(ValueError, match=r"a\.jpg: unreadable: no photo of a known kind .*JPEG"):
        read_photo(tmp_path / "a.jpg")


def test_streams_that_cannot_seek() -> None:
    reading, writing = os.pipe()
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    os.write(writing, buffer.getvalue())
    os.close(writing)
    with open(reading, "rb") as stream:  # noqa: PTH123
        assert np.array_equal(read_photo(stream).pixels, np.asarray(picture()))


def test_a_jpeg_without_its_end_is_refused(tmp_path: Path) -> None:
    """Pillow reads zeros in the place of the last rows as a picture."""
    path = tmp_path / "a.jpg"
    thumbnail = b"Exif\0\0" + b"\xff\xd9" * 8  # an end within the description is no end
    picture(200, 300).save(path, quality=95, exif=thumbnail)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2] + bytes(len(data) // 2), data[:-2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.jpg: unreadable or truncated .*end is missing"):
            read_photo(path)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_a_truncated_file_is_refused_in_plain_words(
    tmp_path: Path, kind: str, share: float
) -> None:
    picture(200, 300).save(tmp_path / "a", kind)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: max(20, int(len(data) * share))])
    with pytest.raises(ValueError, match=r"a: (unreadable|a picture without)") as error:
        read_photo(tmp_path / "a")
    assert not re.search(r"b'|b\"|<_io", str(error.value))  # nothing of Python's


@pytest.mark.parametrize(
    ("head", "package", "extra"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow_heif", "heif"),
        (b"II*\0\x10\0\0\0CR\x02\0", "rawpy", "raw"),
    ],
)
def test_missing_extras_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, package: str, extra: str
) -> None:
    (tmp_path / "a").write_bytes(head + bytes(100))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'a: .*pip install "softfeat\[{extra}\]"'):
        read_photo(tmp_path / "a")
    monkeypatch.undo()
    pytest.importorskip(package)
    with pytest.raises(ValueError, match="a: unreadable") as error:
        read_photo(tmp_path / "a")
    assert "b'" not in str(error.value)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_label_maps_know_how_many_pictures_their_file_holds(tmp_path: Path, kind: str) -> None:
    ids = picture().convert("L").quantize(9)
    for others, count in (([], 1), ([ids.rotate(180)], 2)):
        ids.save(tmp_path / "a", kind, save_all=True, append_images=others)
        label = open_picture(tmp_path / "a")  # whose file is closed
        assert getattr(label, "n_frames", 1) == count
        assert np.array_equal(np.asarray(label.convert("RGB")), np.asarray(ids.convert("RGB")))
