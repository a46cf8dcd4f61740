"""Features of many photos as tables, for databases and other programs.

A folder of results holds two tables as Parquet files, which any number of runs add to:

- `photos/*.parquet`, a row for each photo: `photo`, its path; `identity`, path, size and time of
  the file; `width` and `height` in pixels; `superpixels`, their number; `map`, the superpixel of
  each pixel as a PNG of 16 bits, at the size at which the photo was analysed; `components`, the
  first three principal components of its features as a PNG in RGB.
- `superpixels/*.parquet`, a row for each superpixel: `photo`; `superpixel`, its number in the map;
  `x` and `y`, its centre in pixels of the photo; `area`, its share of the photo; `red`, `green` and
  `blue`, its mean colour in sRGB, 0 to 255; `features`, their means, a list of D numbers.

Legend: S superpixels, D feature channels, h w pixels of the analysed photo.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray

from softfeat.atomic import PARTIAL
from softfeat.imaging.convert import ids_tensor, to_array, to_float, to_tensor, to_uint8
from softfeat.imaging.images import file_identity, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.locks import holding
from softfeat.models.photo_features import features_of
from softfeat.ops.pca import normalise, pca
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_mean
from softfeat.processes import Map, map_here
from softfeat.reporting import Source, name_of, opened, reason_of
from softfeat.segmenter import Segmenter, working_size
from softfeat.storage import (
    Folder,
    LocalFolder,
    RemoteFolder,
    RemotePhoto,
    check_folder,
    parquet_bytes,
    parquet_library,
)

COLUMNS = "photo", "superpixels", "status"  # of a table of results
_VERSION = 1  # of the tables
_PHOTOS_PER_FILE = 200
_PRECISION = 12  # bits of the fractions of features; the others are noise and hard to compress
_KEY = b"softfeat"  # of the settings in the files' metadata


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Features of a photo by superpixels.

    Attributes:
        size: Width and height of the photo.
        superpixels: (h,w) ids 0..S-1.
        features: (S,D) means of the features.
        colours: (S,3) mean colours in sRGB, 0 to 255.
        centres: (S,2) x and y in pixels of the photo.
        areas: (S,) shares of the photo, adding up to 1.
        components: (h',w',3) first principal components of the features, at their own resolution.
    """

    size: tuple[int, int]
    superpixels: NDArray[np.uint16]
    features: NDArray[np.float32]
    colours: NDArray[np.uint8]
    centres: NDArray[np.float32]
    areas: NDArray[np.float32]
    components: NDArray[np.uint8]


@dataclass(frozen=True)
class Extraction:
    """The result for one photo; see `softfeat.batch.Outcome`."""

    photo: str
    status: Literal["extracted", "skipped", "failed"]
    superpixels: int = 0
    seconds: float = 0
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The reason of a failure in one line; empty without one."""
        return reason_of(self.error, self.photo)

    @property
    def work(self) -> str:
        """What was done, in a few words; empty after a failure."""
        if self.status == "extracted":
            return f"{self.superpixels} superpixels"
        return "" if self.error else "skipped, it is finished"

    @property
    def row(self) -> tuple[str, str, str]:
        """Name, number of superpixels, and status or error: a row of a table."""
        number = str(self.superpixels) if self.status == "extracted" else ""
        return Path(self.photo).name, number, self.reason or self.status

    def to_json(self) -> str:
        """The result as one line of JSON."""
        values: dict[str, Any] = {"photo": self.photo, "status": self.status}
        if self.error is not None:
            values["error"] = self.reason
        elif self.status == "extracted":
            values["superpixels"] = self.superpixels
        return json.dumps(values)


@torch.inference_mode()
def extract(segmenter: Segmenter, photo: Path | BytesIO, superpixels: int = 500) -> PhotoFeatures:
    """Computes the features of a photo and their means over superpixels.

    Args:
        segmenter: Its network, sizes and limits are used.
        photo: File, or an open file.
        superpixels: Number of superpixels that is aimed at. Small photos get fewer.

    Raises:
        FileNotFoundError, ValueError: The photo cannot be used; see `Segmenter`.
    """
    pixels = segmenter.read(photo).srgb
    height, width, _ = pixels.shape
    small = resize_image(pixels, working_size(height, width, segmenter.size))  # (h,w,3)
    maps = to_tensor(features_of(segmenter.extractor, small, segmenter.features_sizes))
    count = min(superpixels, max(2, small.shape[0] * small.shape[1] // 16))
    labels = Superpixels(count, backend=segmenter.backend)(small)
    ids, number = ids_tensor(labels), int(labels.max()) + 1
    features, counts = pyramid_superpixel_mean([maps], ids, number)
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32) + 0.5
    places = np.dstack([columns * (width / small.shape[1]), rows * (height / small.shape[0])])
    described = np.concatenate([to_float(small), places], 2)  # (h,w,5)
    means = superpixel_mean(to_tensor(described), ids, number)[0][0].numpy()  # (S,5)
    return PhotoFeatures(
        size=(width, height),
        superpixels=labels,
        features=features[0].numpy(),
        colours=to_uint8(means[:, :3]),
        centres=means[:, 3:],
        areas=(counts[0] / labels.size).numpy().astype(np.float32),
        components=to_uint8(to_array(normalise(pca(maps)))),
    )


@contextmanager
def open_tables(
    output: Path | RemoteFolder, settings: Mapping[str, Any]
) -> Iterator["FeatureTables"]:
    """Opens the tables in a folder for more rows. Only one process may have them open.

    What a killed process has left is removed. What is added is written at the end at the latest.

    Args:
        output: Folder of the tables. It is made if it does not exist. At a URL nothing keeps other
            processes from it.
        settings: What the features depend on, as plain values.

    Raises:
        ValueError: The folder cannot be written, holds features of other settings, or another
            process has it open.
        ImportError: pyarrow is not installed. The message says how to install it.
    """
    parquet_library()
    with ExitStack() as stack:
        if isinstance(output, Path):
            stack.enter_context(_held(output))
            folder: Folder = LocalFolder(output)
        else:
            check_folder(output.url)
            folder = output
        tables = FeatureTables(folder, json.dumps(settings, sort_keys=True))
        try:
            yield tables
        finally:
            tables.flush()


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """Makes the folder of the tables and keeps other processes from it."""
    with ExitStack() as stack:
        try:
            for name in ("photos", "superpixels"):
                (output / name).mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(holding(output / ".lock", wait=False))
        except OSError as error:
            raise ValueError(
                f"output={output} cannot be a folder of tables ({error.strerror}): choose another"
            ) from error
        if not held:
            raise ValueError(f"output={output}: another process writes to it: choose another one")
        yield


class FeatureTables:
    """The tables in a folder; see `open_tables`.

    Rows are collected, and written as a whole file once there are those of 200 photos. A process
    that is killed loses the rows that it has collected, and nothing else.

    Args:
        output: Folder of the tables.
        settings: What the features depend on, as text.

    Attributes:
        finished: Identities of the photos in the tables.
    """

    def __init__(self, output: Folder, settings: str) -> None:
        self._output, self._settings = output, settings
        self._photos: list[dict[str, Any]] = []
        self._superpixels: list[Any] = []  # of pyarrow.RecordBatch
        try:
            self._remove_unfinished()
            self.finished = self._read_finished()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"output={output} cannot be read: {reason}") from error

    def _remove_unfinished(self) -> None:
        """Removes superpixels whose photos a killed process has not written, and partial files."""
        whole = {name for name in self._output.names("photos") if _is_table(name)}
        for part in ("photos", "superpixels"):
            for name in self._output.names(part):
                if name.startswith(PARTIAL) or (_is_table(name) and name not in whole):
                    self._output.delete(f"{part}/{name}")

    def _read_finished(self) -> set[str]:
        finished: set[str] = set()
        for name in filter(_is_table, self._output.names("photos")):
            path = f"photos/{name}"
            try:
                with self._output.opened(path) as file:
                    table = parquet_library().read_table(file, columns=["identity"])
            except (OSError, ValueError) as error:  # errors of pyarrow are of these kinds
                reason = "it is damaged: delete it, and its photos are extracted again"
                if isinstance(error, OSError) and isinstance(self._output, RemoteFolder):
                    reason = f"it cannot be read: {error}"  # perhaps the network
                raise ValueError(f"{self._output}/{path}: {reason}") from error
            if (table.schema.metadata or {}).get(_KEY, b"").decode() != self._settings:
                raise ValueError(
                    f"output={self._output} holds features of other weights or settings: choose "
                    "another folder"
                )
            finished.update(table.column("identity").to_pylist())
        return finished

    def add(self, photo: str, identity: str, found: PhotoFeatures) -> None:
        """Adds a photo.

        Raises:
            ValueError: The files cannot be written.
        """
        number = len(found.features)
        self._photos.append(
            {
                "photo": photo,
                "identity": identity,
                "width": found.size[0],
                "height": found.size[1],
                "superpixels": number,
                "map": imagecodecs.png_encode(found.superpixels),
                "components": imagecodecs.png_encode(np.ascontiguousarray(found.components)),
            }
        )
        self._superpixels.append(_rows(photo, found))
        if len(self._photos) >= _PHOTOS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Writes what was added. The photos come last: superpixels without them do not count.

        Raises:
            ValueError: The files cannot be written.
        """
        if not self._photos:
            return
        import pyarrow

        name = f"{secrets.token_hex(8)}.parquet"
        tables = {
            "superpixels": pyarrow.Table.from_batches(self._superpixels),
            "photos": pyarrow.Table.from_pylist(self._photos),
        }
        try:
            for part, table in tables.items():
                encodings = _ENCODINGS if part == "superpixels" else None
                table = table.replace_schema_metadata({_KEY: self._settings.encode()})
                self._output.write(f"{part}/{name}", parquet_bytes(table, encodings))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"{self._output} cannot be written: {reason}") from error
        self.finished.update(row["identity"] for row in self._photos)
        self._photos, self._superpixels = [], []


_ENCODINGS = {"features.list.element": "BYTE_STREAM_SPLIT"}


def _is_table(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")


def _rows(photo: str, found: PhotoFeatures) -> Any:
    """The rows of a photo in the table of superpixels, as a `pyarrow.RecordBatch`."""
    import pyarrow

    number, channels = found.features.shape
    values = pyarrow.array(rounded(found.features).ravel())
    red, green, blue = found.colours.T
    x, y = found.centres.T
    return pyarrow.record_batch(
        {
            "photo": pyarrow.array([photo] * number),
            "superpixel": pyarrow.array(np.arange(number, dtype=np.int32)),
            "x": np.ascontiguousarray(x),
            "y": np.ascontiguousarray(y),
            "area": found.areas,
            "red": np.ascontiguousarray(red),
            "green": np.ascontiguousarray(green),
            "blue": np.ascontiguousarray(blue),
            "features": pyarrow.FixedSizeListArray.from_arrays(values, channels),
        }
    )


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounds numbers to 12 binary digits after the first one, which makes files smaller.

    >>> rounded(np.float32([1 / 3, 1.0, -2 / 3])).tolist()
    [0.33331298828125, 1.0, -0.6666259765625]
    """
    dropped = 23 - _PRECISION
    whole = values.view(np.int32).astype(np.int64) + (1 << (dropped - 1))
    return (whole >> dropped << dropped).astype(np.int32).view(np.float32)


def extract_photos(
    segmenter: Segmenter,
    photos: Sequence[Source],
    output: Path | RemoteFolder,
    *,
    superpixels: int = 500,
    map_photos: Map = map_here,
) -> Iterator[Extraction]:
    """Adds the features of photos to the tables in a folder.

    Photos whose file is in the tables already are skipped. A photo that fails stops no other.

    Args:
        segmenter: Its network, sizes and limits are used.
        photos: Files, open files with a name, or photos at URLs.
        output: Folder of the tables.
        superpixels: Number of superpixels of a photo.
        map_photos: Where the work is done, for example
            `partial(map_in_processes, count=4)`.

    Yields:
        The result for each photo, once it is known. Its rows may be written later, and at the
        latest when the iterator ends or is closed.

    Raises:
        ValueError: The folder cannot be used.
        ImportError: pyarrow is not installed.
    """
    settings = segmenter.settings | {"superpixels": superpixels}
    del settings["layers"], settings["seed"]
    origin = {"weights": segmenter.identity, "settings": settings, "version": _VERSION}
    stack = ExitStack()
    tables = stack.enter_context(open_tables(output, origin))  # errors before the first photo
    attempt = partial(_attempt, segmenter, superpixels)
    return _extractions(stack, tables, attempt, photos, map_photos)


def _attempt(
    segmenter: Segmenter, superpixels: int, photo: Source
) -> tuple[PhotoFeatures, float] | Exception:
    """The features of a photo and the seconds that it took, or why there are none."""
    start = perf_counter()
    try:
        found = extract(segmenter, opened(photo), superpixels)
    except Exception as error:  # of this photo: the others go on
        return error
    return found, perf_counter() - start


def _extractions(
    stack: ExitStack,
    tables: FeatureTables,
    attempt: Callable[[Source], tuple[PhotoFeatures, float] | Exception],
    photos: Sequence[Source],
    map_photos: Map,
) -> Iterator[Extraction]:
    with stack:
        identities = {photo: _identity(photo) for photo in photos}
        waiting: dict[str, Source] = {}  # by identity: the same file may be named twice
        for photo, identity in identities.items():
            if identity in tables.finished or identity in waiting:
                yield Extraction(name_of(photo), "skipped")
            else:
                waiting[identity] = photo
        for photo, found in map_photos(attempt, list(waiting.values())):
            name = name_of(photo)
            if isinstance(found, Exception):
                yield Extraction(name, "failed", error=found)
            else:
                features, seconds = found
                tables.add(name, identities[photo], features)
                yield Extraction(name, "extracted", len(features.features), seconds)


def _identity(photo: Source) -> str:
    """What tells a file from others and from its earlier versions."""
    if isinstance(photo, RemotePhoto):
        return json.dumps(photo.identity)
    if not isinstance(photo, Path):
        return f"{photo.name}:{secrets.token_hex(8)}"  # a stream is always new
    try:
        return json.dumps(file_identity(photo))
    except OSError:  # reported when it is read
        return str(photo)
