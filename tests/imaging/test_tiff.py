"""TIFF files of 16 bits and of floats."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from softfeat.imaging.formats import PhotoWarning
from softfeat.imaging.photo import read_photo

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 65535, (40, 30, 3), np.uint16)
ALPHA = RNG.integers(1, 65535, (40, 30, 1), np.uint16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "lzw", "predictor": 2},
        {"compression": "zlib", "predictor": 2},
        {"compression": "zstd"},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
    ],
)
def test_sixteen_bits_stay(tmp_path: Path, options: dict) -> None:
    pixels = RGB.transpose(2, 0, 1) if "planarconfig" in options else RGB
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **options)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.pixels.dtype == np.uint16
    assert np.array_equal(photo.pixels, RGB)
    assert photo.alpha is None


def test_grey(tmp_path: Path) -> None:
    for colours, expected in (("minisblack", RGB[..., 0]), ("miniswhite", 65535 - RGB[..., 0])):
        tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], photometric=colours)
        assert np.array_equal(read_photo(tmp_path / "a.tif").pixels[..., 1], expected)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha(tmp_path: Path, kind: str) -> None:
    stored = RGB
    if kind == "assocalpha":
        stored = np.rint(RGB * (ALPHA / 65535)).astype(np.uint16)
    pixels = np.concatenate([stored, ALPHA], 2)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind])
    photo = read_photo(tmp_path / "a.tif")
    if kind == "unspecified":  # a selection
        assert photo.alpha is None
    else:
        assert np.array_equal(photo.alpha, ALPHA[..., 0])
    clear = ALPHA[..., 0] > 20_000
    assert np.abs(photo.pixels[clear].astype(int) - RGB[clear]).max() <= 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_sixteen_bits(tmp_path: Path, dtype: type) -> None:
    values = np.linspace(0, 1, 1200).reshape(20, 20, 3).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    pixels = read_photo(tmp_path / "a.tif").pixels
    assert np.array_equal(pixels, np.rint(values.astype(float) * 65535))


def test_twelve_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 2048, 4095]], np.uint16)
    try:
        tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=12, compression="none")
    except NotImplementedError:
        pytest.skip("this imagecodecs reads packed integers, but does not write them")
    assert read_photo(tmp_path / "a.tif").pixels[0, :, 0].tolist() == [0, 32776, 65535]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), np.nan, np.float32), "NaN"),
        (np.full((8, 8), np.inf, np.float32), "NaN or infinity"),
        (np.full((8, 8), 255.0), r"0\.\.1"),
        (np.full((8, 8), -0.5, np.float32), r"0\.\.1"),
        (np.full((8, 8), 70_000, np.int32), "do not fit 16 bits"),
        (np.full((8, 8), -1, np.int16), "do not fit 16 bits"),
        (np.full((8, 8), 1j, np.complex64), "complex"),
        (np.zeros((8, 8, 7), np.uint16), "7 channels"),
    ],
)
def test_values_without_a_meaning_are_refused(
    tmp_path: Path, values: np.ndarray, message: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=rf"a\.tif: .*{message}.*(save|mend|scale)"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", ["none", "lzw", "zlib"])
def test_truncated_files_are_refused(
    tmp_path: Path, dtype: type, compression: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    pixels = RGB.astype(dtype)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, rowsperstrip=8)
    data = path.read_bytes()
    for end in (5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"a\.tif: .*replace"):
            read_photo(path)


def test_strips_that_were_never_written_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
        tag.overwrite([*tag.value[:-1], 0])
    with pytest.raises(ValueError, match="missing"):
        read_photo(path)


def test_description_and_pages(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.stack([RGB, RGB]),
        photometric="rgb",
        resolution=(300, 150),
        resolutionunit="inch",
        metadata=None,
        extratags=[
            (274, "H", 1, 6, True),
            (315, "s", 0, "Ann", True),
            (33432, "s", 0, "Free", True),
        ],
    )
    with pytest.warns(PhotoWarning, match="first of its 2 pictures"):
        photo = read_photo(tmp_path / "a.tif")
    assert np.array_equal(photo.pixels, np.rot90(RGB, -1))
    assert photo.metadata.dpi == (150, 300)  # upright
    assert (photo.metadata.artist, photo.metadata.copyright) == ("Ann", "Free")
