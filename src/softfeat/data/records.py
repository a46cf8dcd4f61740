"""Photos with their label maps, read and checked, with errors that name the file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.data.layouts import Record
from softfeat.imaging.images import open_picture, read_image

# Label maps in palette or grey mode carry ids as they are; any other mode carries colours.
_LABEL_MODES = {"L", "P", "1", "I", "I;16"}


def read_label(path: Path) -> NDArray[np.uint8]:
    """Reads the raw ids of a label map.

    Returns:
        (H,W) uint8.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    picture = open_picture(path)
    if picture.mode not in _LABEL_MODES:
        raise ValueError(
            f"{path}: a label map holds one id a pixel, this file is {picture.mode} (colours); "
            "save the ids as an 8-bit grey or palette PNG"
        )
    ids = np.asarray(picture)
    if ids.dtype == np.uint8:
        return ids
    if ids.size and (ids.max() > 255 or ids.min() < 0):
        raise ValueError(f"{path}: label id {ids.max()} does not fit 8 bits (0..255)")
    return ids.astype(np.uint8)


def check_label_exists(record: Record) -> None:
    """Raises FileNotFoundError for a photo without a label."""
    if not record.label.is_file():
        raise FileNotFoundError(
            f"{record.image} has no label {record.label}: add the label or remove the photo"
        )


def read_classes(record: Record) -> NDArray[np.uint8]:
    """Reads the label of a photo.

    Returns:
        (H,W) uint8, classes 0..K-1, CONTRAST and IGNORE.

    Raises:
        FileNotFoundError, ValueError: naming the file and the remedy.
    """
    raw = read_label(record.label)
    try:
        return record.label_map(raw)
    except ValueError as error:
        raise ValueError(f"{record.label}: {error}") from error


def read_record(record: Record) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads a photo and its label, and checks that they fit.

    Returns:
        image: (H,W,3) uint8 RGB.
        label: (H,W) uint8, classes 0..K-1, CONTRAST and IGNORE.

    Raises:
        FileNotFoundError, ValueError: naming the file and the remedy.
    """
    check_label_exists(record)
    image, label = read_image(record.image), read_classes(record)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"{record.image} is {image.shape[1]}x{image.shape[0]} but its label {record.label} is "
            f"{label.shape[1]}x{label.shape[0]}: they must have one size"
        )
    return image, label


def resize_label(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes (H,W) ids to `size` (H, W), nearest neighbour."""
    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
