"""Reading and resizing of photos. Errors name the file."""

import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from softfeat.imaging.formats import is_picture as is_picture

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def _name(source: Path | BinaryIO) -> object:
    return source if isinstance(source, Path) else source.name


def open_picture(path: Path | BinaryIO) -> Image.Image:
    """Open and decode a picture of any format that Pillow reads.

    Args:
        path: File of the picture, or an open file with a name.

    Returns:
        Picture in the mode of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or not a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path)
            picture.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(
            f"{path}: a folder; choose a photo, or a folder with photos in it, not in subfolders"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        size = f"{int(pixels[1]) / 1e6:.0f} megapixels" if pixels else "too many pixels"
        most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ValueError(
            f"{_name(path)}: {size}, the limit is {most:.0f}; make it smaller"
        ) from error
    except Exception as error:  # Pillow's readers raise errors of many types
        raise ValueError(
            f"{_name(path)}: unreadable or truncated picture ({error}); replace the file"
        ) from error
    return picture


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


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit grey pictures to 8 bits, which Pillow would clip. Leave others as they are."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("grey values with more than 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def read_image(path: Path | BinaryIO) -> NDArray[np.uint8]:
    """Read a photo, rotated by its EXIF orientation, with transparent parts on white.

    Args:
        path: File of any format that Pillow reads, with up to 16 bits per channel, or an open file
            with a name.

    Returns:
        Photo (H,W,3) uint8 RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or not a photo.
    """
    picture = open_picture(path)
    try:
        return rgb_pixels(picture)
    except Exception as error:  # Pillow parses EXIF and applies palettes only here
        raise ValueError(
            f"{_name(path)}: a picture of mode {picture.mode} cannot be read as a photo ({error}); "
            "save it as RGB with 8 bits per channel"
        ) from error


def rgb_pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Rotate a picture by its EXIF orientation and lay transparent parts on white.

    Args:
        picture: Picture of any mode.

    Returns:
        Photo (H,W,3) uint8 RGB.

    Raises:
        ValueError: If the picture has values of an unknown range.
    """
    upright = _eight_bits(ImageOps.exif_transpose(picture))
    if upright.mode == "F":
        raise ValueError("floating-point values of unknown range")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))


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
