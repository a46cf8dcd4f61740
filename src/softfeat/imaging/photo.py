"""A photo as its file holds it, and as the method sees it."""

import os
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.imaging.colour import lab_profile, usable_profile
from softfeat.imaging.convert import eight_bits
from softfeat.imaging.decoding import MAX_PIXELS as MAX_PIXELS
from softfeat.imaging.decoding import decode, name_of
from softfeat.imaging.formats import PhotoWarning
from softfeat.imaging.metadata import Metadata
from softfeat.imaging.raster import Depth, Raster, raster_of

PhotoSource = str | os.PathLike[str] | BinaryIO | Image.Image | NDArray


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo in its own colours, at its own depth, upright.

    Attributes:
        pixels: (H,W,3) RGB of 8 or 16 bits, in the colours of `profile`, not multiplied by alpha.
        alpha: (H,W) with the same bits, the photo's own transparency; None for an opaque photo.
        profile: ICC profile of an RGB space; None for sRGB.
        metadata: What outputs keep besides the pixels.
    """

    pixels: NDArray[Depth]
    alpha: NDArray[Depth] | None = None
    profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)

    @cached_property
    def srgb(self) -> NDArray[np.uint8]:
        """(H,W,3) sRGB of 8 bits, with transparent parts on white: what networks see."""
        colours = eight_bits(self.pixels)
        if self.profile is not None:
            colours = usable_profile(self.profile).to_srgb(colours)
        if self.alpha is None:
            return colours
        picture = Image.fromarray(np.dstack([colours, eight_bits(self.alpha)]))
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def read_photo(source: PhotoSource, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads a photo whole, at its own depth and in its own colours.

    Photos in grey, CMYK and Lab become RGB by their colour profiles. What the file has wrong
    besides its pixels, such as a damaged profile, is ignored with a `PhotoWarning`.

    Args:
        source: Path, file open for reading bytes, PIL picture, or array (H,W,3): uint8, uint16, or
            floats in [0,1], which become 16 bits. Files and PIL pictures are turned upright.
        max_pixels: Largest number of pixels of a file, which protects from files that would fill
            the memory.

    Raises:
        FileNotFoundError, ValueError: The file is missing, damaged, too large or no photo, or the
            array is none.
        ImportError: A package that reads files of this kind is not installed.
    """
    if isinstance(source, np.ndarray):
        return Photo(_checked(source))
    if not isinstance(source, Image.Image):
        raster = decode(source, max_pixels)
    else:
        raster = raster_of(source)
    photo = _developed(raster)
    for note in raster.notes:
        name = "the picture" if isinstance(source, Image.Image) else name_of(source)
        warnings.warn(f"{name}: {note}", PhotoWarning, stacklevel=2)
    return photo


def _checked(array: NDArray) -> NDArray[Depth]:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"an array {array.shape} is no photo: pass RGB, (H,W,3)")
    if array.dtype in (np.uint8, np.uint16):
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"an array of {array.dtype} is no photo: pass uint8, or floats in [0,1], or uint16"
        )
    if not np.isfinite(array).all():
        raise ValueError("the array holds values that are no numbers (NaN or infinity): mend it")
    if array.min() < 0 or array.max() > 1:
        raise ValueError("an array of floats must be in [0,1]: divide by 255, or pass uint8")
    return np.rint(array.astype(np.float64) * 65535).astype(np.uint16)


def _developed(raster: Raster) -> Photo:
    """Converts a raster to RGB and turns it upright."""
    values, profile = _in_rgb(raster)
    alpha, metadata = raster.alpha, raster.metadata
    if alpha is not None:
        if not alpha.any():
            raster.notes.append("it is transparent everywhere")
        alpha = None if alpha.min() == np.iinfo(alpha.dtype).max else alpha
    if raster.orientation >= 5 and metadata.dpi is not None:
        metadata = replace(metadata, dpi=metadata.dpi[::-1])
    return Photo(
        _upright(values, raster.orientation),
        None if alpha is None else _upright(alpha, raster.orientation),
        profile,
        metadata,
    )


def _in_rgb(raster: Raster) -> tuple[NDArray[Depth], bytes | None]:
    """Pixels (H,W,3) of a raster, with the RGB profile to keep."""
    values, profile = raster.values, None
    if raster.icc is not None:
        try:
            profile = usable_profile(raster.icc)
            if profile.space != raster.space and (raster.space, profile.space) != ("GRAY", "RGB"):
                raise ValueError(f"it is one of {profile.space} colours")
        except ValueError as error:
            raster.notes.append(f"its colour profile is ignored: {error}")
            profile = None
    if raster.space == "CMYK":
        if profile is not None:
            return profile.to_srgb(eight_bits(values)), None
        raster.notes.append("CMYK without a colour profile: its colours are a guess")
        return np.asarray(Image.fromarray(values, "CMYK").convert("RGB")), None
    if raster.space == "Lab":
        return (profile or lab_profile()).to_srgb(eight_bits(values)), None
    if raster.space == "GRAY":
        if profile is not None and profile.space == "GRAY":
            values, profile = profile.grey_to_srgb(values), None
        values = np.repeat(values[..., None], 3, axis=2)
    return values, None if profile is None else raster.icc


def _upright(values: NDArray[Depth], orientation: int) -> NDArray[Depth]:
    """Turns an array (H,W) or (H,W,C) that is stored with this EXIF orientation."""
    if orientation in (2, 4, 5, 7):  # stored mirrored: 2 as it is, the others turned as well
        values = values[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)  # a quarter to the left each
    return np.ascontiguousarray(np.rot90(values, turns))
