"""Files that are replaced as a whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from softfeat.names import shortened

PARTIAL = ".partial-"  # beginning of the names of unfinished files


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and moves it to `path` when the block ends without an error.

    Several processes may replace a file at the same time: the last one wins, and nothing is mixed.
    A process that is killed leaves `path` as it was, and a hidden file next to it.

    Args:
        path: File to replace. If it is a link, the link stays and its target is replaced.

    Yields:
        A new name in the same folder, hidden, with the same suffix.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{shortened(target.name)}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Finds out before long work whether `replaced` can replace a file.

    Raises:
        OSError: It cannot, for example because `path` is a folder.
    """
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.stat().st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with TemporaryFile(dir=os.path.realpath(path.parent)):
        pass
