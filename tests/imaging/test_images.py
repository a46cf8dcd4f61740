import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from softfeat.imaging.images import read_image, resize_image

pytestmark = pytest.mark.filterwarnings("ignore::softfeat.imaging.formats.PhotoWarning")


def test_photos_come_upright_in_rgb(tmp_path: Path) -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    array[0] = 255  # a bright top row
    exif = Image.Exif()
    exif[274] = 6  # stored turned: to be rotated by 90 degrees for display
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (6, 4, 3)
    assert (image[:, -1] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_photo_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (200, 10, 10)).convert(mode).save(path)
    assert read_image(path).shape == (4, 5, 3)


RED = (204, 0, 0)
OLD_PILLOW = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow writes such files since 13"
)


@pytest.mark.parametrize(
    ("mode", "name", "colour"),
    [
        ("RGB", "a.bmp", RED),
        ("P", "a.gif", RED),
        ("1", "a.tif", (0, 0, 0)),
        ("L", "a.webp", (61, 61, 61)),
        ("CMYK", "a.tif", RED),
        ("CMYK", "a.jpg", RED),
        pytest.param("YCbCr", "a.tif", RED, marks=OLD_PILLOW),
    ],
)
def test_colours_of_other_modes(
    tmp_path: Path, mode: str, name: str, colour: tuple[int, int, int]
) -> None:
    picture = Image.new("RGB", (16, 16), RED).convert(mode, dither=Image.Dither.NONE)
    picture.save(tmp_path / name)
    assert np.abs(read_image(tmp_path / name) - np.array(colour)).max() <= 4


def transparent(mode: str) -> Image.Image:
    """A dark picture whose left half is transparent."""
    alpha = Image.new("L", (8, 4), 255)
    alpha.paste(0, (0, 0, 4, 4))
    if mode == "P":
        picture = Image.new("P", (8, 4), 1)
        picture.putpalette([9, 9, 9, 0, 0, 0])
        picture.paste(0, (0, 0, 4, 4))
        picture.info["transparency"] = 0
        return picture
    if mode == "RGB":  # one colour is transparent
        picture = Image.new("RGB", (8, 4))
        picture.paste((9, 9, 9), (0, 0, 4, 4))
        picture.info["transparency"] = (9, 9, 9)
        return picture
    picture = Image.new(mode[:-1], (8, 4))
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    transparent(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image[:, :4] == 255).all()
    assert (image[:, 4:] == 0).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert read_image(tmp_path / name).tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


def test_sixteen_bit_colours_are_scaled(tmp_path: Path) -> None:
    # a colour PNG of 16 bits, which Pillow reads but does not write

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0, 32896, 65535, 257, 514, 771)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 128, 255], [1, 2, 3]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated_photos_are_refused(tmp_path: Path, kind: str) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / "cut.png"
    for share in (0.01, 0.1, 0.5, 0.9):
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
        with pytest.raises(ValueError, match=r"cut\.png: unreadable"):
            read_image(path)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_folders_and_empty_files_are_refused(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x.jpg"
    make(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"x\.jpg: (unreadable|a folder)"):
        read_image(path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png: unreadable"):
        read_image(tmp_path / "text.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png: unreadable or truncated"):
        read_image(tmp_path / "cut.png")


def test_resizing() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 200
    assert (
        resize_image(image, (4, 2))[:, :, 0].tolist()
        == [[pytest.approx(0, abs=40)] * 1 + [pytest.approx(200, abs=40)]] * 4
    )
