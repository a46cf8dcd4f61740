"""Files to pixels: whole or not at all, at their own depth, in the colour space of the file."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import imagecodecs
from PIL import Image, UnidentifiedImageError

from softfeat.imaging.formats import NAMES, kind_of
from softfeat.imaging.png import Png, read_png
from softfeat.imaging.raster import (
    Raster,
    UnusableError,
    check_size,
    note_frames,
    open_with_pillow,
    raster_of,
)
from softfeat.imaging.raw import read_heif, read_raw
from softfeat.imaging.tiff import read_tiff

MAX_PIXELS = 89_478_485  # as in Pillow: a quarter of a gibibyte of RGB
FileSource = str | os.PathLike[str] | BinaryIO

# Suffixes of raw files that begin as TIFF files do.
# fmt: off
_RAW_SUFFIXES = {".3fr", ".arw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef",
                 ".nrw", ".pef", ".srw"}
# fmt: on


def name_of(source: object) -> str:
    """The name by which messages call a file, an open file or anything else."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the open file"


def decode(source: FileSource, max_pixels: int = MAX_PIXELS) -> Raster:
    """Decodes the first picture of a file.

    Args:
        source: Path, or file open for reading bytes.
        max_pixels: Largest number of pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large, or no picture of a known kind.
        ImportError: If a package that reads files of this kind is not installed.
    """
    with _opened(source) as file:
        kind = _known_kind(file, source)
        if kind in _READERS:
            return _READERS[kind](file, max_pixels)
        return _read_with_pillow(file, kind, max_pixels)


def open_picture(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes the first picture of a file in the mode of the file, as label maps need it.

    Args:
        source: Path, or file open for reading bytes.
        max_pixels: Largest number of pixels.

    Returns:
        Picture that needs its file no more. Its `n_frames` counts the pictures of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large, or no picture of a known kind.
    """
    with _opened(source) as file:
        kind = _known_kind(file, source)
        if kind in ("RAW", "HEIF"):
            raise UnusableError(f"{kind} pictures are only read as photos; use PNG")
        if kind == "PNG":
            png = Png(file.read())
            check_size(*png.size, max_pixels)
            imagecodecs.png_decode(png.pixels())  # which raises if rows are missing
            file = BytesIO(png.rebuilt())
        elif kind == "JPEG":
            _check_jpeg(file)
        picture = open_with_pillow(file, kind, max_pixels)
        if kind == "PNG":
            vars(picture)["n_frames"] = png.frames
        else:
            getattr(picture, "n_frames", 1)  # counted and kept while the file is open
        picture.load()
        return picture


@contextmanager
def _opened(source: FileSource) -> Iterator[BinaryIO]:
    """A file that can seek. Errors within name it and the remedy."""
    name = name_of(source)
    try:
        if isinstance(source, str | os.PathLike):
            with _regular_file(Path(source)) as file:
                yield file
        else:
            yield source if source.seekable() else BytesIO(source.read())
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file") from None
    except UnusableError as error:
        raise ValueError(f"{name}: {error}") from error.__cause__
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from error
    except MemoryError as error:
        raise ValueError(f"{name}: too large for the memory of this machine") from error
    except Exception as error:  # decoders raise errors of many types
        if isinstance(error, OSError) and error.strerror:  # of the system, not of a decoder
            raise ValueError(
                f"{name}: cannot be opened ({error.strerror}); check its name and permissions"
            ) from error
        raise ValueError(
            f"{name}: unreadable or truncated picture ({_reason(error)}); replace the file"
        ) from error


def _reason(error: Exception) -> str:
    """What a decoder says about a damaged file."""
    if isinstance(error, UnidentifiedImageError):  # its message shows an object of Python
        return "its beginning is damaged"
    (first, *_) = (*error.args, "")
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(error)
    return text if any(c.isalpha() for c in text) else type(error).__name__


def _regular_file(path: Path) -> BinaryIO:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UnusableError("a folder; choose a photo, or a folder with photos in it")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
        raise UnusableError(
            "a pipe or device; save the photo as a file, or pipe it to `softfeat segment -`"
        )
    return path.open("rb")


def _known_kind(file: BinaryIO, source: FileSource) -> str:
    kind = kind_of(file)
    if kind is None:
        if not file.read(1):
            raise UnusableError("unreadable: the file is empty; replace it")
        raise UnusableError(
            f"unreadable: no photo of a known kind ({NAMES}); save it as one of these"
        )
    if kind == "TIFF" and Path(name_of(source)).suffix.lower() in _RAW_SUFFIXES:
        return "RAW"
    return kind


def _read_with_pillow(file: BinaryIO, kind: str, max_pixels: int) -> Raster:
    if kind == "JPEG":
        _check_jpeg(file)
    picture = open_with_pillow(file, kind, max_pixels)
    count = getattr(picture, "n_frames", 1)
    picture.load()
    raster = raster_of(picture)
    note_frames(raster, count)
    return raster


def _check_jpeg(file: BinaryIO) -> None:
    """Raises if the mark of the picture's end is missing: Pillow may fill the rest with grey."""
    data = file.read()
    file.seek(0)
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        if data[place + 1] == 0xFF:  # padding
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    if data.find(b"\xff\xd9", place) < 0:
        raise ValueError("its end is missing")


_READERS: dict[str, Callable[[BinaryIO, int], Raster]] = {
    "PNG": read_png,
    "TIFF": read_tiff,
    "HEIF": read_heif,
    "RAW": read_raw,
}
