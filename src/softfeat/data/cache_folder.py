"""Folders of results that take long to compute and are kept for later runs."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from softfeat.data.layouts import DataError


class CacheFolder:
    """A folder that exists only when it is complete.

    It is filled under the name `<name>.partial` by one process at a time and renamed at the end.
    What a killed run left there can be continued.

    Args:
        path: The folder, directly below the folder of its kind in the cache. Its name should be the
            hash of everything that decides its content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def complete(self) -> bool:
        """Whether the folder has been filled."""
        return self.path.is_dir()

    @contextmanager
    def filling(self, num_bytes: int) -> Iterator[Path | None]:
        """Gives the folder to fill. Other processes print a message and wait.

        The folder counts as complete if the block ends without an error.

        Args:
            num_bytes: Size of the content.

        Yields:
            `<name>.partial`, possibly with what an earlier run left there. None if the folder is
            complete, for example because another process has just filled it.

        Raises:
            DataError: Instead of an OSError inside: the cache is full or cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if self.complete:
                    yield None
                    return
                partial = self.path.with_name(f"{self.path.name}.partial")
                partial.mkdir(exist_ok=True)
                yield partial
                partial.rename(self.path)
        except OSError as error:
            raise DataError(
                f"the cache folder {self.path.parent} {self._reason(error, num_bytes)}. Choose "
                "another with data.cache_dir=FOLDER; the next run computes what is missing"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another process is computing {self.path.name}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _reason(self, error: OSError, num_bytes: int) -> str:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(self.path.parent).free
            return f"is full: {num_bytes:,} bytes are needed, {free:,} are free"
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return "cannot be written"
        return f"failed ({error})"


def reserve(descriptor: int, num_bytes: int) -> None:
    """Reserves the space of a file, so that a full disk is found now and not halfway."""
    if num_bytes and hasattr(os, "posix_fallocate"):  # Linux
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.truncate(descriptor, num_bytes)
