"""Reading and resizing of photos. Errors name the file."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softfeat.imaging.decoding import open_picture as open_picture
from softfeat.imaging.formats import is_picture as is_picture
from softfeat.imaging.photo import read_photo

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def pictures(folder: Path) -> list[Path]:
    """List the picture files in a folder.

    Args:
        folder: Folder, searched without its subfolders.

    Returns:
        Files with one of the `IMAGE_SUFFIXES`, sorted by name.
    """
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def file_identity(path: Path) -> list[str | int]:
    """Identify the content of a file without reading it.

    Args:
        path: File. It may be missing.

    Returns:
        Absolute path, size in bytes and modification time in nanoseconds. Only the path if the file
        is missing.
    """
    if not path.exists():  # reported later, when the file is read
        return [str(path.absolute())]
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def read_image(path: Path | BinaryIO) -> NDArray[np.uint8]:
    """Read a photo as networks see it: upright, in sRGB, with transparent parts on white.

    Args:
        path: Photo of any kind that `read_photo` reads.

    Returns:
        Photo (H,W,3) uint8 sRGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or not a photo.
        ImportError: If a package that reads files of this kind is not installed.
    """
    return read_photo(path).srgb


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a photo bilinearly with anti-aliasing.

    Args:
        image: Photo (H,W,3) uint8 RGB.
        size: New height and width in pixels.

    Returns:
        Photo (height,width,3) uint8 RGB.
    """
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)
