"""Files that are replaced as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and moves it to `path` when the block ends without an error.

    A process that is killed in between leaves `path` as it was, and `<name>.partial` next to it.

    Args:
        path: File or folder to replace; a folder must not exist yet.

    Yields:
        `<name>.partial` in the same folder.
    """
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)
