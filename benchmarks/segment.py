"""Soft segmentation against the published way of computing it, and its cost against the size."""

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import skimage
from numpy.typing import NDArray
from rich.progress import track
from scipy.optimize import linear_sum_assignment

from benchmarks.measure import ratio
from softfeat.imaging.images import read_image, resize_image
from softfeat.matting.soft_segmentation import REFERENCE, SoftSegmentation, Solver, soft_segment
from softfeat.models.extractor import load_extractor
from softfeat.models.photo_features import features_of

T = TypeVar("T")
# Slow computations of what we compute: our constants of the constrained sparsification.
_SAME_CONSTANTS = replace(REFERENCE, iterations=Solver.iterations, floor=Solver.floor)
_SAMPLING_SECONDS = 0.02


def layer_distance(first: NDArray, second: NDArray) -> float:
    """Mean absolute difference of alphas, each layer beside its match.

    Args:
        first: (K,H,W).
        second: (L,H,W); layers that one of them lacks count as 0.
    """
    count = max(len(first), len(second))
    padded = [np.pad(a, ((0, count - len(a)), (0, 0), (0, 0))) for a in (first, second)]
    costs = np.array([[np.abs(a - b).mean() for b in padded[1]] for a in padded[0]])
    return float(costs[linear_sum_assignment(costs)].mean())


def resident_peak(function: Callable[[], T]) -> tuple[T, float]:
    """Calls a function and watches the process's memory; Linux only.

    Returns:
        The function's result, and the most bytes resident over those before (NaN elsewhere).
    """
    status = Path("/proc/self/statm")
    if not status.is_file():
        return function(), float("nan")
    gc.collect()
    with suppress(AttributeError):  # free memory that malloc keeps would hide what is taken again
        ctypes.CDLL(None).malloc_trim(0)

    def resident() -> int:
        return int(status.read_text().split()[1]) * 4096

    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLING_SECONDS):
            most[0] = max(most[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return function(), float(most[0])
    finally:
        done.set()
        watcher.join()


def photo_at(path: Path, width: int) -> NDArray[np.uint8]:
    """The middle of a photo, four to three, at a width: (3/4 width, width, 3) uint8."""
    photo = read_image(path)
    height, full = photo.shape[:2]
    high, wide = min(height, full * 3 // 4), min(full, height * 4 // 3)
    top, left = (height - high) // 2, (full - wide) // 2
    return resize_image(photo[top : top + high, left : left + wide], (width * 3 // 4, width))


def segment(
    checkpoint: str,
    photos: Sequence[str],
    widths: Sequence[int],
    compared: Sequence[tuple[int, int]],
    layers: int,
    rounds: int,
) -> dict[str, Any]:
    """Times the default on all photos at all widths, and beside it the reference on some.

    Args:
        checkpoint: of the features.
        photos: files; a bare name is a photo that scikit-image ships.
        widths: in pixels; heights are three quarters.
        compared: pairs (index of photo, width) that go through the reference, too: minutes each.
        layers: K.
        rounds: of the default; the reference runs once.

    Returns:
        Title, settings, rows and ratios.
    """
    shipped = Path(skimage.__file__).parent / "data"
    files = [Path(p) if Path(p).is_file() else shipped / p for p in photos]
    extractor = load_extractor(checkpoint)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[str, float]] = {}

    def run(image: NDArray, features: NDArray, solver: Solver) -> tuple[SoftSegmentation, float]:
        return resident_peak(lambda: soft_segment(image, features, layers, solver=solver))

    def add(
        name: str, found: SoftSegmentation, seconds: float, memory: float, ours: NDArray | None
    ) -> None:
        costly = {k: found.seconds[k] for k in ("eigenvectors", "constrained", "relaxed")}
        rows.append(
            {
                "photo": f"{file.stem} {width}x{width * 3 // 4}",
                "way": name,
                **{k: f"{v:.1f}" for k, v in costly.items()},
                "rest": f"{seconds - sum(costly.values()):.1f}",
                "s": f"{seconds:.1f}",
                "s/Mpx": f"{seconds / found.superpixels.size * 1e6:.0f}",
                "MB": f"{memory / 1e6:.0f}",
                "distance": "" if ours is None else f"{layer_distance(ours, found.alphas):.3f}",
            }
        )

    soft_segment(np.random.default_rng(0).random((64, 64, 3)), np.zeros((64, 64, 1)))  # warms up
    jobs = [(index, width) for width in widths for index in range(len(files))]
    for index, width in track(jobs, "soft segmentation"):
        file = files[index]
        photo = photo_at(file, width)
        image, features = photo / 255, features_of(extractor, photo)
        done = []
        for _ in range(rounds):
            started = time.perf_counter()
            ours, memory = run(image, features, Solver())
            done.append((time.perf_counter() - started, memory, ours))
        times, memories, _ = zip(*done, strict=True)
        middle = sorted(times)[rounds // 2]
        add("default", done[times.index(middle)][2], middle, max(memories), None)
        if (index, width) in [tuple(pair) for pair in compared]:
            for name, solver in (
                ("slow, our constants", _SAME_CONSTANTS),
                ("published", REFERENCE),
            ):
                started = time.perf_counter()
                theirs, memory = run(image, features, solver)
                seconds = time.perf_counter() - started
                add(name, theirs, seconds, memory, ours.alphas)
                key = f"{name} / default, {file.stem} {width}x{width * 3 // 4}"
                ratios[key] = ratio([seconds] * rounds, list(times))
    return {
        "title": "Soft segmentation: seconds per stage",
        "rows": rows,
        "ratios": ratios,
        "settings": {
            "layers": layers,
            "rounds of the default": f"{rounds}, of which the median one",
            "photos": "enlarged where they are smaller",
            "distance": "mean absolute difference of alphas to the default's",
            "MB": "most memory in use over that before",
        },
    }
