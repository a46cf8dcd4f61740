"""Results of photos at a URL: a folder for each, whose summary is written last."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from softfeat.names import shortened
from softfeat.results import SUMMARY, parse_summary
from softfeat.storage import RemoteFolder

_LONGEST_STEM = 100  # bytes


def folder_of(output: RemoteFolder, stem: str, identity: Sequence[str | int]) -> RemoteFolder:
    """The folder of a photo: its name, and a hash of where it lies and of its size.

    Args:
        output: Folder of all results.
        stem: Name of the photo, without its suffix.
        identity: Path or URL, size, and what tells versions apart.
    """
    # Photos of two machines may have one path. A time would also differ between copies.
    digest = hashlib.sha256(repr(list(identity[:2])).encode(errors="surrogateescape")).hexdigest()
    return output / f"{shortened(stem or 'photo', _LONGEST_STEM)}-{digest[:12]}"


def finished_summary(folder: RemoteFolder, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a folder that holds all files of a run; None for any other folder.

    Args:
        folder: Folder of results.
        origin: Entries that the summary must have.
    """
    summary = parse_summary(folder.read(SUMMARY) or b"")
    if not summary or any(summary.get(key) != value for key, value in origin.items()):
        return None
    sizes, files = folder.sizes(), summary["files"]
    whole = (isinstance(e, dict) and e.get("bytes") == sizes.get(n) for n, e in files.items())
    return summary if files and all(whole) else None


def save(folder: RemoteFolder, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Writes results to a folder on this machine, and sends them.

    Args:
        folder: Where they are sent to. It counts as unfinished until all files are there.
        write: Function that writes a folder and returns its summary.

    Returns:
        The summary.

    Raises:
        OSError: Files cannot be written.
    """
    old = folder.sizes()
    with TemporaryDirectory(prefix="softfeat-") as name:
        local = Path(name) / "results"
        summary = write(local)
        files = sorted(local.iterdir(), key=lambda path: path.name == SUMMARY)
        # Until the end there is a summary without sizes: a folder of results that is not finished.
        unfinished = {**summary, "files": {path.name: None for path in files}}
        folder.write(SUMMARY, json.dumps(unfinished).encode())
        for unused in old.keys() - {path.name for path in files}:
            folder.delete(unused)
        for path in files:
            folder.write(path.name, path.read_bytes())
    return summary
