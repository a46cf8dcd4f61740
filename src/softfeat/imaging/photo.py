"""A photo as its file holds it, and as the method sees it."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.imaging.convert import to_uint8
from softfeat.imaging.images import read_image, rgb_pixels

PhotoSource = str | os.PathLike[str] | BinaryIO | Image.Image | NDArray
Depth = np.uint8 | np.uint16


@dataclass(frozen=True)
class Metadata:
    """What a photo's file says besides its pixels, and what outputs keep. Never the location.

    Attributes:
        dpi: Horizontal and vertical resolution in pixels per inch.
        copyright: Copyright notice.
        artist: Author.
    """

    dpi: tuple[float, float] | None = None
    copyright: str | None = None
    artist: str | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo in its own colours, at its own depth, upright.

    Attributes:
        pixels: (H,W,3) RGB of 8 or 16 bits, in the colours of `profile`.
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
        return (
            to_uint8(self.pixels / 65535)
            if self.pixels.dtype == np.uint16
            else self.pixels.astype(np.uint8, copy=False)
        )


def read_photo(source: PhotoSource) -> Photo:
    """Reads a photo.

    Args:
        source: Path, open file with a name, PIL picture or array (H,W,3), uint8 or float in [0,1].
            Files and PIL pictures are turned upright.

    Raises:
        FileNotFoundError, ValueError: The file is missing or no photo, or the array is none.
    """
    if isinstance(source, Image.Image):
        return Photo(rgb_pixels(source))
    if isinstance(source, str | os.PathLike):
        return Photo(read_image(Path(source)))
    if not isinstance(source, np.ndarray):
        return Photo(read_image(source))
    if source.ndim != 3 or source.shape[2] != 3:
        raise ValueError(f"an array {source.shape} is no photo: pass RGB, (H,W,3)")
    if source.dtype == np.uint8:
        return Photo(source)
    if not np.issubdtype(source.dtype, np.floating):
        raise ValueError(f"an array of {source.dtype} is no photo: pass uint8, or floats in [0,1]")
    if not (source.min() >= 0 and source.max() <= 1):  # false for NaN, too
        raise ValueError("an array of floats must be in [0,1]: divide by 255, or pass uint8")
    return Photo(to_uint8(source))
