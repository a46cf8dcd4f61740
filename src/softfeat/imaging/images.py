"""Finding, reading and resizing of photos. Errors name the file."""

from collections.abc import Sequence
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


def find_photos(inputs: Sequence[str]) -> list[Path]:
    """List the photos of files, folders and patterns.

    Args:
        inputs: Paths of photos or folders, or patterns of paths with `*`, `?` and `[...]`.

    Returns:
        Files of the photos, in the order of `inputs`.

    Raises:
        FileNotFoundError: If one of the inputs has no photos.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            photos = pictures(path)
        elif path.exists():  # before patterns, since file names may contain their characters
            photos = [path]
        else:
            matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            photos = [p for p in matches if p.suffix.lower() in Image.registered_extensions()]
        if not photos:
            raise FileNotFoundError(f"no photos at {text}: set input=PHOTO_OR_FOLDER_OR_GLOB")
        found += photos
    return found


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
