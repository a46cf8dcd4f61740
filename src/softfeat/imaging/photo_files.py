"""Which files are photos: in folders with their subfolders, and by patterns."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softfeat.imaging.images import IMAGE_SUFFIXES, is_picture
from softfeat.results import SUMMARY, files_of_layers, parse_summary
from softfeat.storage import RemoteFolder, RemotePhoto, file_at, shown_url

# A file with such a name is meant to be a photo: it is reported if it is damaged.
PHOTO_SUFFIXES = IMAGE_SUFFIXES | {
    ".gif",
    ".jpe",
    ".jfif",
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".tga",
}
_OF_SYSTEMS = {"thumbs.db", "desktop.ini"}  # hidden on Windows, without a dot


@dataclass(frozen=True)
class Found:
    """Files in folders.

    Attributes:
        photos: Photos, and what is named like one or cannot be searched, so that it is reported.
        others: Files that are no photos. Hidden files and finished layers are not among them.
    """

    photos: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Adds what was found elsewhere, each file once."""
        for own, new in ((self.photos, other.photos), (self.others, other.others)):
            known = set(own)
            own += [path for path in new if path not in known]


def photos_in(folder: Path) -> Found:
    """Finds the photos in a folder and its subfolders, by content or by suffix.

    Links to folders are followed, and each folder is searched once. Hidden files and folders are
    left out, and so are the files that an earlier run wrote.

    Args:
        folder: Any folder.

    Returns:
        The photos of a folder come before those of its subfolders, each sorted by name.
    """
    found, named = Found(), []
    folders, searched = [folder], set()
    while folders:
        folder = folders.pop()
        place = os.path.realpath(folder)
        if place in searched:
            continue
        searched.add(place)
        try:
            paths = sorted(folder.iterdir())
        except OSError:
            found.photos.append(folder)  # reported when it is read
            continue
        own = files_of_layers(folder)
        paths = [path for path in paths if path.name not in own and not _is_hidden(path)]
        inner = [path for path in paths if is_folder(path)]
        _sort_out((path for path in paths if path not in inner), found)
        folders += reversed(inner)
        named += [path for path in inner if path.suffix.lower() in PHOTO_SUFFIXES]
    parents = {parent for photo in found.photos for parent in photo.parents}
    found.photos.extend(path for path in named if path not in parents)
    return found


def is_folder(path: Path) -> bool:
    """Whether a path is a folder or a link to one; false if that cannot be found out."""
    return os.path.isdir(path)  # noqa: PTH112, which fails for names that are too long


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _OF_SYSTEMS


def _sort_out(files: Iterable[Path], found: Found) -> None:
    for path in files:
        is_photo = path.suffix.lower() in PHOTO_SUFFIXES or is_picture(path)
        (found.photos if is_photo else found.others).append(path)


def find_photos(inputs: Sequence[str]) -> Found:
    """Finds the photos of files, folders and patterns.

    Args:
        inputs: Paths of photos or folders, or patterns of paths with `*`, `?` and `[...]`.

    Returns:
        Files in the order of `inputs`, each once.

    Raises:
        FileNotFoundError: One of the inputs has no photos.
        ValueError: One of the inputs is empty.
    """
    found = Found()
    for text in inputs:
        if not text:
            raise ValueError("input= is empty: set input=PHOTO_OR_FOLDER_OR_GLOB")
        path = Path(text)
        if is_folder(path):
            new = photos_in(path)
        elif os.path.lexists(path):  # before patterns, since names may contain their characters
            new = Found([path])
        else:
            new = _matches(path)
        if not new.photos:
            raise FileNotFoundError(f"no photos at {text}: set input=PHOTO_OR_FOLDER_OR_GLOB")
        found.add(new)
    return found


def find_photos_at(url: str) -> tuple[list[RemotePhoto], list[str]]:
    """Finds the photos at a URL by their names.

    Args:
        url: URL of a photo, or of a folder, which is searched with those within. Hidden files and
            the results of earlier runs are left out.

    Returns:
        The photos, and the files in the folder that are no photos. If nothing is there, one photo,
        so that it is reported when it is read.

    Raises:
        ImportError: A library for such URLs is not installed.
        ValueError: The folder cannot be listed, or has no photos.
    """
    try:
        if (photo := file_at(url)) is not None:
            return [photo], []
        files = RemoteFolder(url).files()
        results = {file.folder for file in files if file.name == SUMMARY and _is_result(file)}
    except (ValueError, ImportError):
        raise
    except Exception as error:  # those of fsspec are of any type
        raise ValueError(f"{shown_url(url)}: {' '.join(str(error).split())}") from error
    if not files:
        return [RemotePhoto(RemoteFolder(url))], []
    files = [file for file in files if file.folder not in results and not _is_hidden_at(file, url)]
    photos = [file for file in files if Path(file.name).suffix.lower() in PHOTO_SUFFIXES]
    if not photos:
        raise ValueError(
            f"{shown_url(url)}: no photos there, which are known by suffixes such as .jpg at a URL"
        )
    known = set(photos)
    return photos, [str(file) for file in files if file not in known]


def _is_result(file: RemotePhoto) -> bool:
    return "coverage" in parse_summary(file.read().getvalue())


def _is_hidden_at(file: RemotePhoto, url: str) -> bool:
    inner = str(file).removeprefix(shown_url(url))
    return any(_is_hidden(Path(part)) for part in inner.split("/") if part)


def _matches(pattern: Path) -> Found:
    found = Found()
    try:
        paths = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except (OSError, ValueError):  # a name that is too long, or no pattern
        return found
    for path in paths:
        if _is_hidden(path) and not pattern.name.startswith("."):
            continue
        if is_folder(path):
            found.add(photos_in(path))
        else:
            _sort_out([path], found)
    return found
