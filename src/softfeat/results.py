"""Folders of results, one per photo: whole or absent, with a summary that lists their files."""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from softfeat.atomic import replaced
from softfeat.locks import holding
from softfeat.names import folded, shortened

SUMMARY = "summary.json"
_LARGEST_SUMMARY = 10_000_000  # bytes; ours have some thousands
_LOCK = ".softfeat-lock"
_UNFINISHED = ".softfeat-unfinished"


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Keeps other processes from a folder, which need not exist.

    The lock is a hidden file next to the folder. The system frees it if the process is killed. A
    process may lock a folder again that it has locked.

    Args:
        folder: The folder. Names that differ in case only have the same lock.
        wait: Whether to wait while another process has the lock.

    Yields:
        Whether this process has the lock; always true with `wait`.
    """
    with holding(_beside(folder, _LOCK), wait) as held:
        yield held


def _beside(folder: Path, ending: str) -> Path:
    """A hidden path next to a folder, the same however the path to it is written."""
    parent = Path(os.path.realpath(folder.parent))
    return parent / f".{shortened(folded(folder.name))}{ending}"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Provides a folder to write to; at the end its files replace those of an earlier run.

    After an error none of the new files remain, and `folder` is as it was. Other processes that
    replace the same folder wait. While files are moved, the summary lists the files without their
    hashes, so that a process that is killed leaves a folder that counts as unfinished.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        unfinished = _beside(folder, f".{secrets.token_hex(4)}{_UNFINISHED}")
        unfinished.mkdir()
        try:
            yield unfinished
            _move(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: Path, folder: Path) -> None:
    if is_free(folder) and not folder.is_symlink():
        unfinished.replace(folder)  # in one step
        return
    summary = read_summary(unfinished)
    old = read_summary(folder).get("files", {})
    mixed = {**summary, "files": dict.fromkeys(old | summary["files"])}
    with replaced(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(mixed), encoding="utf-8")
    for name in old:
        (folder / name).unlink(missing_ok=True)
    for path in sorted(unfinished.iterdir(), key=lambda p: p.name == SUMMARY):
        path.replace(folder / path.name)


def remove_unfinished(output: Path) -> None:
    """Removes what killed processes left in a folder of results.

    Args:
        output: Folder of all results. What other processes are working on stays.
    """
    pattern = rf"(\..*?)(\.[0-9a-f]{{8}}{_UNFINISHED}|{_LOCK})"
    with _choosing(output):
        for path in list(output.iterdir()):
            if match := re.fullmatch(pattern, path.name, re.DOTALL):
                lock = Path(os.path.realpath(output)) / f"{match[1]}{_LOCK}"
                with holding(lock, wait=False) as dead:  # removes the lock as well
                    if dead and match[2] != _LOCK:
                        shutil.rmtree(path, ignore_errors=True)


def _choosing(output: Path) -> AbstractContextManager[bool]:
    """Lets one process at a time choose folders or remove unfinished ones."""
    return holding(Path(os.path.realpath(output)) / _LOCK, wait=True)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes the summary of a folder, with the sizes and hashes of its files. Call it last."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    text = json.dumps({**summary, "files": files}, indent=1, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads the summary of a folder, or returns an empty one if there is none or it is damaged.

    Returns:
        The summary. `files` maps plain names to sizes and hashes, which are None for a folder that
        is not finished.
    """
    path = folder / SUMMARY
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_SUMMARY:  # a pipe would block
            return {}
        return parse_summary(path.read_bytes())
    except (OSError, ValueError):
        return {}


def parse_summary(text: bytes) -> dict[str, Any]:
    """The summary in a file, as `read_summary` returns it; an empty one if it is damaged."""
    try:
        summary = json.loads(text.decode())
        files = summary["files"]
        # Earlier versions listed names only.
        files = files if isinstance(files, dict) else dict.fromkeys(files)
        plain = {name: entry for name, entry in files.items() if _is_plain(name)}
        return {**summary, "files": plain}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name and "\0" not in name


def files_of_layers(folder: Path) -> set[str]:
    """The names of the files in a folder that are results of a photo; empty for other folders."""
    summary = read_summary(folder)
    return {SUMMARY, *summary["files"]} if "coverage" in summary else set()


def is_free(folder: Path) -> bool:
    """Whether nothing exists at a path, or an empty folder."""
    return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


def belongs_to(folder: Path, identity: str) -> bool:
    """Whether a folder holds the results of the photo with this identity."""
    source = read_summary(folder).get("input")
    return isinstance(source, list) and source[:1] == [identity]


def is_finished(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a folder holds all files of a run with the same photo, network and settings.

    Files that have changed since, or were cut short, are not finished.

    Args:
        folder: Folder of results.
        origin: Entries that the summary must have.
    """
    summary = read_summary(folder)
    files = summary.get("files")
    if not files or any(summary.get(key) != value for key, value in origin.items()):
        return False
    try:
        return all(
            (folder / name).is_file()
            and (folder / name).stat().st_size == entry["bytes"]
            and _fingerprint(folder / name) == entry
            for name, entry in files.items()
        )
    except (OSError, TypeError, KeyError):
        return False


def folders_for(stem: str, identity: str, output: Path) -> Iterator[Path]:
    """Lists the folders that a photo may have, best first.

    It is the folder that the photo has from an earlier run. Otherwise it is named like the photo,
    with a number if that folder holds something else, or differs from another in case only.

    Args:
        stem: Name of the photo, without its suffix.
        identity: Identity of the photo, the first entry of `input` in its summary.
        output: Folder of all results.
    """
    name = shortened("photo" if stem in ("", ".", "..") else stem)
    if belongs_to(output / name, identity):
        yield output / name
    pattern = re.compile(re.escape(folded(name)) + r"-\d+", re.DOTALL)
    numbered = [p for p in output.iterdir() if pattern.fullmatch(folded(p.name))]
    numbered.sort(key=lambda p: (len(p.name), p.name))
    yield from (folder for folder in numbered if belongs_to(folder, identity))
    for n in itertools.count(1):
        folder = output / (name if n == 1 else f"{name}-{n}")
        if _is_unused(folder):
            yield folder


def _is_unused(folder: Path) -> bool:
    names = (p.name for p in folder.parent.iterdir())
    twins = {name for name in names if folded(name) == folded(folder.name)}
    return twins <= {folder.name} and is_free(folder)


@contextmanager
def claimed(stem: str, identity: str, output: Path, wait: bool = True) -> Iterator[Path | None]:
    """Chooses the folder of a photo, and keeps other processes from the photo and the folder.

    Args:
        stem: Name of the photo, without its suffix.
        identity: Identity of the photo, as for `folders_for`.
        output: Folder of all results.
        wait: Whether to wait while another process works on the photo.

    Yields:
        The folder; None without `wait` if another process works on the photo.
    """
    digest = hashlib.sha256(os.fsencode(identity)).hexdigest()
    with ExitStack() as locks:
        if not locks.enter_context(locked(output / f"photo-{digest[:16]}", wait)):
            yield None
            return
        with _choosing(output):
            for folder in folders_for(stem, identity, output):
                is_own = belongs_to(folder, identity)
                held = locks.enter_context(locked(folder, wait=is_own))
                # Another process may have filled it before the lock was free.
                if held and (is_own or _is_unused(folder)):
                    break
        yield folder
