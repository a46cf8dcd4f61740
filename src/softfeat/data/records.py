"""Reading and checking of photos with their label maps. Errors name the file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from softfeat.data.layouts import Record
from softfeat.imaging.formats import PILLOW
from softfeat.imaging.images import open_picture, read_image

# Formats that keep every id, and the modes that hold ids and not colours. "P" holds the number of a
# colour in a palette, which is the id.
_LABEL_FORMATS = {"PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA"}
_HEADS = [name for name in PILLOW if name != "MPO"]  # Pillow opens those as JPEG
_REMEDY = "save one id per pixel as an 8-bit grey or palette PNG"

# What turns the upright photo back into the stored one, by EXIF orientation.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def read_label(path: Path, upright: bool = True) -> NDArray[np.uint8]:
    """Read the raw ids of a label file.

    Args:
        path: Picture file in grey or palette mode, without loss.
        upright: Whether to turn it by the EXIF orientation that some tools copy from the photo.

    Returns:
        Raw ids (H,W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, could have changed ids, has colours or several pictures,
            or has ids above 255.
    """
    picture = open_picture(path)
    if picture.format not in _LABEL_FORMATS or picture.info.get("compression") == "jpeg":
        raise ValueError(f"{path}: {picture.format} changes ids or can do so; {_REMEDY}")
    if picture.mode not in ("L", "P", "1", "I") and not picture.mode.startswith("I;16"):
        kind = {"LA": "transparency", "F": "floating-point values"}.get(picture.mode, "colours")
        raise ValueError(f"{path}: a label with {kind} (mode {picture.mode}); {_REMEDY}")
    if _count(path, picture) > 1:
        raise ValueError(f"{path}: a label with several pictures; {_REMEDY}")
    ids = np.asarray(ImageOps.exif_transpose(picture) if upright else picture)
    # Pillow spreads grey values of 2 or 4 bits over 0..255, which makes multiples of 17.
    if picture.mode == "L" and not (ids[::50, ::50] % 17).any():
        ids = ids // _grey_step(path)
    if ids.dtype == np.uint8:
        return ids
    if ids.size and (ids.max() > 255 or ids.min() < 0):
        raise ValueError(
            f"{path}: label ids {ids.min()}..{ids.max()} do not fit 8 bits; use ids in 0..255"
        )
    return ids.astype(np.uint8)


def _count(path: Path, picture: Image.Image) -> int:
    """Count the pictures in the file of a decoded picture."""
    if picture.format in ("GIF", "TIFF"):  # which are counted in the open file
        with Image.open(path, formats=_HEADS) as head:
            return getattr(head, "n_frames", 1)
    return getattr(picture, "n_frames", 1)


def _grey_step(path: Path) -> int:
    """Find the factor by which Pillow multiplies the grey values of a file."""
    with Image.open(path, formats=_HEADS) as picture:
        rawmode = picture.tile[0].args if picture.tile else ""
    if isinstance(rawmode, tuple):
        rawmode = rawmode[0]
    return {"L;2": 85, "L;4": 17}.get(str(rawmode), 1)


def photo_size(record: Record) -> tuple[int, int, int]:
    """Read the size of a photo from the head of its file.

    Args:
        record: Photo with its label file.

    Returns:
        Height and width of the photo as `read_record` gives it, and its EXIF orientation, 1..8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture.
    """
    try:
        with Image.open(record.image, formats=_HEADS) as picture:
            width, height = picture.size
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a format that only `read_image` knows, or a damaged file
        height, width = read_image(record.image).shape[:2]
        return height, width, 1
    if orientation not in range(1, 9):
        return height, width, 1
    if record.upright and orientation > 4:
        height, width = width, height
    return height, width, orientation


def read_photo(record: Record) -> NDArray[np.uint8]:
    """Read the photo of a record, upright or as it is stored.

    Args:
        record: Photo with its label file.

    Returns:
        Photo (H,W,3) uint8 RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or not a photo.
    """
    image = read_image(record.image)
    if record.upright:
        return image
    stored = _STORED.get(photo_size(record)[2])
    return image if stored is None else np.asarray(Image.fromarray(image).transpose(stored))


def check_label_exists(record: Record) -> None:
    """Check that a photo has a label file.

    Args:
        record: Photo with its label file.

    Raises:
        FileNotFoundError: If it has none, or several without the usual suffix.
    """
    if record.label.is_file():
        return
    others = [p for p in record.label.parent.glob("*") if p.stem == record.label.stem]
    remedy = "add the label or remove the photo"
    if others:
        remedy = f"there are {', '.join(sorted(p.name for p in others))}; save the ids as PNG"
    raise FileNotFoundError(f"{record.image} has no label {record.label}: {remedy}")


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
    raw = read_label(record.label, record.upright)
    try:
        return record.label_map(raw)
    except ValueError as error:
        raise ValueError(f"{record.label}: {error}") from error


def check_size(record: Record, photo: tuple[int, int], label: tuple[int, ...]) -> None:
    """Check that a photo and its label have the same size.

    Args:
        record: Photo with its label file.
        photo: Height and width of the photo.
        label: Height and width of the label.

    Raises:
        ValueError: If the sizes differ.
    """
    if photo == label:
        return
    height, width, orientation = photo_size(record)
    reason = "they must have the same size"
    if label == (width, height) and orientation in (5, 6, 7, 8):
        reason = (
            f"it fits the photo before its EXIF orientation {orientation} is applied. If all "
            "labels were drawn on photos as stored, set data.exif=ignore; otherwise turn this one"
            if record.upright
            else "it fits the upright photo. If all labels were drawn on upright photos, set "
            "data.exif=apply; otherwise turn this one"
        )
    raise ValueError(
        f"{record.image} is {photo[1]}x{photo[0]} but its label {record.label} is "
        f"{label[1]}x{label[0]}: {reason}"
    )


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
    image = read_photo(record)
    label = read_classes(record)
    check_size(record, (image.shape[0], image.shape[1]), label.shape)
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
