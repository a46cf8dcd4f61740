"""Reads what an offline W&B run leaves on disk; wandb itself has no reader for it.

A `.wandb` file is a log in LevelDB's format. After 7 bytes of header come blocks of 32 KiB; in them
lie pieces, each behind a checksum (4 bytes), a length (2) and a kind (1): a whole record, or its
first, middle or last piece. A record is a protobuf message.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import MetricRecord, Record, RunRecord

_HEADER, _BLOCK = 7, 32768
_WHOLE, _LAST = 1, 4


@dataclass
class OfflineRun:
    """What one run has logged.

    Attributes:
        run: W&B's own fields: `run_id`, `display_name`, `run_group`, `job_type`, `project`, ...
        config: nested, as `wandb.config` was.
        history: one dict a call of `log`, keys as they were logged; pictures, tables and the like
            are dicts with a `_type`.
        summary: the last value of each key, or what its metric asks for: `{"max": ...}`.
        metrics: definitions by name, or by the pattern they hold for ("*").
        media: the files next to the log, as history names them in `path`.
        exit_code: None for a run that was not finished.
    """

    run: RunRecord = field(default_factory=RunRecord)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, MetricRecord] = field(default_factory=dict)
    media: dict[str, Path] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The rows of history that have a value for `key`."""
        return [row for row in self.history if key in row]


def read(wandb_dir: Path, patience: float = 10.0) -> OfflineRun:
    """The one offline run below `RUN_DIR/wandb`.

    `wandb.finish` returns before its service has written everything, so this waits for the record
    of the run's end, but no longer than `patience` seconds.
    """
    (path,) = wandb_dir.glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + patience
    result = _parse(path.read_bytes())
    while result.exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
        result = _parse(path.read_bytes())
    files = path.parent / "files"
    result.media = {p.relative_to(files).as_posix(): p for p in files.rglob("media/**/*.*")}
    return result


def _parse(log: bytes) -> OfflineRun:
    result = OfflineRun()
    for record in records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            result.run = record.run
            update(result.config, record.run.config.update)
        elif kind == "config":
            update(result.config, record.config.update)
        elif kind == "history":
            result.history.append({})
            update(result.history[-1], record.history.item)
        elif kind == "summary":
            update(result.summary, record.summary.update)
        elif kind == "metric":
            result.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "exit":
            result.exit_code = record.exit.exit_code
    return result


def records(log: bytes) -> Iterator[Record]:
    """The messages of a `.wandb` file, up to where it was cut off; checksums are checked."""
    assert b":W&B".startswith(log[:4]), "no W&B log"
    position, message = _HEADER, b""
    while position + _HEADER <= len(log):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # too short for a piece: padding
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", log, position)
        position += _HEADER
        piece = log[position : position + length]
        if len(piece) < length:
            return
        assert zlib.crc32(bytes([kind]) + piece) == checksum, f"damaged before byte {position}"
        position += length
        message += piece
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(message)
            message = b""


def update(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Sets (nested) keys to the JSON values of protobuf items."""
    for item in items:
        *parents, name = item.nested_key or [item.key]
        place = target
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)
