import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from faults import pictures
from faults.labelled import RULES as SETS
from faults.pictures import MARK, RULES


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_writes_a_file_again_and_again_the_same(rule: str, tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        folder = tmp_path / str(number) / "in"
        folder.mkdir(parents=True)
        odd = RULES[rule][1](np.random.default_rng(3), folder)
        assert MARK in odd.path.name
        assert [path.name for path in folder.iterdir()] == [odd.path.name]
        ordinary = odd.path.is_file() and RULES[rule][0] != "no ordinary file"
        contents.append(odd.path.read_bytes() if ordinary else b"")
        if odd.expected is not None:
            assert odd.expected.dtype == np.uint8
            assert odd.expected.shape[2] == 3
    assert contents[0] == contents[1]


@pytest.mark.parametrize("rule", SETS)
def test_every_rule_of_sets_names_its_file(rule: str, tmp_path: Path) -> None:
    odd = SETS[rule][1](np.random.default_rng(0), tmp_path / "set")
    names = [path.name for path in (tmp_path / "set").rglob("*")]
    missing = rule in ("classes.txt missing",)
    assert missing or any(odd.named in name for name in names)


def test_a_deep_png_is_what_pillow_reads(tmp_path: Path) -> None:
    odd = RULES["png 16 bits grey"][1](np.random.default_rng(0), tmp_path)
    with Image.open(odd.path) as picture:
        assert picture.mode == "I;16"
        light = np.rint(np.asarray(picture) / 257)
    assert odd.expected is not None
    np.testing.assert_array_equal(odd.expected[..., 0], light)


def test_the_swapped_profile_exchanges_red_and_green() -> None:
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    own = ImageCms.ImageCmsProfile(io.BytesIO(pictures.swapped_profile()))
    converted = ImageCms.profileToProfile(red, own, ImageCms.createProfile("sRGB"))
    assert converted is not None
    pixel = converted.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert pixel[1] > 250
    assert max(pixel[0], pixel[2]) < 6


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_orientations_turn_as_pillow_does(kind: str, tmp_path: Path) -> None:
    for turn in range(1, 9):
        odd = RULES[f"orientation {turn} {kind}"][1](np.random.default_rng(turn), tmp_path)
        with Image.open(odd.path) as picture:
            upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        np.testing.assert_array_equal(odd.expected, upright)
        odd.path.unlink()


def test_damage_changes_the_file(tmp_path: Path) -> None:
    whole = pictures.png_bytes(1, 1, 8, 0, b"\0\5")
    assert struct.unpack_from(">II", whole, 16) == (1, 1)
    plain = RULES["intact bmp"][1](np.random.default_rng(0), tmp_path).path.read_bytes()
    for rule in ("truncated bmp", "bytes flipped bmp", "zeros at the end bmp"):
        assert RULES[rule][1](np.random.default_rng(0), tmp_path).path.read_bytes() != plain


def test_files_with_profiles_do_not_depend_on_the_time(tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        rule = RULES["tif LAB"][1]
        contents.append(rule(np.random.default_rng(3), folder).path.read_bytes())
        time.sleep(1.1)  # dates of profiles have seconds
    assert contents[0] == contents[1]
