"""Reading and resizing of photos, with errors that name the file."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def _name(source: Path | BinaryIO) -> object:
    return source if isinstance(source, Path) else source.name


def open_picture(path: Path | BinaryIO) -> Image.Image:
    """Opens and decodes a picture of any kind that Pillow reads.

    Args:
        path: File, or an open file with a name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, no picture or too large.
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
            f"{path}: a folder, not a photo; choose a photo, or a folder that holds photos"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        size = f"{int(pixels[1]) / 1e6:.0f} megapixels" if pixels else "too many pixels"
        most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ValueError(
            f"{_name(path)}: {size}, at most {most:.0f} are read; make it smaller"
        ) from error
    except Exception as error:  # of any kind: Pillow's readers raise what breaks them
        raise ValueError(
            f"{_name(path)}: unreadable or truncated picture ({error}); replace the file"
        ) from error
    return picture


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def find_photos(inputs: Sequence[str]) -> list[Path]:
    """Photos, from files, folders and patterns.

    Args:
        inputs: paths, or patterns of paths with `*`, `?` and `[...]`.

    Raises:
        FileNotFoundError: none at one of them.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            photos = pictures(path)
        elif path.exists():  # before patterns: names may hold their characters
            photos = [path]
        else:
            matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            photos = [p for p in matches if p.suffix.lower() in Image.registered_extensions()]
        if not photos:
            raise FileNotFoundError(f"no photos at {text}: set input=PHOTO_OR_FOLDER_OR_GLOB")
        found += photos
    return found


def file_identity(path: Path) -> list[str | int]:
    """Place, size and time of change of a file: what tells a changed file without reading it."""
    if not path.exists():  # reported with all other bad files when it is read
        return [str(path.absolute())]
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scales pictures of 16 bits a pixel, which Pillow would clip; leaves others."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("grey values beyond 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def read_image(path: Path | BinaryIO) -> NDArray[np.uint8]:
    """Reads a photo; see `rgb_pixels`.

    Args:
        path: File of any kind that Pillow reads, with up to 16 bits a channel, or an open file with
            a name.

    Returns:
        (H,W,3) RGB.

    Raises:
        FileNotFoundError, ValueError: The file is missing or no photo. The message names it.
    """
    picture = open_picture(path)
    try:
        return rgb_pixels(picture)
    except Exception as error:  # as in `open_picture`: EXIF is parsed, and palettes are applied
        raise ValueError(
            f"{_name(path)}: a picture of mode {picture.mode} that is no photo ({error}); "
            "save it as RGB with 8 bits a channel"
        ) from error


def rgb_pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Turns a picture upright by its EXIF orientation and lays transparent parts on white.

    Returns:
        (H,W,3) RGB.

    Raises:
        ValueError: The picture has values of an unknown range.
    """
    upright = _eight_bits(ImageOps.exif_transpose(picture))
    if upright.mode == "F":
        raise ValueError("floating-point values, whose range is unknown")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes (H,W,3) to `size` (H, W), bilinear with anti-aliasing."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)
