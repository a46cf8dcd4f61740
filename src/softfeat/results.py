"""Folders of results, one per photo: whole or absent, with a summary that lists their files."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Provides a folder to write to; at the end its files replace those of an earlier run.

    After an error none of the new files remain, and `folder` is as it was. While files are being
    moved, `folder` has no summary: only a complete folder has one.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        folder.mkdir(exist_ok=True)
        for name in (SUMMARY, *read_summary(folder).get("files", [])):
            (folder / name).unlink(missing_ok=True)
        for path in sorted(unfinished.iterdir(), key=lambda p: p.name == SUMMARY):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes the summary of a folder and lists the files in it. Call it last."""
    files = sorted(path.name for path in folder.iterdir())
    text = json.dumps({**summary, "files": files}, indent=1, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads the summary of a folder, or returns an empty one if there is none or it is damaged.

    `files` holds plain names only.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        files = [name for name in summary["files"] if Path(name).name == name]
        return {**summary, "files": files}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def is_free(folder: Path) -> bool:
    """Whether nothing exists at a path, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def belongs_to(folder: Path, identity: str) -> bool:
    """Whether a folder holds the results of the photo with this identity."""
    source = read_summary(folder).get("input")
    return isinstance(source, list) and source[:1] == [identity]


def is_finished(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a folder holds all files of a run with the same photo, network and settings.

    Args:
        folder: Folder of results.
        origin: Entries that the summary must have.
    """
    summary = read_summary(folder)
    same = all(summary.get(key) == value for key, value in origin.items())
    names = summary.get("files", [])
    return same and bool(names) and all((folder / name).is_file() for name in names)


def folder_for(stem: str, identity: str, output: Path) -> Path:
    """Chooses the folder of a photo: its name, numbered if that folder holds something else.

    Args:
        stem: Name of the photo, without its suffix.
        identity: Identity of the photo, the first entry of `input` in its summary.
        output: Folder of all results.
    """
    names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
    folders = (output / name for name in names)
    return next(f for f in folders if is_free(f) or belongs_to(f, identity))
