"""Colour spaces of photos: ICC profiles, their conversion to sRGB, and profiles made from numbers.

littleCMS converts. Profiles come from strangers, so `Profile` refuses those that are damaged.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_CLASSES = {"mntr", "scnr", "prtr", "spac", "abst"}  # no links between devices, no named colours
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}

SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x, y of red, green and blue
ADOBE_PRIMARIES = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3_PRIMARIES = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
REC2020_PRIMARIES = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
D65 = (0.3127, 0.3290)  # x, y
ADOBE_GAMMA = 563 / 256

_D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white of all profiles
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# ((x + 0.055) / 1.055)^2.4, and x / 12.92 below 0.04045
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


class Profile:
    """A usable ICC profile of RGB, grey, CMYK or Lab colours.

    Args:
        data: Bytes of the profile.

    Attributes:
        space: "RGB", "GRAY", "CMYK" or "Lab".
        is_srgb: Whether its colours are those of sRGB, within one level of 8 bits.

    Raises:
        ValueError: The profile is damaged, or it is not the profile of a device or colour space.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._profile = ImageCms.ImageCmsProfile(BytesIO(data))
            self.space = self._profile.profile.xcolor_space.strip()
            device_class = self._profile.profile.device_class.strip()
        except Exception as error:  # Pillow raises errors of many types
            raise ValueError("it is damaged") from error
        if self.space not in _MODES or device_class not in _CLASSES:
            raise ValueError(f"it is of an unknown kind ({self.space}, {device_class})")
        mode = _MODES[self.space]
        try:
            self._transform = _transform(self._profile, _srgb(), mode, "RGB")
        except ImageCms.PyCMSError as error:
            raise ValueError("it is damaged") from error
        self.is_srgb = False
        if mode == "RGB":
            levels = np.linspace(0, 255, 9).round().astype(np.uint8)
            cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
            difference = self.to_srgb(cube).astype(int) - cube
            self.is_srgb = bool(np.abs(difference).max() <= 1)

    def to_srgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Converts pixels (H,W,C), or (H,W) of grey, to sRGB (H,W,3).

        The intent is relative colorimetric with black point compensation. Pixels of an sRGB profile
        stay as they are.
        """
        if self.is_srgb:
            return pixels
        picture = Image.frombytes(
            _MODES[self.space],
            (pixels.shape[1], pixels.shape[0]),
            np.ascontiguousarray(pixels).tobytes(),
        )
        return np.asarray(ImageCms.applyTransform(picture, self._transform))

    def grey_to_srgb(self, values: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8 | np.uint16]:
        """Converts values (H,W) of a grey profile to the grey of sRGB, at their own depth."""
        mode, shape = ("L", (16, 16)) if values.dtype == np.uint8 else ("I;16", (256, 256))
        every = np.arange(shape[0] * shape[1], dtype=values.dtype).reshape(shape)
        exact = ImageCms.Flags.NOOPTIMIZE  # slow, but there are few values
        transform = _transform(self._profile, _srgb_grey(), mode, mode, exact)
        table = np.asarray(ImageCms.applyTransform(Image.fromarray(every), transform))
        return table.ravel()[values]


@lru_cache(maxsize=8)
def usable_profile(data: bytes) -> Profile:
    """`Profile`, kept for the next photo with the same one."""
    return Profile(data)


def _transform(
    source: ImageCms.ImageCmsProfile,
    target: ImageCms.ImageCmsProfile,
    mode: str,
    target_mode: str,
    precision: ImageCms.Flags = ImageCms.Flags.HIGHRESPRECALC,
) -> ImageCms.ImageCmsTransform:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | precision
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(source, target, mode, target_mode, intent, flags)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _srgb_grey() -> ImageCms.ImageCmsProfile:
    """The greys of sRGB."""
    return ImageCms.ImageCmsProfile(BytesIO(_profile(b"GRAY", "grey", {b"kTRC": _curve(None)})))


@lru_cache(maxsize=1)
def lab_profile() -> Profile:
    """The profile of Lab photos that have none, with a white of D50."""
    return Profile(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())


@lru_cache(maxsize=8)
def rgb_profile(
    name: str, primaries: Sequence[float], white: Sequence[float] = D65, gamma: float | None = None
) -> bytes:
    """Makes the profile of an RGB space.

    Args:
        name: Description of the space.
        primaries: x, y of red, green and blue.
        white: x, y of white.
        gamma: Exponent from values to light; None for the curve of sRGB.

    Raises:
        ValueError: There is no such space: two primaries are the same, or a y is 0.
    """
    x, y = np.array([*primaries, *white]).reshape(4, 2).T
    if not (y > 0).all():
        raise ValueError("its colours are impossible")
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # (3,4), each with a luminance of 1
    try:
        scale = np.linalg.solve(xyz[:, :3], xyz[:, 3])  # the primaries add up to white
    except np.linalg.LinAlgError as error:
        raise ValueError("its colours are impossible") from error
    # Profiles hold colours as they look under D50 (Bradford's adaptation).
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ xyz[:, 3])
    adapted = np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ (xyz[:, :3] * scale)))
    tags: dict[bytes, bytes] = {}
    for channel, colour in zip((b"r", b"g", b"b"), adapted.T, strict=True):
        tags |= {channel + b"XYZ": _xyz(colour), channel + b"TRC": _curve(gamma)}
    return _profile(b"RGB ", name, tags)


def _profile(space: bytes, name: str, tags: Mapping[bytes, bytes]) -> bytes:
    """An ICC profile (version 4.2) of a display with these tags."""
    tags = {b"desc": _text(name), b"cprt": _text("none"), b"wtpt": _xyz(_D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for signature, content in tags.items():
        table += signature + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4x", start + len(body)) + b"\x04\x20\0\0mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(_D50)
    return head.ljust(128, b"\0") + table + body


def _fixed(numbers: Sequence[float] | NDArray[np.floating]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(colour: NDArray[np.floating]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(colour)


def _curve(gamma: float | None) -> bytes:
    form, numbers = (3, _SRGB_CURVE) if gamma is None else (0, (gamma,))
    return b"para" + struct.pack(">4xH2x", form) + _fixed(numbers)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(encoded), 28) + encoded
