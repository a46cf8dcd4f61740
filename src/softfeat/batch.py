"""Many photos to folders of layers: finished ones are skipped, and a bad one stops no other."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from softfeat.imaging.images import file_identity
from softfeat.imaging.photo_files import is_folder
from softfeat.layers import check_bits, check_join
from softfeat.processes import Map, ProcessDiedError, map_here
from softfeat.remote_results import finished_summary, folder_of, save
from softfeat.reporting import Source, name_of, opened, reason_of
from softfeat.results import SUMMARY, claimed, is_finished, read_summary, remove_unfinished
from softfeat.segmenter import Segmenter
from softfeat.storage import RemoteFolder, RemotePhoto, check_folder

COLUMNS = "photo", "layers", "seconds", "folder"  # of a table of results
VERSION = 6  # version of the files of a photo; files of another version are written again


@dataclass(frozen=True)
class Result:
    """The result for one photo.

    Attributes:
        photo: The photo's path, or the name of an open file.
        folder: Folder of its layers; None after a failure.
        status: "segmented", "skipped" if it was finished before, or "failed".
        summary: The summary of its folder; empty after a failure.
        error: The reason of a failure.
    """

    photo: str
    folder: Path | RemoteFolder | None
    status: Literal["segmented", "skipped", "failed"]
    summary: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The reason of a failure in one line; empty without one."""
        return reason_of(self.error, self.photo)

    @property
    def work(self) -> str:
        """What was done, in a few words; empty after a failure."""
        if self.status == "segmented":
            return f"{len(self.summary['coverage'])} layers, {self.seconds:.1f} s"
        return "" if self.error else "skipped, it is finished"

    @property
    def seconds(self) -> float:
        """Seconds that were spent on it, now or in an earlier run; 0 after a failure."""
        return float(sum(self.summary.get("seconds", {}).values()))

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Name, number of layers, seconds or status, and folder or error: a row of a table."""
        name = Path(self.photo).name
        if self.error is not None:
            return name, "", self.status, self.reason
        seconds = f"{self.seconds:.1f}" if self.status == "segmented" else self.status
        return name, str(len(self.summary["coverage"])), seconds, str(self.folder)

    def to_json(self) -> str:
        """The result as one line of JSON."""
        values: dict[str, Any] = {"photo": self.photo, "status": self.status}
        if self.error is not None:
            values["error"] = self.reason
        else:
            values["folder"] = str(self.folder)
            values |= {key: self.summary[key] for key in ("size", "coverage", "seconds")}
        return json.dumps(values)


def segment_photos(
    segmenter: Segmenter,
    photos: Sequence[Source],
    output: Path | RemoteFolder,
    *,
    bits: int = 8,
    point: list[int] | None = None,
    box: list[int] | None = None,
    overwrite: bool = False,
    masks: bool = True,
    map_photos: Map = map_here,
) -> Iterator[Result]:
    """Writes the layers of each photo to a folder of its own.

    A photo is finished, and skipped, if its folder holds all files of a run with the same photo,
    weights and settings. Several processes may share the photos: one that another process works on
    comes last, and is waited for. At a URL there are no locks: processes that start together there
    may segment a photo twice, with the same result.

    Args:
        segmenter: Segmenter of the photos.
        photos: Files, open files with a name, or photos at URLs.
        output: Folder of the folders.
        bits: Bits of the alphas' files, 8 or 16.
        point: x, y in pixels of a part to cut out of each photo as well.
        box: Left, top, right, bottom of such a part, in place of `point`.
        overwrite: Whether to segment finished photos again.
        masks: Whether Photoshop documents get layer masks, see `Layers.save`.
        map_photos: Where the work is done, for example
            `partial(map_in_processes, count=4)`. A photo whose process dies has failed, and the
            others go on.

    Returns:
        The result for each photo, once it is known.

    Raises:
        ValueError: There are no files with this number of bits, or the output cannot be a folder.
    """
    check_bits(bits)
    if isinstance(output, RemoteFolder):
        check_folder(output.url)
    else:
        _prepare(output)
    origin = {
        "weights": segmenter.identity,
        "settings": segmenter.settings | {"bits": bits, "masks": masks, "point": point, "box": box},
        "version": VERSION,
    }

    renewed = time.time() if overwrite else 0
    return _Folders(segmenter, output, origin, renewed).results(photos, map_photos)


def _prepare(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output)  # also finds out whether the folder can be written
    except OSError as error:
        raise ValueError(
            f"output={output} cannot be a folder of results ({error.strerror}): choose another one"
        ) from error


@dataclass(frozen=True)
class _Folders:
    """The folders of many photos.

    Attributes:
        segmenter: Segmenter of the photos.
        output: Folder of the folders.
        origin: Entries of each summary: the weights, the settings and the version.
        renewed: Time in seconds since 1970. Layers from before are computed again.
    """

    segmenter: Segmenter
    output: Path | RemoteFolder
    origin: Mapping[str, Any]
    renewed: float

    def results(self, photos: Sequence[Source], map_photos: Map) -> Iterator[Result]:
        """Writes the layers of each photo; those that another process works on come last."""
        busy = []
        for photo, result in map_photos(partial(self._result, wait=False), photos):
            if result is None:
                busy.append(photo)
            elif isinstance(result, ProcessDiedError):
                yield Result(name_of(photo), None, "failed", error=result)
            else:
                yield result
        if busy:
            what = f"{len(busy)} of these photos"
            print(f"another process is working on {what}; waiting for it", file=sys.stderr)
        for photo in busy:
            if result := self._result(photo, wait=True):
                yield result

    def _result(self, photo: Source, wait: bool) -> Result | None:
        name = name_of(photo)
        try:
            return self._segment(photo, name, wait)
        except Exception as error:  # of this photo: the others go on
            return Result(name, None, "failed", error=error)

    def _segment(self, photo: Source, name: str, wait: bool) -> Result | None:
        """Writes the layers of a photo, if they are not finished.

        Without `wait`, None says that another process works on it.
        """
        stem, identity = _stem_and_identity(photo)
        origin = {"input": identity, **self.origin}
        with self._claimed(stem, identity, wait) as folder:
            if folder is None:
                return None
            if (summary := self._finished(folder, origin)) is not None:
                return Result(name, folder, "skipped", summary)
            settings = origin["settings"]
            bits, masks, point, box = (settings[k] for k in ("bits", "masks", "point", "box"))
            include = None if point is None else [point]
            cuts = include is not None or box is not None
            original = self.segmenter.read(opened(photo))
            if cuts:  # an error before the work
                check_join(original, include, box)
            layers = self.segmenter(original)
            cutout = layers.join(include, box) if cuts else None
            entries = {"photo": Path(name).name, **origin}

            def write(local: Path) -> dict[str, Any]:
                return layers.save(local, bits, cutout, entries, masks)

            try:
                summary = write(folder) if isinstance(folder, Path) else save(folder, write)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ValueError(f"{folder} cannot be written: {reason}") from error
            return Result(name, folder, "segmented", summary)

    def _claimed(
        self, stem: str, identity: list[str | int], wait: bool
    ) -> AbstractContextManager[Path | RemoteFolder | None]:
        if isinstance(self.output, Path):
            return claimed(stem, str(identity[0]), self.output, wait)
        return nullcontext(folder_of(self.output, stem, identity))

    def _finished(
        self, folder: Path | RemoteFolder, origin: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The summary of a folder that need not be written; None for any other."""
        if isinstance(folder, RemoteFolder):
            return None if self.renewed else finished_summary(folder, origin)
        if is_finished(folder, origin) and (folder / SUMMARY).stat().st_mtime >= self.renewed:
            return read_summary(folder)
        return None


def _stem_and_identity(photo: Source) -> tuple[str, list[str | int]]:
    """The name of the folder that a photo gets, and what tells it from others.

    Raises:
        OSError, ValueError: It is a folder, without photos or one that cannot be searched.
    """
    if isinstance(photo, RemotePhoto):
        return Path(photo.name).stem, photo.identity
    if not isinstance(photo, Path):
        return "stdin", [f"sha256:{hashlib.sha256(photo.getbuffer()).hexdigest()}"]
    if is_folder(photo):
        next(photo.iterdir(), None)  # raises an error if it cannot be searched
        raise ValueError("no photos in this folder and its subfolders: add some or remove it")
    return photo.stem, file_identity(photo)
