"""Reading and resizing of photos and label maps, with errors that name the file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Label maps in palette or grey mode carry ids as they are; any other mode carries colours.
_LABEL_MODES = {"L", "P", "1", "I", "I;16"}


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: unreadable or truncated picture ({error}); replace the file"
        ) from error
    return picture


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photo, upright as its EXIF orientation says.

    Returns:
        (H,W,3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    return np.asarray(ImageOps.exif_transpose(_open(path)).convert("RGB"))


def read_label(path: Path) -> NDArray[np.uint8]:
    """Reads the raw ids of a label map.

    Returns:
        (H,W) uint8.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    picture = _open(path)
    if picture.mode not in _LABEL_MODES:
        raise ValueError(
            f"{path}: a label map holds one id a pixel, this file is {picture.mode} (colours); "
            "save the ids as an 8-bit grey or palette PNG"
        )
    ids = np.asarray(picture)
    if ids.size and (ids.max() > 255 or ids.min() < 0):
        raise ValueError(f"{path}: label id {ids.max()} does not fit 8 bits (0..255)")
    return ids.astype(np.uint8)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes (H,W,3) to `size` (H, W), bilinear with anti-aliasing."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def resize_label(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes (H,W) ids to `size` (H, W), nearest neighbour."""
    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
