"""Lists the photos and label files below two folders, and finds the label of each photo."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from softfeat.imaging.images import is_picture

# Files with these suffixes are listed without a look at their content, which would be slow for
# large sets. A file with a wrong suffix is reported when it is read.
PICTURE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga"),
}
# Files and folders that programs leave next to photos. Hidden ones are ignored as well.
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
_NAMED = 5  # files in a message


def list_files(folder: Path) -> list[Path]:
    """List the files in a folder and its subfolders, without hidden files and clutter.

    Args:
        folder: Folder. Links to other folders are followed.

    Returns:
        Files in no particular order, with broken links and without pipes and devices.
    """
    files: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
                continue
            if entry.is_dir():
                is_loop = entry.is_symlink() and folder.resolve().is_relative_to(path.resolve())
                files += [] if is_loop else list_files(path)
            elif entry.is_file() or not path.exists():  # a broken link is reported when it is read
                files.append(path)
    return files


def list_photos(folder: Path) -> list[Path]:
    """List the photos in a folder and its subfolders. Warn about the files that are no photos.

    Args:
        folder: Folder of photos.

    Returns:
        Files with one of the `PICTURE_SUFFIXES`, and files with the content of a picture, sorted.
    """
    photos: list[Path] = []
    others: list[Path] = []
    for path in sorted(list_files(folder)):
        is_photo = path.suffix.lower() in PICTURE_SUFFIXES or is_picture(path)
        (photos if is_photo else others).append(path)
    if others:
        warnings.warn(f"{folder}: skipped {named(others, 'file')}: no pictures", stacklevel=2)
    return photos


def find_labels(photos: list[Path], folder: Path, labels: Path) -> list[Path]:
    """Find the label file of each photo. Warn about labels without a photo.

    Args:
        photos: Photos in `folder` or its subfolders.
        folder: Folder of the photos.
        labels: Folder of the labels, with the same subfolders.

    Returns:
        For each photo the label file with the same name and the suffix `.png`. If that is missing,
        the only other picture with this name, if there is one.
    """
    by_name: dict[Path, list[Path]] = {}
    for path in sorted(list_files(labels)) if labels.is_dir() else []:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            by_name.setdefault(path.relative_to(labels).with_suffix(""), []).append(path)
    found = []
    for photo in photos:
        name = photo.relative_to(folder)
        usual = labels / name.with_suffix(".png")
        candidates = by_name.get(name.with_suffix(""), [])
        found.append(candidates[0] if len(candidates) == 1 else usual)
    names = {photo.relative_to(folder).with_suffix("") for photo in photos}
    if unused := [path for name, paths in by_name.items() if name not in names for path in paths]:
        warnings.warn(f"{labels}: {named(unused, 'label')} without a photo", stacklevel=2)
    return found


def named(files: Iterable[Path], noun: str) -> str:
    """Count files and name the first of them.

    >>> named([Path("a/1.png"), Path("a/2.png")], "label")
    '2 labels (1.png, 2.png)'
    """
    names = [path.name for path in files]
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {noun}{'s' * (len(names) != 1)} ({listed})"
