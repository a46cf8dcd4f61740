"""Files at URLs, such as s3://bucket/photos, and tables in folders at URLs or on disks.

A file at a URL appears as a whole once it is written, as object stores do it.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from softfeat.atomic import PARTIAL, replaced

_NEEDS = 'need pyarrow: pip install "softfeat[tables]"'
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# A secret with unescaped slashes still ends at an @; a port does not begin one.
_PASSWORD = re.compile(r"([^/@:]*):(?!\d+(?:/|$))(?:[^/]*@|.*@)")


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path.

    >>> is_url("s3://bucket/photos"), is_url("photos/a.jpg"), is_url("C:/photos")
    (True, False, False)
    """
    return _URL.match(text) is not None


class Folder(Protocol):
    """A folder of files, on a disk or at a URL."""

    def names(self, part: str) -> list[str]:
        """Names of the files in a folder within, sorted; none if it does not exist."""
        ...

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Opens a file to read from any place in it."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, which appears as a whole."""
        ...

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk. Folders within are made when they are needed."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self, part: str) -> list[str]:
        """Names of the files in a folder within, sorted; none if it does not exist."""
        folder = self.path / part
        inside = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.name for path in inside if path.is_file())

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Opens a file to read from any place in it."""
        with (self.path / name).open("rb") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, which appears as a whole."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        with replaced(self.path / name) as partial:
            partial.write_bytes(content)

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at a URL.

    Attributes:
        url: A URL. What follows a ? holds for all files within.
        inner: Path of the folder below the URL.
    """

    url: str
    inner: str = ""

    def __str__(self) -> str:
        """Its URL for people; see `shown_url`."""
        address = shown_url(self.url).rstrip("/")
        return f"{address}/{self.inner}" if self.inner else address

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(self.url, f"{self.inner}/{name}" if self.inner else name)

    @cached_property
    def _system(self) -> tuple[Any, str]:
        """The `pyarrow.fs.FileSystem`, and the path in it."""
        system, path = _file_system(self.url)
        return system, f"{path.rstrip('/')}/{self.inner}" if self.inner else path.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "inner": self.inner}  # without the connection

    def sizes(self) -> dict[str, int]:
        """Sizes in bytes of the files in this folder, by name; none if it does not exist."""
        return {Path(info.path).name: info.size for info in self._files(recursive=False)}

    def names(self, part: str) -> list[str]:
        """Names of the files in a folder within, sorted; none if it does not exist."""
        return sorted((self / part).sizes())

    def files(self) -> list["RemotePhoto"]:
        """All files in this folder and those within, sorted by path."""
        system, path = self._system
        found = sorted(self._files(recursive=True), key=lambda info: info.path)
        return [
            RemotePhoto(self / info.path[len(path) + 1 :], info.size, _version(system, info))
            for info in found
        ]

    def _files(self, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        system, path = self._system
        selector = FileSelector(path, allow_not_found=True, recursive=recursive)
        return [i for i in system.get_file_info(selector) if i.type == FileType.File]

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Opens a file to read from any place in it."""
        system, path = self._system
        with system.open_input_file(f"{path}/{name}" if name else path) as file:
            yield file

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        try:
            with self.opened(name) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, which appears as a whole."""
        system, path = self._system
        target = f"{path}/{name}"
        if system.type_name in _OBJECT_STORES:
            _put(system, target, content)
            return
        folder, _, last = target.rpartition("/")
        system.create_dir(folder)
        partial = f"{folder}/{PARTIAL}{secrets.token_hex(4)}-{last}"
        _put(system, partial, content)
        system.move(partial, target)

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        system, path = self._system
        with suppress(FileNotFoundError):
            system.delete_file(f"{path}/{name}")


def shown_url(url: str) -> str:
    """A URL without what may be secret: options, and keys or passwords before the host.

    >>> shown_url("s3://key:secret@bucket/photos?endpoint_override=store:9000")
    's3://bucket/photos'
    >>> shown_url("sftp://anna:p@ss@host:22/a@b"), shown_url("abfs://container@account/a")
    ('sftp://anna@host:22/a@b', 'abfs://container@account/a')
    """
    scheme, mark, rest = url.partition("?")[0].partition("://")
    if found := _PASSWORD.match(rest):
        user = "" if scheme in ("s3", "gs", "gcs") else f"{found[1]}@"
        rest = user + rest[found.end() :]
    return f"{scheme}{mark}{rest}"


@dataclass(frozen=True)
class RemotePhoto:
    """A photo at a URL, which is read where it is used.

    Attributes:
        place: Its URL.
        size: Bytes; None if that is not known, or if there is no such file.
        version: Time of its last change, in nanoseconds since 1970, or what else tells its versions
            apart; None if there is no such file.
    """

    place: RemoteFolder
    size: int | None = None
    version: int | str | None = None

    def __str__(self) -> str:
        return str(self.place)

    @property
    def name(self) -> str:
        """Name of the file."""
        return str(self).rpartition("/")[2]

    @property
    def folder(self) -> str:
        """URL of its folder."""
        return str(self).rpartition("/")[0]

    @property
    def identity(self) -> list[str | int]:
        """What tells it from others and from its earlier versions; see `file_identity`."""
        address, options = str(self), self.place.url.partition("?")[2]
        if options and address.startswith(("http://", "https://")):  # where they tell files apart
            address += f"?{hashlib.sha256(options.encode()).hexdigest()[:12]}"
        return [address] if self.version is None else [address, self.size or 0, self.version]

    def read(self) -> BytesIO:
        """Reads the file.

        Raises:
            FileNotFoundError, OSError: It cannot be read.
        """
        content = self.place.read("")
        if content is None:
            raise FileNotFoundError(f"{self}: no such file")
        file = BytesIO(content)
        file.name = str(self)
        return file


_OBJECT_STORES = {"s3", "gcs", "abfs"}  # where a file is never seen half-written


def _put(system: Any, path: str, content: bytes) -> None:
    with system.open_output_stream(path) as stream:
        stream.write(content)


def file_at(url: str) -> RemotePhoto | None:
    """The file at a URL; None if there is none, or a folder.

    Raises:
        ImportError: A library for such URLs is not installed.
        ValueError, OSError: The URL cannot be used.
    """
    system, path = _file_system(url)
    info = system.get_file_info(path.rstrip("/"))
    if not info.is_file:
        return None
    return RemotePhoto(RemoteFolder(url), info.size, _version(system, info))


def _version(system: Any, info: Any) -> int | str:
    """What tells a file from its earlier versions: a time, or what fsspec knows of the file."""
    if info.mtime_ns is not None:
        return int(info.mtime_ns)
    return str(system.handler.fs.ukey(info.path))


@lru_cache(maxsize=16)  # each is a connection
def _file_system(url: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a URL, and the path in it.

    Raises:
        ImportError: A library for such URLs is not installed.
        ValueError: It is no URL of files.
    """
    try:
        from pyarrow.fs import FileSystem
    except ImportError as error:
        raise ImportError(f"URLs {_NEEDS}") from error
    try:
        try:
            return FileSystem.from_uri(url)
        except ValueError:
            if url.partition(":")[0] in _OBJECT_STORES:
                raise
            return FileSystem.from_uri(f"fsspec+{url}")
    except ImportError:
        raise
    except Exception as error:  # those of fsspec and what it uses are of any type
        reason = " ".join(str(error).replace(url, shown_url(url)).split())
        raise ValueError(f"{shown_url(url)}: such a URL cannot be opened: {reason}") from error


def parquet_library() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"tables {_NEEDS}") from error
    return parquet


def parquet_bytes(table: Any, encodings: dict[str, str] | None = None) -> bytes:
    """A `pyarrow.Table` as the content of a Parquet file.

    Args:
        table: Any table.
        encodings: Encodings of some columns.
    """
    file = BytesIO()
    parquet_library().write_table(
        table, file, compression="zstd", use_dictionary=["photo"], column_encoding=encodings
    )
    return file.getvalue()


def check_folder(url: str) -> None:
    """Finds out before long work whether files can be written to a folder at a URL.

    Raises:
        ImportError: A library for such URLs is not installed.
        ValueError: They cannot be written.
    """
    folder, name = RemoteFolder(url), f"{PARTIAL}{secrets.token_hex(4)}"
    try:
        folder.write(name, b"softfeat")
        folder.delete(name)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # those of fsspec are of any type
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: files cannot be written there: {reason}") from error
