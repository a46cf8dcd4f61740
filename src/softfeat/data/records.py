"""Reading and checking of photos with their label maps. Errors name the file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.data.layouts import Record
from softfeat.imaging.images import open_picture, read_image

# Palette and grey modes store ids as they are. All other modes store colours.
_LABEL_MODES = {"L", "P", "1", "I", "I;16"}


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read the raw ids of a label file.

    Args:
        path: Picture file in grey or palette mode.

    Returns:
        Raw ids (H,W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, has colours, or has ids above 255.
    """
    picture = open_picture(path)
    if picture.mode not in _LABEL_MODES:
        raise ValueError(
            f"{path}: a label map needs one id per pixel, but this file has colours (mode "
            f"{picture.mode}); save the ids as an 8-bit grey or palette PNG"
        )
    ids = np.asarray(picture)
    if ids.dtype == np.uint8:
        return ids
    if ids.size and (ids.max() > 255 or ids.min() < 0):
        raise ValueError(
            f"{path}: label ids {ids.min()}..{ids.max()} do not fit 8 bits; use ids in 0..255"
        )
    return ids.astype(np.uint8)


def check_label_exists(record: Record) -> None:
    """Check that a photo has a label file.

    Args:
        record: Photo with its label file.

    Raises:
        FileNotFoundError: If it has none.
    """
    if not record.label.is_file():
        raise FileNotFoundError(
            f"{record.image} has no label {record.label}: add the label or remove the photo"
        )


def read_classes(record: Record) -> NDArray[np.uint8]:
    """Read the label map of a photo.

    Args:
        record: Photo with its label file.

    Returns:
        Label map (H,W) uint8 of classes 0..K-1, CONTRAST and IGNORE.

    Raises:
        FileNotFoundError: If there is no label file.
        ValueError: If the label file is damaged or has unknown ids.
    """
    raw = read_label(record.label)
    try:
        return record.label_map(raw)
    except ValueError as error:
        raise ValueError(f"{record.label}: {error}") from error


def read_record(record: Record) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a photo and its label map, and check that their sizes are the same.

    Args:
        record: Photo with its label file.

    Returns:
        image: Photo (H,W,3) uint8 RGB.
        label: Label map (H,W) uint8 of classes 0..K-1, CONTRAST and IGNORE.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If one of the files is damaged, if the label has unknown ids, or if the sizes
            differ.
    """
    check_label_exists(record)
    image = read_image(record.image)
    label = read_classes(record)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"{record.image} is {image.shape[1]}x{image.shape[0]} but its label {record.label} is "
            f"{label.shape[1]}x{label.shape[0]}: they must have the same size"
        )
    return image, label


def resize_label(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a label map by nearest neighbour.

    Args:
        label: Label map (H,W) uint8.
        size: New height and width in pixels.

    Returns:
        Label map (height,width) uint8.
    """
    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
