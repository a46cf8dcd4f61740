"""Superpixel maps of a split and, with `pack`, its resized photos and labels; one row per record.

Rows are computed once in worker processes and read memory-mapped. A store is a `CacheFolder` named
by the hash of everything that decides its content. The checksum of every row is written after its
pixels. Rows that a killed run left are checked against it before the store is continued.
"""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from softfeat.data.cache_folder import CacheFolder, reserve
from softfeat.data.layouts import DataError, Record
from softfeat.data.parallel import map_in_workers
from softfeat.data.records import read_record, resize_label
from softfeat.imaging.images import file_identity, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.ops.labels import IGNORE

_FORMAT = 1
_CHECKSUMS, _INDEX = "checksums.u64", "index.json"
_DONE_BIT = 1 << 32  # a checksum of 0 is a checksum
# Rows between two waits for the disk. Workers continue during a wait, except at the end.
_SYNCED = 256


@dataclass(frozen=True)
class _MakeRow:
    """Reads one record and writes its row of a store, in a worker process.

    A worker writes its rows itself. Sending all rows through one process would cost that process a
    tenth of the time that it takes to make them.
    """

    rows: Path
    dtype: np.dtype[Any]
    superpixels: Superpixels | None
    image_size: tuple[int, int]

    def __call__(self, item: tuple[int, Record]) -> tuple[int, str | OSError | None]:
        """Returns the index of the record and the error of its files or of the store, if any."""
        index, record = item
        try:
            image, label = read_record(record)
        except (ValueError, OSError, ImportError) as error:
            return index, str(error)
        row = np.empty((), self.dtype)
        image = resize_image(image, self.image_size)
        if "image" in (self.dtype.names or ()):
            row["image"] = image
            row["label"] = resize_label(label, self.image_size)
        if self.superpixels is not None:
            row["superpixels"] = self.superpixels(image)
        content = row.tobytes()
        checksum = np.uint64(_checksum(content)).tobytes()
        try:
            for file, written in zip(self._files, (content, checksum), strict=True):
                _write(file, index, written)
        except OSError as error:  # raised in a worker it would lose its errno
            return index, error
        return index, None

    @cached_property
    def _files(self) -> list[BinaryIO]:
        """Rows and checksums, opened once per process: opening takes as long as writing."""
        return [path.open("r+b") for path in (self.rows, self.rows.with_name(_CHECKSUMS))]


def _write(file: BinaryIO, row: int, content: bytes) -> None:
    file.seek(row * len(content))
    file.write(content)
    file.flush()


class SampleStore:
    """The store of a split: one file with a contiguous row per record.

    Args:
        cache_dir: Folder of all stores.
        records: Photos and labels of the split.
        image_size: (H, W) to which photos are resized before segmentation.
        superpixels: Parameters of the maps; None to store no maps.
        pack: Store photos and labels, too.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        records: Sequence[Record],
        image_size: tuple[int, int],
        superpixels: Superpixels | None,
        pack: bool = False,
    ) -> None:
        self.records, self.superpixels = list(records), superpixels
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.identity = {
            "format": _FORMAT,
            "image_size": list(self.image_size),
            "superpixels": superpixels and superpixels.identity(),
        }
        if pack:
            self.identity["pillow"] = version("pillow")  # decodes and resizes the photos
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        labels = hashlib.sha256()
        for record in self.records:
            digest.update(json.dumps(file_identity(record.image)).encode())
            if not record.upright:
                digest.update(b"as stored")
            entry = [file_identity(record.label), record.label_map.table]
            labels.update(json.dumps(entry).encode())
        if pack:
            digest.update(labels.digest())

        packed = [("image", np.uint8, (*self.image_size, 3)), ("label", np.uint8, self.image_size)]
        maps = [("superpixels", np.uint16, self.image_size)]
        self.dtype = np.dtype(packed * pack + maps * (superpixels is not None))
        self.kind, self._file = ("packed", "rows.u8") if pack else ("superpixels", "maps.u16")
        self.path = Path(cache_dir) / self.kind / digest.hexdigest()[:20]
        self._rows: NDArray[Any] | None = None
        self._checksums = np.zeros(0, np.uint64)

    @property
    def _num_bytes(self) -> int:
        return len(self) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        """Reads the row of record `index`.

        Returns:
            superpixels (H,W) uint16, unless there are none; with `pack`, image (H,W,3) uint8 RGB
            and label (H,W) uint8, classes 0..K-1, CONTRAST and IGNORE.

        Raises:
            DataError: The store is missing or damaged.
        """
        if self._rows is None:  # opened on first use: every worker maps the file itself
            self._rows = self._open()
        row = self._rows[index].copy()  # one contiguous read
        if self._checksums[index]:  # not compared yet by this process
            if self._checksums[index] != _checksum(row.tobytes()):
                raise self._damaged(f"row {index} of {self._file} has changed")
            self._checksums[index] = 0
        fields = {name: row[name] for name in self.dtype.names or ()}
        self._check(fields, self.records[index])
        return fields

    def _check(self, fields: dict[str, NDArray[Any]], record: Record) -> None:
        """Checks that the ids of a row exist; as indices, others would crash a training."""
        known = np.zeros(256, bool)
        known[[IGNORE, *(c for c in record.label_map.table if c >= 0)]] = True
        count = 0 if self.superpixels is None else self.superpixels.count
        if ("superpixels" in fields and fields["superpixels"].max() >= count) or (
            "label" in fields and not known[fields["label"]].all()
        ):
            raise self._damaged(f"{self._file} has ids that do not exist")

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_rows": None}

    def _open(self) -> NDArray[Any]:
        rows = self.path / self._file
        if not rows.is_file():
            raise DataError(f"nothing is stored at {self.path}: run python -m src.precompute")
        for file, size in ((rows, self._num_bytes), (self.path / _CHECKSUMS, 8 * len(self))):
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise self._damaged(f"{file.name} has {found} bytes instead of {size}")
        self._checksums = np.fromfile(self.path / _CHECKSUMS, np.uint64)
        return np.memmap(rows, self.dtype, "r", shape=(len(self),))

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self.kind} store {self.path}: {reason}. It was damaged after it was written. Delete "
            "the folder; the next run computes it again"
        )

    @property
    def complete(self) -> bool:
        """Whether all rows are stored."""
        return CacheFolder(self.path).complete

    def prepare(self, num_workers: int, description: str = "superpixels") -> None:
        """Computes what is missing; waits if another process is already computing it.

        Args:
            num_workers: Number of processes.
            description: Text of the progress bar.

        Raises:
            DataError: The cache cannot be written or is too small, the store is damaged, or files
                cannot be used. The message lists all bad files, and the good ones are stored by
                then. With `pack` they are stored again, because corrected files make another store.
        """
        if self.complete:
            self._open()
            return
        with CacheFolder(self.path).filling(self._num_bytes) as partial:
            if partial:
                self._compute(partial, num_workers, description)

    def _report(self, problems: dict[int, str]) -> None:
        if problems:
            raise DataError(
                f"{len(problems)} of {len(self)} records cannot be used; correct or remove the "
                "files",
                [problems[index] for index in sorted(problems)],
            )

    def _compute(self, partial: Path, num_workers: int, description: str) -> None:
        with (partial / self._file).open("ab") as file:
            reserve(file.fileno(), self._num_bytes)
        checksum_file = partial / _CHECKSUMS
        if not checksum_file.is_file() or checksum_file.stat().st_size != 8 * len(self):
            checksum_file.write_bytes(bytes(8 * len(self)))

        problems: dict[int, str] = {}
        if len(self):
            rows = np.memmap(partial / self._file, self.dtype, "r+", shape=(len(self),))
            checksums = np.fromfile(checksum_file, np.uint64)
            todo = [
                (index, record)
                for index, record in enumerate(self.records)
                if not checksums[index] or checksums[index] != _checksum(rows[index].tobytes())
            ]
            make_row = _MakeRow(partial / self._file, self.dtype, self.superpixels, self.image_size)
            results = map_in_workers(make_row, todo, num_workers, description)
            with (partial / self._file).open("r+b") as file:
                for done, (index, problem) in enumerate(results, 1):
                    if isinstance(problem, OSError):
                        raise problem
                    if problem is not None:
                        problems[index] = problem
                    if done % _SYNCED == 0:
                        os.fsync(file.fileno())
                os.fsync(file.fileno())
        if problems and self.kind == "packed":  # corrected files have another key
            shutil.rmtree(partial)
        self._report(problems)
        if not np.fromfile(checksum_file, np.uint64).all():
            raise OSError(errno.EIO, f"not all rows of {partial} were written")
        with (partial / _INDEX).open("w", encoding="utf-8") as file:
            photos = [str(record.image) for record in self.records]
            json.dump(self.identity | {"photos": photos}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def _checksum(row: bytes) -> int:
    return zlib.crc32(row) | _DONE_BIT
