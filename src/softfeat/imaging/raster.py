"""Decoded pictures, and what the decoders of all kinds share."""

import threading
import warnings
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.imaging.colour import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    P3_PRIMARIES,
    REC2020_PRIMARIES,
    SRGB_PRIMARIES,
    rgb_profile,
)
from softfeat.imaging.metadata import Metadata, is_adobe_rgb, metadata_of, orientation_of

Depth = np.uint8 | np.uint16

_PILLOW_LOCK = threading.Lock()

# Colours that files name by numbers (ITU-T H.273); 2 means unspecified. None is the curve of sRGB.
_PRIMARIES = {1: SRGB_PRIMARIES, 2: SRGB_PRIMARIES, 9: REC2020_PRIMARIES, 12: P3_PRIMARIES}
_TRANSFERS = {1: None, 2: None, 4: 2.2, 5: 2.8, 6: None, 8: 1.0, 13: None, 14: None, 15: None}


@dataclass
class Raster:
    """A decoded picture, not yet upright.

    Attributes:
        values: (H,W) grey or (H,W,C) of 8 or 16 bits, without alpha.
        space: "GRAY", "RGB", "CMYK" or "Lab", with 8 bits for the last two.
        alpha: (H,W) with the same bits.
        icc: ICC profile of the file, whatever it holds.
        orientation: EXIF orientation, 1 to 8.
        metadata: What outputs keep.
        notes: What the user should know about the reading.
    """

    values: NDArray[Depth]
    space: str
    alpha: NDArray[Depth] | None = None
    icc: bytes | None = None
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)


class UnusableError(ValueError):
    """A whole message, to which the name of the file is put."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises UnusableError if a picture has no pixels or more than `max_pixels`."""
    if width < 1 or height < 1:
        raise UnusableError("a picture without pixels; replace the file")
    if width * height > max_pixels:
        raise UnusableError(
            f"{width}x{height} pixels are {width * height / 1e6:.1f} megapixels, and the limit is "
            f"{max_pixels / 1e6:.1f}; make the photo smaller, or raise the limit "
            "(--max-megapixels, or max_pixels= in Python)"
        )


def open_with_pillow(file: BinaryIO, kind: str, max_pixels: int) -> Image.Image:
    """Reads the header of a picture, with EXIF, without warnings of Pillow."""
    formats = ["JPEG", "MPO"] if kind == "JPEG" else [kind]
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `check_size` has its own
        try:
            picture = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    check_size(*picture.size, max_pixels)
    return picture


def note_frames(raster: Raster, count: int) -> None:
    """Notes that a file holds several pictures."""
    if count > 1:
        raster.notes.append(f"only the first of its {count} pictures is used")


def raster_of(picture: Image.Image) -> Raster:
    """Converts a PIL picture of any mode.

    Raises:
        ValueError: Its values have an unknown range.
    """
    described = description_of(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = sixteen_bits(np.asarray(picture))
        return Raster(values, "GRAY", **described)
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.has_transparency_data:
        pixels = np.asarray(picture.convert("LA" if picture.mode in ("L", "LA", "La") else "RGBA"))
        return split_alpha(pixels, **described)
    if picture.mode in ("L", "CMYK", "LAB"):
        space = {"L": "GRAY", "LAB": "Lab"}.get(picture.mode, picture.mode)
        return Raster(np.asarray(picture), space, **described)
    return Raster(np.asarray(picture.convert("RGB")), "RGB", **described)


def split_alpha(pixels: NDArray[Depth], **described: Any) -> Raster:
    """A raster of (H,W), (H,W,1) or (H,W,3) pixels, or of (H,W,2) or (H,W,4) with alpha."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    alpha = pixels[..., -1] if channels in (2, 4) else None
    if channels <= 2:
        return Raster(pixels[..., 0], "GRAY", alpha, **described)
    return Raster(pixels[..., :3], "RGB", alpha, **described)


def description_of(picture: Image.Image) -> dict[str, Any]:
    """Profile, orientation, metadata and notes of a PIL picture."""
    notes = []
    icc = picture.info.get("icc_profile")
    if icc is None and "icc_profile" in picture.info:
        notes.append("its colour profile is damaged and is ignored")
    try:
        with _PILLOW_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow has read the EXIF of a JPEG, and hidden that it is damaged.
            Image.Exif().load(picture.info.get("exif") or b"")
            exif = picture.getexif()
            orientation, metadata = orientation_of(exif), metadata_of(picture.info, exif)
            if icc is None and "srgb" not in picture.info and is_adobe_rgb(exif):
                icc = rgb_profile("Adobe RGB (1998)", ADOBE_PRIMARIES, gamma=ADOBE_GAMMA)
    except Exception:  # EXIF is parsed here, and it may hold anything
        notes.append("its EXIF data is damaged and is ignored")
        orientation, metadata = 1, metadata_of(picture.info, Image.Exif())
    return {"icc": icc, "orientation": orientation, "metadata": metadata, "notes": notes}


def sixteen_bits(values: NDArray, bits: int = 16) -> NDArray[Depth]:
    """Scales numbers to 8 or 16 bits.

    Args:
        values: Whole numbers, or floats in [0,1].
        bits: Significant bits of unsigned numbers.

    Raises:
        ValueError: The numbers have an unknown range.
    """
    least, most = (values.min(), values.max()) if values.size else (0, 0)
    if np.issubdtype(values.dtype, np.floating):
        tolerance = 1e-4  # of rounding and resampling; clipped
        if not np.isfinite(values).all():
            raise UnusableError("it holds values that are no numbers (NaN or infinity); mend it")
        if least < -tolerance or most > 1 + tolerance:
            raise UnusableError(
                f"floating-point values of unknown range ({least:.4g} to {most:.4g}); "
                "scale them to 0..1, or save it as RGB with 16 bits per channel"
            )
        return np.rint(np.clip(values, 0, 1).astype(np.float64) * 65535).astype(np.uint16)
    if values.dtype == np.uint8 and bits == 8:
        return values
    if least < 0 or most > 65535:
        raise UnusableError(
            f"values from {least} to {most} do not fit 16 bits; "
            "save it as RGB with 8 or 16 bits per channel"
        )
    scaled = values.astype(np.uint16, copy=False)
    if bits < 16:
        full = 2**bits - 1
        scaled = ((scaled.astype(np.uint32) * 65535 + full // 2) // full).astype(np.uint16)
    return scaled


def coded_profile(primaries: int, transfer: int, notes: list[str]) -> bytes | None:
    """The profile of colours that are named by numbers (ITU-T H.273); None for sRGB."""
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        notes.append(f"its colour space ({primaries}, {transfer}) is unknown: it is read as sRGB")
        return None
    if _PRIMARIES[primaries] == SRGB_PRIMARIES and _TRANSFERS[transfer] is None:
        return None
    return rgb_profile("coded", _PRIMARIES[primaries], gamma=_TRANSFERS[transfer])
