"""Long runs in one process: memory, open files and the time of a step stay level."""

import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl

from faults import commands, samples
from faults.cases import Case, Outcome
from faults.intervals import slope
from faults.processes import last_line, run
from softfeat.batch import segment_photos
from softfeat.segmenter import Segmenter

_BLOCKS = 100  # medians that slopes are computed from
_SETTLED = 0.2  # share of a run before caches are warm
_EPOCH = 100  # steps
_QUANTITIES = {"memory": "MB", "open files": "files", "time": "ms per item"}


class Recorder:
    """Measures this process after each item.

    Args:
        file: File that `write` writes to.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.times = [time.perf_counter()]
        self.values: dict[str, list[float]] = {"memory": [], "open files": []}

    def measure(self) -> None:
        """Notes time, resident memory and the number of open files."""
        self.times.append(time.perf_counter())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.values["memory"].append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.values["open files"].append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208

    def write(self) -> None:
        """Writes the measurements of all items."""
        steps = [1e3 * (after - before) for before, after in pairwise(self.times)]
        self.file.write_text(json.dumps(self.values | {"time": steps}))


class Watch(pl.Callback):
    """Measures each step of a training.

    Args:
        file: File for the measurements.
    """

    def __init__(self, file: str) -> None:
        self.recorder = Recorder(file)

    def on_train_batch_end(self, *_: Any) -> None:
        self.recorder.measure()

    def on_fit_end(self, *_: Any) -> None:
        self.recorder.write()


class Long:
    """Runs many steps and many photos, each in one process.

    Args:
        steps: Training steps, a multiple of 100, or fewer than 100.
        photos: Photos that are segmented.
        tolerance: Growth of a quantity over a run, as a share of its first level, that still counts
            as level. Open files must not grow at all.
        limit: Seconds that a run may take.
        runs: Runs whose times must all grow before that counts. In one run, other programs may have
            taken more and more of the machine.
    """

    title = "Long runs"

    def __init__(
        self, steps: int, photos: int, tolerance: float, limit: float, runs: int = 1
    ) -> None:
        self.steps, self.photos, self.tolerance, self.limit = steps, photos, tolerance, limit
        self.runs = runs

    def cases(self, seed: int) -> Sequence[Case]:  # noqa: ARG002, which decides the data only
        """Lists the two runs."""
        names = (f"{self.steps} training steps", f"{self.photos} photos")
        return [Case(name, name) for name in names]

    def attempt(self, case: Case, seed: int, folder: Path) -> Outcome:
        """Runs to the end and computes the slopes."""
        for number in range(self.runs):
            inner = folder / str(number)
            inner.mkdir()
            outcome = self._attempt_once(case, seed, inner)
            if (outcome.verdict, outcome.detail) != ("grows", "time"):
                break
        return outcome

    def _attempt_once(self, case: Case, seed: int, folder: Path) -> Outcome:
        file = folder / "measured.json"
        function = self._photos if case.name.endswith("photos") else self._training
        ended = run(function(folder, file, seed), folder, folder / "log", self.limit)
        if ended.code or not file.is_file():
            detail = ended.crash or last_line(ended.err)
            return Outcome(case.name, case.fault, "ended early", detail)
        values = {
            quantity: level(measured, 0 if quantity == "open files" else self.tolerance)
            for quantity, measured in json.loads(file.read_text()).items()
        }
        growing = [quantity for quantity, value in values.items() if not value["level"]]
        verdict = "grows" if growing else "level"
        return Outcome(case.name, case.fault, verdict, ", ".join(growing), values=values)

    def summary(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Makes a row per run and quantity."""
        rows = [
            {
                "run": outcome.name,
                "quantity": f"{quantity}, {_QUANTITIES[quantity]}",
                "at the start": f"{value['start']:.4g}",
                "slope per 1,000 items": f"{1000 * value['slope']:.3g}",
                "95 % interval": f"{1000 * value['low']:.3g} to {1000 * value['high']:.3g}",
                "level": "yes" if value["level"] else "**no**",
            }
            for outcome in outcomes
            for quantity, value in sorted(outcome.values.items())
        ]
        early = [{"run": o.name, "error": o.detail} for o in outcomes if not o.values]
        return {
            "rows": rows or early,
            "tables": {"Ended early": early} if early and rows else {},
            "failed": sum(outcome.verdict != "level" for outcome in outcomes),
        }

    def _training(self, folder: Path, file: Path, seed: int) -> Callable[[], None]:
        root = samples.write_set(folder / "set", seed)
        epoch = min(_EPOCH, self.steps)
        arguments = commands.train_arguments(
            root,
            folder / "cache",
            folder / "run",
            f"data.steps_per_epoch={epoch}",
            f"trainer.max_epochs={self.steps // epoch}",
            "+callbacks.watch._target_=faults.long.Watch",
            f"+callbacks.watch.file={file}",
        )
        return commands.command("train", arguments)

    def _photos(self, folder: Path, file: Path, seed: int) -> Callable[[], None]:
        photos = samples.write_photos(folder / "photos", self.photos, seed)
        checkpoint = samples.write_checkpoint(folder / "tiny.ckpt", seed)

        def segment() -> None:
            segmenter = Segmenter(checkpoint, layers=2, size=32)
            recorder = Recorder(str(file))
            for result in segment_photos(segmenter, sorted(photos.iterdir()), folder / "out"):
                if result.error is not None:
                    raise result.error
                recorder.measure()
            recorder.write()

        return segment


def level(measured: Sequence[float], tolerance: float) -> dict[str, Any]:
    """Judges whether a quantity stays level, after the first fifth of a run.

    It grows if the whole interval of its slope is above 0 and the growth over the run is more than
    the tolerance allows.

    >>> level([5.0] * 50, 0.0)["level"]
    True
    >>> level([float(n) for n in range(50)], 0.1)["level"]
    False

    Args:
        measured: The quantity after each item.
        tolerance: Permitted growth over the run, as a share of the first level.

    Returns:
        `start`, the first level; `slope`, `low` and `high` per item; `level`.
    """
    settled = list(measured)[int(_SETTLED * len(measured)) :]
    size = max(1, len(settled) // _BLOCKS)
    places = range(0, len(settled) - size + 1, size)
    medians = [median(settled[place : place + size]) for place in places]
    fit = slope(places, medians)
    growth = fit.low * len(settled)
    grows = fit.low > 0 and growth > tolerance * abs(medians[0])
    return {
        "start": medians[0],
        "slope": fit.value,
        "low": fit.low,
        "high": fit.high,
        "level": not grows,
    }
