import numpy as np
import pytest
from PIL import ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.data import astronaut

from softfeat.imaging.colour import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    D65,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    Profile,
    rgb_profile,
)
from tests.helpers.profiles import grey_profile

# From the definitions of Display P3 and sRGB, as CSS Color 4 gives them.
P3_TO_SRGB = np.array(
    [
        [1.2249401762805598, -0.2249404167256, 0.0],
        [-0.0420569547096881, 1.0420571661573, 0.0],
        [-0.0196376, -0.0786361, 1.0982735],
    ]
)


def light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def values_of(light: np.ndarray) -> np.ndarray:
    return np.where(
        light <= 0.0031308, light * 12.92, 1.055 * light.clip(0.0031308) ** (1 / 2.4) - 0.055
    )


def test_display_p3_becomes_srgb() -> None:
    photo = astronaut()[::4, ::4]
    converted = Profile(rgb_profile("P3", P3_PRIMARIES)).to_srgb(photo)
    expected = values_of(light(photo / 255) @ P3_TO_SRGB.T).clip(0, 1)
    errors = deltaE_ciede2000(rgb2lab(expected), rgb2lab(converted / 255))
    assert errors.mean() <= 0.2
    assert (errors <= 0.5).mean() >= 0.94  # the rest: dark colours, rounded to 8 bits
    assert np.abs(expected * 255 - converted).max() <= 1
    assert deltaE_ciede2000(rgb2lab(expected), rgb2lab(photo / 255)).mean() > 1  # without it


@pytest.mark.parametrize("gamma", [1.0, ADOBE_GAMMA])
def test_gammas(gamma: float) -> None:
    greys = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    converted = Profile(rgb_profile("gamma", ADOBE_PRIMARIES, D65, gamma)).to_srgb(greys)
    assert np.abs(converted - values_of((greys / 255) ** gamma) * 255).max() <= 1


def test_srgb_is_recognised_and_keeps_its_pixels() -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = astronaut()[::8, ::8]
    for data in (made, rgb_profile("sRGB", SRGB_PRIMARIES)):
        profile = Profile(data)
        assert profile.is_srgb
        assert np.array_equal(profile.to_srgb(photo), photo)
    assert not Profile(rgb_profile("other", SRGB_PRIMARIES, D65, 2.6)).is_srgb


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_greys_keep_their_depth(dtype: type) -> None:
    most = np.iinfo(dtype).max
    values = np.linspace(0, most, 999).astype(dtype).reshape(27, 37)
    converted = Profile(grey_profile(2.25)).grey_to_srgb(values)
    assert converted.dtype == dtype
    assert np.abs(converted - values_of((values / most) ** 2.25) * most).max() <= 1.5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a profile" * 20,
        rgb_profile("P3", P3_PRIMARIES)[:200],
        rgb_profile("P3", P3_PRIMARIES)[:140] + b"\xff" * 400,
        rgb_profile("P3", P3_PRIMARIES).replace(b"RGB XYZ ", b"CMYKXYZ "),
        rgb_profile("P3", P3_PRIMARIES).replace(b"mntr", b"link"),
        rgb_profile("P3", P3_PRIMARIES).replace(b"RGB XYZ ", b"HSV XYZ "),
    ],
)
def test_damaged_profiles_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it is"):
        Profile(data)


@pytest.mark.parametrize("primaries", [(0.64, 0.33) * 3, (0.64, 0, 0.3, 0.6, 0.15, 0.06)])
def test_impossible_primaries_are_refused(primaries: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        rgb_profile("none", primaries)
