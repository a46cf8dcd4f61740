"""The command `softfeat segment`, from the shell to its files, compared with an earlier version.

Each command is a process of its own, so imports, loading of the weights and writing count.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from skimage import data

from benchmarks.measure import ratio, times_in_turn

_NOW, _BEFORE = "this version", "version before"
_SMALL = 0.3072  # megapixels: 640x480


@dataclass(frozen=True)
class Finished:
    """What a command took: seconds, and its largest memory in bytes."""

    seconds: float
    memory: int


def whole_commands(
    before: str | None,
    megapixels: Sequence[float],
    rounds: int,
    spinners: int,
    photos: int,
    layers: int,
) -> dict[str, Any]:
    """Runs `softfeat segment` on photos of several sizes, on a busy machine, and on a folder.

    Args:
        before: Python of an environment in which an earlier version is installed; None leaves the
            comparison out.
        megapixels: Sizes of the photo, which is enlarged to 4:3.
        rounds: Number of times that both versions run, one after the other.
        spinners: Number of processes that compute without end meanwhile, for the busy machine.
        photos: Number of photos of 640x480 pixels that one process with one thread segments, and
            two processes do.
        layers: Number of layers K.

    Returns:
        Result with one row per size and version.
    """
    pythons = {_NOW: sys.executable} | ({} if before is None else {_BEFORE: before})
    rows: list[dict[str, str]] = []
    ratios: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for size in track(megapixels, "photos"):
            photo = _photo(folder / "photo.jpg", size)
            finished: dict[str, list[Finished]] = {side: [] for side in pythons}
            for _ in range(rounds + 1):  # the first round warms up
                for side, python in pythons.items():
                    output = folder / side
                    finished[side].append(_run(python, [photo, "-o", output, "-k", layers]))
            for side in pythons:
                other = "" if side == _NOW else _difference(folder / _NOW, folder / _BEFORE)
                rows.append(_row(size, side, finished[side][1:], folder / side, other))
            if before is not None:
                seconds = {s: [f.seconds for f in finished[s][1:]] for s in pythons}
                ratios[f"{size:g} megapixels, {_BEFORE} / {_NOW}"] = ratio(
                    seconds[_BEFORE], seconds[_NOW]
                )
        ratios |= _busy(folder, spinners, rounds, layers) | _processes(folder, photos, rounds)
    return {
        "title": "Whole commands",
        "rows": rows,
        "ratios": ratios,
        "settings": {
            "layers": layers,
            "rounds": rounds,
            "photo": "enlarged, JPEG",
            "photos of the folder": photos,
            **({} if before is None else {_BEFORE: _revision(before)}),
            "difference": "mean absolute difference of the alphas of both versions",
        },
    }


def _photo(file: Path, size: float) -> Path:
    width = round((size * 1e6 * 4 / 3) ** 0.5)
    picture = Image.fromarray(data.astronaut()).crop((0, 64, 512, 448))
    picture.resize((width, round(width * 3 / 4))).save(file, quality=95)
    return file


def _run(python: str, arguments: Sequence[object]) -> Finished:
    """Runs `softfeat segment` and overwrites its results.

    Raises:
        RuntimeError: It failed.
    """
    command = [python, "-m", "softfeat", "segment", "--overwrite", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {message.strip()}")
    return Finished(time.perf_counter() - started, usage.ru_maxrss * 1024)


def _revision(python: str) -> str:
    """The Git revision of the version that a Python imports."""
    program = "from softfeat.revision import revision; print(revision()[:7])"
    found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _alphas(output: Path) -> NDArray[np.float32]:
    files = sorted(output.glob("*/alpha_*.png"))
    alphas = np.stack([np.asarray(Image.open(file)) for file in files])
    return (alphas / 255).astype(np.float32)


def _difference(now: Path, before: Path) -> str:
    """Mean absolute difference of alphas, each layer with the one of the other that is nearest."""
    first, second = (_alphas(output) for output in (now, before))
    costs = np.array([[np.abs(a - b).mean() for b in second] for a in first])
    return f"{costs[linear_sum_assignment(costs)].mean():.3f}"


def _row(
    size: float, side: str, finished: Sequence[Finished], output: Path, difference: str
) -> dict[str, str]:
    (summary,) = output.glob("*/summary.json")
    seconds: Mapping[str, float] = json.loads(summary.read_text("utf-8"))["seconds"]
    return {
        "megapixels": f"{size:g}",
        "version": side,
        "s": f"{median(f.seconds for f in finished):.1f}",
        **{f"{stage}, s": f"{seconds[stage]:.1f}" for stage in seconds},
        "MB": f"{max(f.memory for f in finished) / 1e6:.0f}",
        "difference": difference,
    }


def _busy(folder: Path, spinners: int, rounds: int, layers: int) -> dict[str, dict[str, float]]:
    """Seconds of one photo while other processes spin, divided by those without them."""
    arguments = [_photo(folder / "small.jpg", _SMALL), "-o", folder / "busy", "-k", layers]
    run = partial(_run, sys.executable, arguments)

    def busy() -> None:
        with _spinning(spinners):
            run()

    seconds = times_in_turn({"idle": run, "busy": busy}, rounds)
    name = f"640x480, {spinners} spinning processes / idle"
    return {name: ratio(seconds["busy"], seconds["idle"])}


@contextmanager
def _spinning(count: int) -> Iterator[None]:
    spin = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _processes(folder: Path, photos: int, rounds: int) -> dict[str, dict[str, float]]:
    """Photos per minute of two processes with a thread each, divided by those of one."""
    source = folder / "photos"
    source.mkdir()
    for index in range(photos):
        _photo(source / f"{index}.jpg", _SMALL)
    ways = {"two": ["-j", 2], "one": ["--threads", 1]}
    sides = {
        way: partial(_run, sys.executable, [source, "-o", folder / way, *options])
        for way, options in ways.items()
    }
    seconds = times_in_turn(sides, rounds)
    name = "photos per minute, -j 2 / one process with one thread"
    return {name: ratio(seconds["one"], seconds["two"])}
