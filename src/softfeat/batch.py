"""Many photos to folders of layers: finished ones are skipped, and a bad one stops no other."""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from softfeat.imaging.images import file_identity
from softfeat.imaging.photo_files import is_folder
from softfeat.interrupt import Interrupted
from softfeat.layers import check_bits, check_join
from softfeat.names import printable
from softfeat.processes import ProcessDiedError, map_in_processes
from softfeat.results import SUMMARY, claimed, is_finished, read_summary, remove_unfinished
from softfeat.segmenter import Segmenter

VERSION = 5  # version of the files of a photo; files of another version are written again
_MOST_NAMED = 10  # files that are no photos, named in a line
Source = Path | BytesIO


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
        if self.error is None:
            return ""
        readable = isinstance(self.error, ValueError | OSError | ImportError | ProcessDiedError)
        text = str(self.error) if readable else repr(self.error)
        if isinstance(self.error, OSError) and self.error.strerror:
            text = self.error.strerror  # without the path, which is the photo's
        return " ".join(text.removeprefix(f"{self.photo}: ").splitlines())

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
                yield photo, Result(_name(photo), None, "failed", error=result)
            else:
                yield photo, result

    def _result(self, photo: Source, wait: bool) -> Result | None:
        name = _name(photo)
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


def _name(photo: Source) -> str:
    return str(photo) if isinstance(photo, Path) else photo.name


def report(
    results: Iterator[Result],
    count: int,
    as_json: bool = False,
    others: Sequence[Path] = (),
    advice: str = "run the same command again to continue",
) -> int:
    """Reports results while they come in: progress and failures on stderr, a table on stdout.

    Without a terminal, progress is a line per photo.

    Args:
        results: Results of `segment_photos`.
        count: Number of photos.
        as_json: Whether to print one JSON object per photo in place of the table.
        others: Files that were left out because they are no photos.
        advice: What to do if the command is stopped.

    Returns:
        The number of failed photos.

    Raises:
        Interrupted: The command is stopped. What is finished is reported before.
    """
    errors = Console(stderr=True)
    table = Table(
        *(Column(name, overflow="fold") for name in ("photo", "layers", "seconds", "folder"))
    )
    numbers = Counter[str]()
    stopped: Interrupted | None = None
    tracked = track(
        results,
        "segmenting",
        count,
        console=errors,
        disable=not errors.is_terminal,
    )
    try:
        for result in tracked:
            numbers[result.status] += 1
            if result.error is not None:
                _say(errors, f"error: {result.photo}: {result.reason}")
            elif not as_json and not errors.is_terminal:
                _say(errors, f"{numbers.total()}/{count} {result.photo}: {result.work}")
            if as_json:
                print(result.to_json(), flush=True)
            table.add_row(*(Text(printable(cell)) for cell in result.row))
    except Interrupted as error:
        stopped = error
    if not as_json and table.row_count:
        Console().print(table)
    if others:
        _say(errors, _list_others(others))
    if numbers["failed"]:
        _say(errors, f"{numbers['failed']} of {count} photos failed")
    if stopped is not None:
        done = numbers["segmented"] + numbers["skipped"]
        finished = f"{done} of {count} photos are finished; {advice}"
        raise Interrupted(stopped.signum, finished) from stopped
    return numbers["failed"]


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line)), soft_wrap=True)


def _list_others(others: Sequence[Path]) -> str:
    names = [str(path) for path in others[:_MOST_NAMED]]
    more = len(others) - len(names)
    what = "1 file is no photo" if len(others) == 1 else f"{len(others)} files are no photos"
    return f"{what}: {', '.join(names)}" + (f", and {more} more" if more else "")
