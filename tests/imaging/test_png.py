"""PNG files: depth, colours, and damage that Pillow does not see."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softfeat.imaging.colour import D65, P3_PRIMARIES, SRGB_PRIMARIES, usable_profile
from softfeat.imaging.formats import PhotoWarning
from softfeat.imaging.images import open_picture
from softfeat.imaging.photo import Photo, read_photo
from tests.helpers.pngs import START, chunk, png

RNG = np.random.default_rng(0)


def read(data: bytes) -> Photo:
    return read_photo(BytesIO(data))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_value_changes(channels: int, dtype: type) -> None:
    pixels = RNG.integers(0, np.iinfo(dtype).max, (5, 7, channels), dtype)
    photo = read(png(pixels))
    colours = pixels[..., :1] if channels < 3 else pixels[..., :3]
    assert photo.pixels.dtype == dtype
    assert np.array_equal(photo.pixels, np.broadcast_to(colours, (5, 7, 3)))
    if channels % 2:
        assert photo.alpha is None
    else:
        assert np.array_equal(photo.alpha, pixels[..., -1])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_scaled(bits: int) -> None:
    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0\xe4")) + chunk(b"IEND", b"")
    values = read(START + chunk(b"IHDR", header) + data).pixels[0, :, 0]
    raw = [0xE4 >> shift & (2**bits - 1) for shift in range(8 - bits, -1, -bits)]
    assert values.tolist() == [value * 255 // (2**bits - 1) for value in raw]


def test_one_colour_of_sixteen_bits_is_transparent() -> None:
    pixels = np.array([[[1000, 2000, 3000], [1000, 2000, 3001]]], np.uint16)
    photo = read(png(pixels, chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))))
    assert photo.alpha.tolist() == [[0, 65535]]


def damaged(data: bytes) -> dict[str, bytes]:
    """A PNG file, damaged in ways that show pixels nevertheless."""
    at = data.index(b"IDAT")
    flipped = bytearray(data)
    flipped[at + 30] ^= 1
    length = struct.unpack(">I", data[at - 4 : at])[0]
    rows = zlib.decompress(data[at + 4 : at + 4 + length])
    short = chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + chunk(b"IEND", b"")
    start = data[: at - 4]
    return {
        "a flipped bit": bytes(flipped),
        "no end": data[:-12],
        "no last byte": data[:-1],
        "half of the rows": start + short,
        "no rows": start + chunk(b"IEND", b""),
        "zeros": data[: len(data) // 2] + bytes(len(data) // 2),
        "no header": START + data[33:],
        "a short header": START + chunk(b"IHDR", b"\0" * 5) + data[33:],
    }


NAMES = list(damaged(png(np.zeros((9, 9, 3), np.uint8))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("damage", NAMES)
def test_damaged_files_are_refused(tmp_path: Path, damage: str, dtype: type) -> None:
    data = damaged(png(RNG.integers(0, 255, (20, 30, 3), dtype)))[damage]
    (tmp_path / "a.png").write_bytes(data)
    for reader in (read_photo, open_picture):  # photos and label maps
        with pytest.raises(ValueError, match=r"a\.png: unreadable or truncated .*replace"):
            reader(tmp_path / "a.png")


def test_a_lost_palette_is_an_error() -> None:
    buffer = BytesIO()
    Image.new("P", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    at = data.index(b"PLTE") - 4
    length = struct.unpack(">I", data[at : at + 4])[0]
    with pytest.raises(ValueError, match="the open file: unreadable"):
        read(data[:at] + data[at + 12 + length :])


def test_what_is_unknown_or_huge_is_skipped(capfd: pytest.CaptureFixture) -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70_000_000), 9))
    pixels = np.zeros((4, 4, 3), np.uint8)
    photo = read(png(pixels, bomb, chunk(b"zTXt", b"x"), chunk(b"prIv", b"anything")))
    assert np.array_equal(photo.pixels, pixels)
    assert capfd.readouterr().err == ""


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 1e5)))


def chromaticities(primaries: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in (*D65, *primaries))))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], None),
        ([gamma(0.45455)], None),
        ([gamma(0.45455), chromaticities(SRGB_PRIMARIES)], None),
        ([gamma(1.0), chunk(b"sRGB", b"\0")], None),
        ([chromaticities(P3_PRIMARIES)], None),
        ([gamma(1.0)], (188, 188, 188)),
        ([gamma(0.45455), chromaticities(P3_PRIMARIES)], (128, 128, 128)),
        ([chunk(b"cICP", bytes([12, 13, 0, 1]))], (128, 128, 128)),
        ([chunk(b"cICP", bytes([1, 13, 0, 1])), gamma(1.0)], None),
    ],
)
def test_gamma_and_chromaticities(chunks: list[bytes], expected: tuple[int, ...] | None) -> None:
    pixels = np.array([[[128, 128, 128], [255, 0, 0]]], np.uint8)
    photo = read(png(pixels, *chunks))
    assert np.array_equal(photo.pixels, pixels)
    if expected is None:
        assert photo.profile is None
    else:
        assert usable_profile(photo.profile).space == "RGB"
        assert np.abs(photo.srgb[0, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("part", [gamma(0), gamma(1e-3), chunk(b"cICP", bytes([9, 16, 0, 1]))])
def test_impossible_colours_are_read_as_srgb(part: bytes) -> None:
    with pytest.warns(PhotoWarning, match="read as sRGB"):
        assert read(png(np.zeros((4, 4, 3), np.uint8), part)).profile is None
