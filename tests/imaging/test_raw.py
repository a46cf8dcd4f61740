"""Photos that other packages read, where they are installed."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile

from softfeat.imaging.photo import read_photo
from tests.helpers.photos import picture


def test_heic_of_ten_bits() -> None:
    heif = pytest.importorskip("pillow_heif")
    values = np.array(picture()).astype(np.uint16) * 257
    values[:20, :20] = 65535
    buffer = BytesIO()
    heif.encode("RGB;16", (80, 60), values.tobytes(), buffer, quality=-1)
    photo = read_photo(buffer)
    assert photo.pixels.dtype == np.uint16
    assert photo.profile is None
    assert np.abs(photo.pixels.astype(int) - values).mean() < 600
    assert np.median(photo.pixels[2:16, 2:16]) == 65535


def test_a_raw_file_is_developed(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    matrix = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    tags = [
        (50706, "B", 4, (1, 4, 0, 0), True),  # version of DNG
        (33421, "H", 2, (2, 2), True),  # colours of the sensor
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50708, "s", 0, "Test Camera", True),
        (50717, "H", 1, 16383, True),  # white
        (50721, "2i", 9, matrix, True),
        (50778, "H", 1, 21, True),  # daylight
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
        (274, "H", 1, 6, True),
    ]
    sensor = np.random.default_rng(0).integers(2000, 14000, (128, 160), np.uint16)
    tifffile.imwrite(tmp_path / "a.dng", sensor, photometric="cfa", metadata=None, extratags=tags)
    shutil.copy(tmp_path / "a.dng", tmp_path / "a")  # recognised without its name
    for name in ("a.dng", "a"):
        photo = read_photo(tmp_path / name)
        assert photo.pixels.shape == (160, 128, 3)  # upright
        assert photo.pixels.dtype == np.uint16
