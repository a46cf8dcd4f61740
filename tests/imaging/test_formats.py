import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from softfeat.imaging.formats import kind_of
from softfeat.imaging.images import is_picture


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = BytesIO()
    Image.new(mode, (8, 6)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"]
)
def test_kinds_are_recognised_whatever_their_names(tmp_path: Path, kind: str) -> None:
    assert kind_of(BytesIO(encoded(kind))) == kind
    for name in ("photo", "photo.txt", "photo.jpg"):
        (tmp_path / name).write_bytes(encoded(kind))
        assert is_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafavif", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "RAW"),
        (b"II*\0\x10\0\0\0CR\x02\0", "RAW"),
        (b"FUJIFILMCCD-RAW 0201", "RAW"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"P6 # made by hand\n8 6\n255\n", "PPM"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM is not a bitmap, only a text", None),
        (b"P5 is the fifth paragraph", None),
        (b"%!PS-Adobe-3.0 EPSF-3.0", None),
        (b"%PDF-1.7", None),
        (b"<svg/>", None),
        (b"\0\5\x16\7" + bytes(80), None),
        (b"", None),
    ],
)
def test_signatures(head: bytes, kind: str | None) -> None:
    assert kind_of(BytesIO(head + bytes(200) if head else head)) == kind


def test_what_is_no_picture_is_told_quietly(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "._photo.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(600))
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer
    assert not [p.name for p in tmp_path.iterdir() if is_picture(p)]
    for path in (tmp_path / "none.jpg", tmp_path / ("x" * 300), Path("/dev/zero"), Path("a\0b")):
        assert not is_picture(path)
