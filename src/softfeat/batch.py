"""Many photos to folders of layers: finished ones are skipped, and a bad one stops no other."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from softfeat.imaging.images import file_identity
from softfeat.results import folder_for, is_finished, read_summary
from softfeat.segmenter import Segmenter, check_bits, check_cutout

VERSION = 3  # version of the files of a photo; files of another version are written again
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
        readable = isinstance(self.error, ValueError | OSError | ImportError)
        text = str(self.error) if readable else repr(self.error)
        return " ".join(text.removeprefix(f"{self.photo}: ").splitlines())

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
) -> Iterator[Result]:
    """Writes the layers of each photo to a folder of its own.

    A photo is finished, and skipped, if its folder holds all files of a run with the same photo,
    weights and settings.

    Args:
        segmenter: Segmenter of the photos.
        photos: Files, or open files with a name.
        output: Folder of the folders.
        bits: Bits of the alphas' files, 8 or 16.
        point: x, y in pixels of a part to cut out of each photo as well.
        box: Left, top, right, bottom of such a part, in place of `point`.
        overwrite: Whether to segment finished photos again.

    Returns:
        The result for each photo, once it is known.

    Raises:
        ValueError: There are no files with this number of bits, or the output cannot be a folder.
    """
    check_bits(bits)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output={output} cannot be a folder ({error.strerror}): choose another one"
        ) from error
    origin = {
        "checkpoint": file_identity(segmenter.checkpoint),
        "settings": segmenter.settings | {"bits": bits, "point": point, "box": box},
        "version": VERSION,
    }

    def result(photo: Source) -> Result:
        name = str(photo) if isinstance(photo, Path) else photo.name
        try:
            return _segment(photo, name, segmenter, output, origin, overwrite)
        except Exception as error:  # of this photo: the others go on
            return Result(name, None, "failed", error=error)

    return map(result, photos)


def _segment(
    photo: Source,
    name: str,
    segmenter: Segmenter,
    output: Path,
    origin: Mapping[str, Any],
    overwrite: bool,
) -> Result:
    """Writes the layers of one photo, if they are not finished; see `segment_photos`."""
    if isinstance(photo, Path):
        stem, identity = photo.stem, file_identity(photo)
    else:
        stem = "stdin"
        identity = [f"sha256:{hashlib.sha256(photo.getbuffer()).hexdigest()}"]
    folder = folder_for(stem, str(identity[0]), output)
    origin = {"input": identity, **origin}
    if not overwrite and is_finished(folder, origin):
        return Result(name, folder, "skipped", read_summary(folder))
    bits, point, box = (origin["settings"][key] for key in ("bits", "point", "box"))
    include = None if point is None else [point]
    cuts = include is not None or box is not None
    original = segmenter.read(photo)
    if cuts:  # an error before the work
        check_cutout(original, include, box)
    layers = segmenter(original)
    cutout = layers.cutout(include, box) if cuts else None
    summary = layers.save(folder, bits, cutout, {"photo": Path(name).name, **origin})
    return Result(name, folder, "segmented", summary)


def report(results: Iterator[Result], count: int, as_json: bool = False) -> int:
    """Reports results while they come in: progress and failures on stderr, a table on stdout.

    Args:
        results: Results of `segment_photos`.
        count: Number of photos.
        as_json: Whether to print one JSON object per photo in place of the table.

    Returns:
        The number of failed photos.
    """
    errors = Console(stderr=True)
    table = Table(
        *(Column(name, overflow="fold") for name in ("photo", "layers", "seconds", "folder"))
    )
    failed = 0
    tracked = track(
        results,
        "segmenting (the first run compiles code)",
        count,
        console=errors,
        disable=not errors.is_terminal,
    )
    for result in tracked:
        layers, seconds, place = "", str(result.status), str(result.folder)
        if result.error is not None:
            failed += 1
            place = result.reason
            line = " ".join(f"error: {result.photo}: {place}".splitlines())
            errors.print(Text(_printable(line)), soft_wrap=True)
        else:
            layers = str(len(result.summary["coverage"]))
        if result.status == "segmented":
            seconds = f"{sum(result.summary['seconds'].values()):.1f}"
        if as_json:
            print(result.to_json(), flush=True)
        cells = (Path(result.photo).name, layers, seconds, place)
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    if not as_json:
        Console().print(table)
    if failed:
        errors.print(f"{failed} of {count} photos failed", highlight=False)
    return failed


def _printable(text: str) -> str:
    """Replaces the parts of a file name that are no valid text."""
    return os.fsencode(text).decode(errors="replace")
