"""Many photos: photos per minute of several processes and of a Ray cluster, and long runs on it."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.progress import Progress
from scipy.ndimage import gaussian_filter

from benchmarks.measure import ratio, times_in_turn

_PARTS = 5  # of a long run, whose times and memory are compared
_SAMPLED_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class Run:
    """A command on many photos.

    Attributes:
        finished: Seconds from the start until each photo was finished, ascending.
        memory: Rows (seconds from the start, bytes of the command, bytes of all its processes).
    """

    finished: list[float]
    memory: list[tuple[float, int, int]]


def many_photos(
    compared: int, rounds: int, processes: int, extracted: int, segmented: int, layers: int
) -> dict[str, Any]:
    """Compares the ways to work on many photos, and watches long runs.

    Args:
        compared: Photos of 640x480 pixels that each way segments.
        rounds: Number of times that all ways run, one after the other.
        processes: Number of processes.
        extracted: Photos of 160x120 pixels that a cluster of this machine extracts.
        segmented: Photos of 160x120 pixels that it segments.
        layers: Number of layers K.

    Returns:
        Result with a row per part of a long run.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        ratios = _ways(folder, compared, rounds, processes, layers) if compared else {}
        rows = []
        for command, count, options in (
            ("extract", extracted, ["-s", 200]),
            ("segment", segmented, ["-k", layers]),
        ):
            if count:
                photos = _write(folder / f"photos for {command}", count, (120, 160))
                arguments = [photos, "-o", folder / command, "-j", processes, *options]
                run = _watched([command, *map(str, arguments), "--engine", "ray"], count)
                rows += _rows(command, run)
    return {
        "title": "Many photos",
        "rows": rows,
        "ratios": ratios,
        "settings": {
            "layers": layers,
            "processes": processes,
            "rounds": rounds,
            "photos of 640x480 pixels": compared,
            "photos that extract gets": extracted,
            "photos that segment gets": segmented,
            "long runs": "160x120 pixels, Ray on this machine",
        },
    }


def _write(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes JPEG photos of coloured clouds, each another one."""
    folder.mkdir()

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        clouds = gaussian_filter(rng.standard_normal((*size, 3)), (size[0] / 12, size[0] / 12, 0))
        clouds = clouds / clouds.std() * 50 + 128 + rng.normal(0, 4, (*size, 3))
        pixels = clouds.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(count)))
    return folder


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "softfeat", *arguments]


def _ways(
    folder: Path, photos: int, rounds: int, processes: int, layers: int
) -> dict[str, dict[str, float]]:
    """Photos per minute of several processes and of Ray, in relation to each other."""
    source = _write(folder / "photos", photos, (480, 640))
    several = ["-j", str(processes)]
    ways: Mapping[str, list[str]] = {
        "one": ["--threads", "1"],
        "several": several,
        "ray": [*several, "--engine", "ray"],
    }

    def segment(way: str) -> None:
        arguments = [str(source), "-o", str(folder / way), "-k", str(layers), "--overwrite"]
        command = _command(["segment", *arguments, *ways[way]])
        subprocess.run(command, check=True, capture_output=True)

    seconds = times_in_turn({way: partial(segment, way) for way in ways}, rounds)
    several_name = f"-j {processes}"
    return {
        f"photos per minute, {several_name} / one process with one thread": ratio(
            seconds["one"], seconds["several"]
        ),
        f"photos per minute, Ray with {several_name} / {several_name}": ratio(
            seconds["several"], seconds["ray"]
        ),
    }


def _watched(arguments: Sequence[str], count: int) -> Run:
    """Runs a command and notes when photos are finished and what memory is in use.

    Raises:
        RuntimeError: It failed.
    """
    finished: list[float] = []
    memory: list[tuple[float, int, int]] = []
    start = time.monotonic()
    process = subprocess.Popen(
        _command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def watch() -> None:
        while process.poll() is None:
            own, everything = _memory(process.pid)
            memory.append((time.monotonic() - start, own, everything))
            time.sleep(_SAMPLED_EVERY)

    with ThreadPoolExecutor(1) as pool, Progress() as progress:
        pool.submit(watch)
        task = progress.add_task(arguments[0], total=count)
        assert process.stderr is not None
        others = []
        for line in process.stderr:
            if line.partition(" ")[0].endswith(f"/{count}"):
                finished.append(time.monotonic() - start)
                progress.advance(task)
            else:
                others.append(line)
        process.wait()
    if process.returncode or len(finished) != count:
        raise RuntimeError(f"{' '.join(arguments)} failed: {''.join(others)[-2000:]}")
    return Run(finished, memory)


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of a process, and of those that compute for it; what they share counts once."""
    own, everything = 0, 0
    try:
        parent = psutil.Process(pid)
        own = everything = parent.memory_info().rss
        for child in parent.children(recursive=True):
            with_shared = child.memory_info()
            if "_Worker" in " ".join(child.cmdline()):
                everything += with_shared.rss - with_shared.shared
    except psutil.Error:
        pass
    return own, everything


def _rows(command: str, run: Run) -> list[dict[str, str]]:
    """A row for each part of a run, with as many photos in each."""
    rows = []
    edges = np.linspace(0, len(run.finished), _PARTS + 1).astype(int)
    for first, end in pairwise(edges):
        since = run.finished[first - 1] if first else run.finished[0]
        until = run.finished[end - 1]
        inside = [sample for sample in run.memory if since <= sample[0] <= until]
        own, everything = (max((s[k] for s in inside), default=0) / 1e6 for k in (1, 2))
        number = end - max(first, 1)
        rows.append(
            {
                "command": command,
                "photos": f"{first + 1} to {end}",
                "ms a photo": f"{(until - since) / max(number, 1) * 1e3:.0f}",
                "MB of the command": f"{own:.0f}",
                "MB with its processes": f"{everything:.0f}",
            }
        )
    return rows
