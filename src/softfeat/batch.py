"""Many photos to folders of layers: finished ones are skipped, and a bad one stops no other."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from softfeat.imaging.images import file_identity
from softfeat.imaging.photo_files import is_folder
from softfeat.layers import check_bits, check_join
from softfeat.processes import ProcessDiedError, map_in_processes
from softfeat.reporting import Source, name_of, reason_of
from softfeat.results import SUMMARY, claimed, is_finished, read_summary, remove_unfinished
from softfeat.segmenter import Segmenter

COLUMNS = "photo", "layers", "seconds", "folder"  # of a table of results
VERSION = 5  # version of the files of a photo; files of another version are written again


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
    folder: Path | None
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
            return f"{len(self.summary['coverage'])} layers, {self._seconds} s"
        return "" if self.error else "skipped, it is finished"

    @property
    def _seconds(self) -> str:
        return f"{sum(self.summary['seconds'].values()):.1f}"

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Name, number of layers, seconds or status, and folder or error: a row of a table."""
        name = Path(self.photo).name
        if self.error is not None:
            return name, "", self.status, self.reason
        seconds = self._seconds if self.status == "segmented" else self.status
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
    output: Path,
    *,
    bits: int = 8,
    point: list[int] | None = None,
    box: list[int] | None = None,
    overwrite: bool = False,
    masks: bool = True,
    processes: int = 1,
) -> Iterator[Result]:
    """Writes the layers of each photo to a folder of its own.

    A photo is finished, and skipped, if its folder holds all files of a run with the same photo,
    weights and settings. Several processes may share the photos: one that another process works on
    comes last, and is waited for.

    Args:
        segmenter: Segmenter of the photos.
        photos: Files, or open files with a name.
        output: Folder of the folders.
        bits: Bits of the alphas' files, 8 or 16.
        point: x, y in pixels of a part to cut out of each photo as well.
        box: Left, top, right, bottom of such a part, in place of `point`.
        overwrite: Whether to segment finished photos again.
        masks: Whether Photoshop documents get layer masks, see `Layers.save`.
        processes: Number of processes that work on photos. A photo whose process dies has failed,
            and the others go on.

    Returns:
        The result for each photo, once it is known.

    Raises:
        ValueError: There are no files with this number of bits, or the output cannot be a folder.
    """
    check_bits(bits)
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output)  # also finds out whether the folder can be written
    except OSError as error:
        raise ValueError(
            f"output={output} cannot be a folder of results ({error.strerror}): choose another one"
        ) from error
    origin = {
        "checkpoint": file_identity(segmenter.checkpoint),
        "settings": segmenter.settings | {"bits": bits, "masks": masks, "point": point, "box": box},
        "version": VERSION,
    }

    renewed = time.time() if overwrite else 0
    return _Folders(segmenter, output, origin, renewed).results(photos, processes)


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
    output: Path
    origin: Mapping[str, Any]
    renewed: float

    def results(self, photos: Sequence[Source], processes: int) -> Iterator[Result]:
        """Writes the layers of each photo; those that another process works on come last."""
        busy = []
        for photo, result in self._first_results(photos, processes):
            if result is None:
                busy.append(photo)
            else:
                yield result
        if busy:
            what = f"{len(busy)} of these photos"
            print(f"another process is working on {what}; waiting for it", file=sys.stderr)
        for photo in busy:
            if result := self._result(photo, wait=True):
                yield result

    def _first_results(
        self, photos: Sequence[Source], processes: int
    ) -> Iterator[tuple[Source, Result | None]]:
        """Each photo with its result; None if another command works on it."""
        if processes == 1:
            for photo in photos:
                yield photo, self._result(photo, wait=False)
            return
        work = partial(self._result, wait=False)
        for photo, result in map_in_processes(work, photos, min(processes, len(photos))):
            if isinstance(result, ProcessDiedError):
                yield photo, Result(name_of(photo), None, "failed", error=result)
            else:
                yield photo, result

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
        if not isinstance(photo, Path):
            stem = "stdin"
            identity: list[str | int] = [f"sha256:{hashlib.sha256(photo.getbuffer()).hexdigest()}"]
        elif is_folder(photo):
            next(photo.iterdir(), None)  # raises an error if it cannot be searched
            raise ValueError("no photos in this folder and its subfolders: add some or remove it")
        else:
            stem, identity = photo.stem, file_identity(photo)
        origin = {"input": identity, **self.origin}
        with claimed(stem, str(identity[0]), self.output, wait) as folder:
            if folder is None:
                return None
            if is_finished(folder, origin) and (folder / SUMMARY).stat().st_mtime >= self.renewed:
                return Result(name, folder, "skipped", read_summary(folder))
            settings = origin["settings"]
            bits, masks, point, box = (settings[k] for k in ("bits", "masks", "point", "box"))
            include = None if point is None else [point]
            cuts = include is not None or box is not None
            original = self.segmenter.read(photo)
            if cuts:  # an error before the work
                check_join(original, include, box)
            layers = self.segmenter(original)
            cutout = layers.join(include, box) if cuts else None
            try:
                entries = {"photo": Path(name).name, **origin}
                summary = layers.save(folder, bits, cutout, entries, masks)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ValueError(f"{folder} cannot be written: {reason}") from error
            return Result(name, folder, "segmented", summary)
