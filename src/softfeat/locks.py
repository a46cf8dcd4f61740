"""Files that one process at a time may hold."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def holding(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock, whose file exists as long as somebody holds it.

    The system frees the lock of a process that is killed. A process may take a lock again that it
    holds.

    Args:
        file: File of the lock, in a folder that exists.
        wait: Whether to wait while another process holds it.

    Yields:
        Whether this process holds it; always true with `wait`.
    """
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # who waits for it sees that it is gone, and makes another
                file.unlink()
        lock.release()
