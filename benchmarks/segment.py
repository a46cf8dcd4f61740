"""Soft segmentation compared with the published computation, and its cost at several sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from rich.progress import track
from scipy.optimize import linear_sum_assignment

from benchmarks.measure import ratio, resident_peak, timed
from softfeat.imaging.images import read_image, resize_image
from softfeat.matting.soft_segmentation import REFERENCE, SoftSegmentation, Solver, soft_segment
from softfeat.models.extractor import load_extractor
from softfeat.models.photo_features import features_of

# The published solver with this project's constants of the constrained sparsification.
_SAME_CONSTANTS = replace(REFERENCE, iterations=Solver.iterations, floor=Solver.floor)


@dataclass(frozen=True)
class Run:
    """A measured soft segmentation.

    Attributes:
        layers: What was computed.
        seconds: Time of the whole computation.
        memory: Peak bytes above those before.
    """

    layers: SoftSegmentation
    seconds: float
    memory: float


def layer_distance(first: NDArray, second: NDArray) -> float:
    """Computes the mean absolute difference of two sets of layers, matched one to one.

    Args:
        first: (K,H,W).
        second: (L,H,W). The smaller set is filled up with empty layers.
    """
    count = max(len(first), len(second))
    padded = [np.pad(a, ((0, count - len(a)), (0, 0), (0, 0))) for a in (first, second)]
    costs = np.array([[np.abs(a - b).mean() for b in padded[1]] for a in padded[0]])
    return float(costs[linear_sum_assignment(costs)].mean())


def photo_at(path: Path, width: int) -> NDArray[np.uint8]:
    """Cuts out the 4:3 centre of a photo and resizes it to (3/4 width, width, 3) uint8."""
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
    """Times the default solver on all photos at all widths, and the reference on some of them.

    Args:
        checkpoint: Checkpoint of the features.
        photos: Files; a bare name is a photo that scikit-image ships.
        widths: Widths in pixels; heights are three quarters.
        compared: Pairs (index of the photo, width) for which the reference runs too, which takes
            minutes each.
        layers: Number of layers K.
        rounds: Number of runs of the default; the reference runs once.

    Returns:
        Result with one row per photo, width and way.
    """
    shipped = Path(skimage.__file__).parent / "data"
    files = [Path(p) if Path(p).is_file() else shipped / p for p in photos]
    extractor = load_extractor(checkpoint)
    with_reference = {tuple(pair) for pair in compared}
    rows: list[dict[str, str]] = []
    ratios: dict[str, dict[str, float]] = {}
    soft_segment(np.random.default_rng(0).random((64, 64, 3)), np.zeros((64, 64, 1)))  # warms up
    jobs = [(index, width) for width in widths for index in range(len(files))]
    for index, width in track(jobs, "soft segmentation"):
        photo = photo_at(files[index], width)
        run = partial(_run, photo / 255, features_of(extractor, photo), layers)
        name = f"{files[index].stem} {width}x{width * 3 // 4}"
        default, times = _median_run([run(Solver()) for _ in range(rounds)])
        rows.append(_row(name, "default", default))
        if (index, width) not in with_reference:
            continue
        for way, solver in (("slow, our constants", _SAME_CONSTANTS), ("published", REFERENCE)):
            slow = run(solver)
            distance = layer_distance(default.layers.alphas, slow.layers.alphas)
            rows.append(_row(name, way, slow, f"{distance:.3f}"))
            ratios[f"{way} / default, {name}"] = ratio([slow.seconds] * rounds, times)
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


def _run(image: NDArray, features: NDArray, layers: int, solver: Solver) -> Run:
    """Divides a photo (H,W,3) in [0,1] with features (H,W,D) and measures time and memory."""
    work = partial(soft_segment, image, features, layers, solver=solver)
    (result, memory), seconds = timed(partial(resident_peak, work))
    return Run(result, seconds, memory)


def _median_run(runs: Sequence[Run]) -> tuple[Run, list[float]]:
    """Picks the run of median time, with the peak memory of all; returns all times too."""
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    peak = max(run.memory for run in runs)
    return replace(middle, memory=peak), [run.seconds for run in runs]


def _row(photo: str, way: str, run: Run, distance: str = "") -> dict[str, str]:
    stages = {k: run.layers.seconds[k] for k in ("eigenvectors", "constrained", "relaxed")}
    return {
        "photo": photo,
        "way": way,
        **{stage: f"{seconds:.1f}" for stage, seconds in stages.items()},
        "rest": f"{run.seconds - sum(stages.values()):.1f}",
        "s": f"{run.seconds:.1f}",
        "s/Mpx": f"{run.seconds / run.layers.superpixels.size * 1e6:.0f}",
        "MB": f"{run.memory / 1e6:.0f}",
        "distance": distance,
    }
