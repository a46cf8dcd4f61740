"""Photos of all kinds, as their files hold them and as networks see them."""

import warnings
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from softfeat.imaging.colour import ADOBE_GAMMA, ADOBE_PRIMARIES, P3_PRIMARIES, rgb_profile
from softfeat.imaging.formats import PhotoWarning
from softfeat.imaging.photo import Photo, read_photo
from tests.helpers.photos import picture
from tests.helpers.profiles import cmyk_profile, grey_profile

P3 = rgb_profile("P3", P3_PRIMARIES)


def encoded(photo: Image.Image, kind: str, **options: object) -> BytesIO:
    buffer = BytesIO()
    photo.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_rgb_profiles_are_kept_and_shown_in_srgb(kind: str) -> None:
    photo = read_photo(encoded(picture(), kind, icc_profile=P3))
    plain = read_photo(encoded(picture(), kind))
    assert photo.profile == P3
    assert np.array_equal(photo.pixels, plain.pixels)
    assert np.abs(photo.srgb.astype(int) - plain.srgb).max() > 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize(
    "profile", [b"junk" * 40, P3[:200], grey_profile(2.2)], ids=["junk", "truncated", "grey"]
)
def test_profiles_that_do_not_fit_are_ignored(kind: str, profile: bytes) -> None:
    with pytest.warns(PhotoWarning, match="the open file: its colour profile is ignored"):
        photo = read_photo(encoded(picture(), kind, icc_profile=profile))
    assert photo.profile is None
    assert np.array_equal(photo.srgb, photo.pixels)


def test_grey_photos() -> None:
    grey = picture().convert("L")
    values = np.asarray(grey)
    converted = read_photo(encoded(grey, "PNG", icc_profile=grey_profile(1.0)))
    assert converted.profile is None
    assert (converted.pixels[values > 20][:, 0] > values[values > 20]).mean() > 0.9
    for photo in (converted, read_photo(encoded(grey, "PNG", icc_profile=P3))):
        assert (np.ptp(photo.srgb.astype(int), axis=2) <= 1).all()
    assert photo.profile == P3  # a grey photo may have the profile of an RGB space


def test_cmyk_and_lab() -> None:
    with pytest.warns(PhotoWarning, match="CMYK without a colour profile"):
        photo = read_photo(encoded(picture().convert("CMYK"), "TIFF"))
    assert np.abs(photo.srgb.astype(int) - np.asarray(picture())).mean() < 2
    with pytest.warns(PhotoWarning) as warned:
        read_photo(encoded(picture().convert("CMYK"), "JPEG", icc_profile=P3))
    assert "one of RGB colours" in str(warned[0].message)
    srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    converted = ImageCms.profileToProfile(picture(), srgb, lab, outputMode="LAB")
    shown = read_photo(encoded(converted, "TIFF")).srgb.astype(int)
    assert np.abs(shown - np.asarray(picture())).mean() < 2


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("JPEG", {"quality": 100})])
def test_cmyk_is_converted_by_its_profile(kind: str, options: dict[str, int]) -> None:
    colours = np.random.default_rng(0).integers(30, 226, (16, 3), np.uint8)
    colours[0], colours[15] = 255, 0  # paper, and the black point
    inks = np.array(list(product([0, 255], repeat=4)), np.uint8)  # (16,4)
    patches = inks.repeat(16, 0)[None].repeat(16, 0)  # (16,256,4)
    file = encoded(
        Image.fromarray(patches, "CMYK"), kind, icc_profile=cmyk_profile(colours), **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = read_photo(file)
    assert photo.profile is None  # outputs are sRGB
    shown = photo.pixels[8, 8::16].astype(int)
    assert np.abs(shown - colours).max() <= 3  # the profile holds Lab with 8 bits
    naive = np.asarray(Image.fromarray(patches, "CMYK").convert("RGB"))[8, 8::16]
    assert np.abs(shown - naive).mean() > 50


def test_adobe_rgb_by_exif() -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 2}
    photo = read_photo(encoded(picture(), "JPEG", exif=exif))
    assert photo.profile == rgb_profile("Adobe RGB (1998)", ADOBE_PRIMARIES, gamma=ADOBE_GAMMA)
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 1}
    assert read_photo(encoded(picture(), "JPEG", exif=exif)).profile is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = encoded(picture(), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    photo = read_photo(file)
    assert np.array_equal(photo.pixels, expected)
    assert photo.pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_is_ignored(kind: str) -> None:
    file = encoded(picture(), kind, exif=b"Exif\0\0XX\0\0" + bytes(20))
    with pytest.warns(PhotoWarning, match="EXIF data is damaged"):
        photo = read_photo(file)
    assert np.array_equal(photo.pixels, np.asarray(Image.open(file).convert("RGB")))


def test_metadata_is_kept_without_the_location() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright], exif[ExifTags.Base.Artist] = "Free", "Ann"
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (52.0, 31.0, 0.0)}
    metadata = read_photo(encoded(picture(), "JPEG", exif=exif, dpi=(300, 200))).metadata
    assert vars(metadata) == {"dpi": (300, 200), "copyright": "Free", "artist": "Ann"}


def test_alpha() -> None:
    pixels = np.asarray(picture())
    alpha = np.linspace(0, 255, pixels[..., 0].size).astype(np.uint8).reshape(pixels.shape[:2])
    photo = read_photo(encoded(Image.fromarray(np.dstack([pixels, alpha])), "PNG"))
    assert np.array_equal(photo.pixels, pixels)  # not multiplied
    assert np.array_equal(photo.alpha, alpha)
    share = alpha[..., None] / 255
    assert np.abs(photo.srgb - (pixels * share + 255 * (1 - share))).max() <= 1
    opaque = Image.fromarray(np.dstack([pixels, np.full_like(alpha, 255)]))
    assert read_photo(encoded(opaque, "PNG")).alpha is None
    with pytest.warns(PhotoWarning, match="transparent everywhere"):
        read_photo(encoded(Image.new("RGBA", (8, 8)), "PNG"))


def test_sixteen_bits_are_shown_with_eight() -> None:
    pixels = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1000
    alpha = np.full((4, 4), 65535, np.uint16)
    alpha[0, 0] = 0
    shown = Photo(pixels, alpha).srgb
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(shown[1:], np.rint(pixels[1:] / 257))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_the_first_of_several_pictures(kind: str) -> None:
    other = Image.new("RGB", picture().size)
    file = encoded(picture(), kind, save_all=True, append_images=[other, picture(seed=1)])
    with pytest.warns(PhotoWarning, match="only the first of its 3 pictures"):
        photo = read_photo(file)
    assert np.abs(photo.srgb.astype(int) - np.asarray(picture())).mean() < 12


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16B"


@pytest.mark.parametrize("mode", MODES.split())
@pytest.mark.filterwarnings("ignore::softfeat.imaging.formats.PhotoWarning")
def test_pil_pictures_of_any_mode(mode: str) -> None:
    assert read_photo(Image.new(mode, (7, 5))).srgb.shape == (5, 7, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_deep_arrays_stay_deep(dtype: type) -> None:
    values = np.linspace(0, 1, 300).reshape(10, 10, 3)
    array = (values * 65535).astype(dtype) if dtype == np.uint16 else values.astype(dtype)
    photo = read_photo(array)
    assert photo.pixels.dtype == np.uint16
    assert np.abs(photo.pixels - values * 65535).max() <= 1
    assert read_photo(np.zeros((4, 4, 3), np.uint8)).pixels.dtype == np.uint8


def test_the_limit_of_pixels(tmp_path: Path) -> None:
    Image.new("L", (200, 150)).save(tmp_path / "large.png")
    assert read_photo(tmp_path / "large.png", max_pixels=30_000).pixels.shape == (150, 200, 3)
    with pytest.raises(
        ValueError, match=r"large\.png: 200x150 .* limit is 0\.0; .*--max-megapixels"
    ):
        read_photo(tmp_path / "large.png", max_pixels=29_999)
