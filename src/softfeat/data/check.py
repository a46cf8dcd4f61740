"""Checks all files of a data set, before anything long is computed from them.

What a check found is kept in the cache, so that files that have not changed are read once.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from softfeat.atomic import replaced
from softfeat.data.files import named
from softfeat.data.layouts import Record
from softfeat.data.parallel import map_in_workers
from softfeat.data.records import (
    check_label_exists,
    check_size,
    photo_size,
    read_label,
    read_photo,
)
from softfeat.imaging.images import file_identity
from softfeat.ops.labels import CONTRAST, IGNORE

_VERSION = 1


@dataclass
class _Contents:
    """What some labelled photos contain.

    Attributes:
        raw_ids: All ids in the label files.
        pairs: Whether any photo has a class and another class or CONTRAST.
        unlabelled: Photos without a pixel of a class.
        turned: Photos with an EXIF orientation that the size of their label cannot confirm.
        photos: Number of photos.
    """

    raw_ids: list[int] = field(default_factory=list)
    pairs: bool = False
    unlabelled: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    photos: int = 0

    def add(self, record: Record, raw_ids: list[int], turned: bool) -> None:
        classes = {record.label_map.table[raw] for raw in raw_ids} - {IGNORE}
        self.raw_ids = sorted({*self.raw_ids, *raw_ids})
        self.pairs |= len(classes) > 1
        self.unlabelled += [] if classes - {CONTRAST} else [str(record.image)]
        self.turned += [str(record.image)] * turned
        self.photos += 1


@dataclass(frozen=True)
class _Examine:
    """Reads the files of a record, in a worker process."""

    decode: bool

    def __call__(self, record: Record) -> tuple[str | None, list[int], bool]:
        """Returns the error of the files, if any, the raw ids, and whether EXIF is in doubt."""
        try:
            check_label_exists(record)
            label = read_label(record.label, record.upright)
            try:
                record.label_map(label)
            except ValueError as error:
                raise ValueError(f"{record.label}: {error}") from error
            height, width, orientation = photo_size(record)
            if self.decode or (height, width) != label.shape:  # a head may be of a preview
                height, width = read_photo(record).shape[:2]
            check_size(record, (height, width), label.shape)
        except (ValueError, OSError, ImportError) as error:
            return str(error), [], False
        unconfirmed = orientation in (2, 3, 4) or (orientation > 4 and height == width)
        ids = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        return None, ids.tolist(), unconfirmed and record.upright


def check_splits(
    splits: Mapping[str, Sequence[Record]],
    cache_dir: Path,
    num_workers: int,
    decode: bool,
    needs_pairs: bool,
) -> dict[str, list[str]]:
    """Reads all labels, and the photos or only their heads. Warns about what may be a mistake.

    Args:
        splits: Records of each split.
        cache_dir: Folder of all stores.
        num_workers: Number of processes.
        decode: Decode the photos.
        needs_pairs: Whether a split without any photo of two classes is an error. Losses and scores
            of soft features compare superpixels of one photo.

    Returns:
        Problems of each split that has any.
    """
    problems = {split: _shared_labels(records) for split, records in splits.items()}
    parts = [
        (split, list(part))
        for split, records in splits.items()
        for _, part in groupby(records, lambda record: record.space)
    ]
    files = [_file(cache_dir, part, decode) for _, part in parts]
    known = [_read(file) for file in files]
    todo = [
        record
        for (_, part), contents in zip(parts, known, strict=True)
        if contents is None
        for record in part
    ]
    examine = _Examine(decode)
    # Without files to read there is no progress to show.
    results = map_in_workers(examine, todo, num_workers, "checking files") if todo else iter(())
    for (split, part), file, contents in zip(parts, files, known, strict=True):
        if contents is None:
            contents, bad = _Contents(), []
            for record in part:
                problem, raw_ids, turned = next(results)
                if problem is None:
                    contents.add(record, raw_ids, turned)
                else:
                    bad.append(problem)
            problems[split] += bad
            if bad:
                continue
            with suppress(OSError):  # a read-only cache: files are checked every time
                file.parent.mkdir(parents=True, exist_ok=True)
                with replaced(file) as partial:
                    partial.write_text(json.dumps(asdict(contents)), encoding="utf-8")
        problems[split] += _judge(contents, part, needs_pairs)
    next(results, None)  # ends the workers
    return {split: lines for split, lines in problems.items() if lines}


def _shared_labels(records: Sequence[Record]) -> list[str]:
    """Finds photos with the same label file, such as `a.jpg` and `a.png`."""
    first: dict[Path, Record] = {}
    return [
        f"{first[record.label].image} and {record.image} share the label {record.label}: rename or "
        "remove one of the photos"
        for record in records
        if first.setdefault(record.label, record) is not record
    ]


def _judge(contents: _Contents, records: Sequence[Record], needs_pairs: bool) -> list[str]:
    """Returns what makes some labelled photos useless as a whole, and warns about the rest."""
    folder = os.path.commonpath([record.label.parent for record in records])
    if doubt := records[0].label_map.doubt(contents.raw_ids):
        warnings.warn(f"{folder}: {doubt}", stacklevel=3)
    if contents.turned:
        warnings.warn(
            f"{folder}: {named(map(Path, contents.turned), 'photo')} with an EXIF orientation that "
            "the size of the label cannot confirm. Labels are taken as drawn on upright photos. If "
            "they were drawn on photos as stored, set data.exif=ignore",
            stacklevel=3,
        )
    if len(contents.unlabelled) == contents.photos:
        return [
            f"{folder}: no label has a pixel of a class, only ignored ({IGNORE}) or contrast "
            "pixels: label some photos of this split"
        ]
    if contents.unlabelled:
        unlabelled = named(map(Path, contents.unlabelled), "photo")
        warnings.warn(f"{folder}: {unlabelled} without a pixel of a class", stacklevel=3)
    if not contents.pairs:
        reason = (
            f"{folder}: no photo has two classes. Soft features compare superpixels of one photo: "
            "label another class in some photos, or make the rest a contrast class"
        )
        if needs_pairs:
            return [reason]
        warnings.warn(reason, stacklevel=3)
    return []


def _file(cache_dir: Path, records: Sequence[Record], decode: bool) -> Path:
    """Names the file of the contents by everything that decides them."""
    digest = hashlib.sha256(json.dumps([_VERSION, decode]).encode())
    for record in records:
        files = [file_identity(record.image), file_identity(record.label)]
        digest.update(json.dumps([files, record.label_map.table, record.upright]).encode())
    return cache_dir / "checked" / f"{digest.hexdigest()[:20]}.json"


def _read(file: Path) -> _Contents | None:
    try:
        return _Contents(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not checked yet, or damaged
        return None
