"""How well clicks cut things out, compared with other ways to answer the same kind of clicks.

A simulated user clicks at the deepest point of the largest error, at first inside the object, and
then where the last answer of the method is wrong. Objects are those of the suite `objects`; mattes
are those of alphamatting.com.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from kornia.color import rgb_to_lab
from numpy.typing import NDArray
from scipy import ndimage
from skimage.data import coffee
from skimage.segmentation import random_walker

from benchmarks.mattes import photo_mattes
from benchmarks.measure import timed
from benchmarks.objects import Job, draw_objects, largest_objects, reduced_label
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import Folder
from softfeat.data.parallel import map_in_workers, worker_count
from softfeat.data.records import read_record
from softfeat.imaging.convert import to_tensor
from softfeat.imaging.images import resize_image
from softfeat.metrics.matte import matte_errors
from softfeat.ops.guided_filter import guided_filter
from softfeat.ops.labels import IGNORE
from softfeat.segmenter import Segmenter
from softfeat.selection import Selector

_BACKGROUND = 0  # id of the contrast class in the files of all sets of objects
_SHOWN = (1, 3, 5, 10)  # numbers of clicks in the tables
_GOALS = (0.85, 0.9)
_DISC = 4  # pixels around a click that the rivals take for certain
_FIRST_GUESS = 0.2  # radius of GrabCut's first guess, as a share of the photo's longer side
_WALKER_BETA = 130.0  # the default of scikit-image
_POSITION = 100.0  # Lab units that the longer side of the photo is worth
_OURS = "softfeat"

Mask: TypeAlias = NDArray[np.bool_]
Points: TypeAlias = Sequence[tuple[int, int]]
Box: TypeAlias = tuple[int, int, int, int]
Method: TypeAlias = Callable[[Points, Points, Box | None], NDArray[np.floating]]


def deepest_point(mask: Mask) -> tuple[tuple[int, int], int]:
    """Finds the point (x, y) farthest from the border of the largest part of a mask.

    Args:
        mask: (H,W). The border of the photo counts as a border.

    Returns:
        The point, and the area of the part; an area of 0 for an empty mask.
    """
    parts, count = ndimage.label(mask)
    if not count:
        return (0, 0), 0
    areas = np.bincount(parts.ravel())[1:]
    largest = parts == 1 + areas.argmax()
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return (int(x), int(y)), int(areas.max())


def iou(matte: NDArray, truth: Mask, valid: Mask) -> float:
    """IoU of the pixels of a matte above one half with an object, where pixels count."""
    inside = (matte > 0.5) & valid
    return float((inside & truth).sum() / ((inside | truth) & valid).sum())


def simulate(
    method: Method, truth: Mask, valid: Mask, most: int, enough: float, box: Box | None = None
) -> tuple[list[NDArray], float]:
    """Clicks until the answer is good enough.

    Args:
        method: Answers clicks.
        truth: (H,W) the object.
        valid: (H,W) the pixels that count.
        most: Largest number of clicks.
        enough: IoU at which the user stops.
        box: A box that is given as well.

    Returns:
        The answers after 1, 2, ... clicks, and the mean milliseconds of an answer.
    """
    include: list[tuple[int, int]] = []
    exclude: list[tuple[int, int]] = []
    answers: list[NDArray] = []
    current: NDArray = np.zeros(truth.shape)
    seconds = 0.0
    for _ in range(most):
        inside = current > 0.5
        missing, miss = deepest_point(truth & ~inside & valid)
        surplus, excess = deepest_point(~truth & inside & valid)
        if not max(miss, excess):
            break
        (include if miss >= excess else exclude).append(missing if miss >= excess else surplus)
        start = time.perf_counter()
        current = method(include, exclude, box)
        seconds += time.perf_counter() - start
        answers.append(current)
        if iou(current, truth, valid) >= enough:
            break
    return answers, 1000 * seconds / max(1, len(answers))


def _disc(shape: tuple[int, ...], points: Points, radius: float = _DISC) -> Mask:
    """(H,W) the pixels near points."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    mask = np.zeros(shape[:2], bool)
    for px, py in points:
        mask |= (x - px) ** 2 + (y - py) ** 2 <= radius**2
    return mask


def grabcut(photo: NDArray[np.uint8], include: Points, exclude: Points, box: Box | None) -> NDArray:
    """OpenCV's GrabCut. Pixels near clicks and outside of the box are certain.

    Without a box it begins with wide discs around the clicks on the thing.
    """
    import cv2

    mask = np.full(photo.shape[:2], cv2.GC_PR_BGD, np.uint8)
    mask[_disc(photo.shape, include, max(photo.shape) * _FIRST_GUESS)] = cv2.GC_PR_FGD
    if box is not None:
        mask[:] = cv2.GC_BGD
        mask[box[1] : box[3], box[0] : box[2]] = cv2.GC_PR_FGD
    mask[_disc(photo.shape, include)] = cv2.GC_FGD
    mask[_disc(photo.shape, exclude)] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    if np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():  # there is no background to model
        return np.ones(mask.shape)
    cv2.grabCut(photo[..., ::-1].copy(), mask, (0, 0, 1, 1), *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float64)


def soft_grabcut(
    photo: NDArray[np.uint8], include: Points, exclude: Points, box: Box | None
) -> NDArray:
    """GrabCut with a guided filter."""
    mask = torch.from_numpy(grabcut(photo, include, exclude, box)).float()[None, None]
    return guided_filter(mask, to_tensor(photo), 11, 1e-4)[0, 0].clamp(0, 1).numpy()


def walker(photo: NDArray[np.uint8], include: Points, exclude: Points, box: Box | None) -> NDArray:
    """scikit-image's random walker. The frame of the photo, or of the box, is background."""
    seeds = np.zeros(photo.shape[:2], np.int64)
    left, top, right, bottom = box or (1, 1, photo.shape[1] - 1, photo.shape[0] - 1)
    outside = np.ones(seeds.shape, bool)
    outside[top:bottom, left:right] = False
    seeds[outside] = 2
    seeds[_disc(photo.shape, include)] = 1
    if not include:
        x, y = (left + right) // 2, (top + bottom) // 2
        seeds[_disc(photo.shape, [(x, y)])] = 1
    seeds[_disc(photo.shape, exclude)] = 2
    if not (seeds == 2).any() or not (seeds == 1).any():
        return (seeds == 1).astype(np.float64)
    with warnings.catch_warnings():  # of probabilities that are 0.001 above 1
        warnings.simplefilter("ignore")
        return random_walker(
            photo / 255,
            seeds,
            beta=_WALKER_BETA,
            mode="cg_j",
            tol=1e-3,
            channel_axis=-1,
            return_full_prob=True,
        )[0].clip(0, 1)


def nearest_click(
    selector: Selector, values: NDArray, include: Points, exclude: Points, box: Box | None
) -> NDArray:
    """Gives each superpixel to the nearest click; the frame of the photo or box is background.

    Args:
        selector: The photo.
        values: (S,V) what is compared.
        include: Points on the thing.
        exclude: Points that are not on it.
        box: Left, top, right and bottom of a box around it.
    """
    ids = selector.superpixels.astype(np.int64)
    left, top, right, bottom = box or (1, 1, ids.shape[1] - 1, ids.shape[0] - 1)
    outside = np.ones(ids.shape, bool)
    outside[top:bottom, left:right] = False

    def distance(points: Points, mask: Mask) -> NDArray:
        clicked = np.unique([*(ids[y, x] for x, y in points), *np.unique(ids[mask])]).astype(int)
        if not len(clicked):
            return np.full(len(values), np.inf)
        difference = values[:, None] - values[None, clicked]  # (S,n,V)
        return np.sqrt((difference**2).sum(-1)).min(1)

    none = np.zeros(ids.shape, bool)
    inside = ~outside if box is not None and not include else none
    return (distance(include, inside) < distance(exclude, outside))[ids].astype(np.float64)


def _means(values: NDArray, ids: NDArray) -> NDArray:
    """Means (S,V) of values (H,W,V) over superpixels."""
    count = np.maximum(1, np.bincount(ids.ravel()))
    sums = [np.bincount(ids.ravel(), each.ravel()) for each in np.moveaxis(values, -1, 0)]
    return np.stack(sums, 1) / count[:, None]


def methods_for(
    segmenter: Segmenter, photo: NDArray[np.uint8], rivals: Mapping[str, Segmenter]
) -> tuple[dict[str, Method], float]:
    """Makes the methods for a photo.

    Args:
        segmenter: Our own.
        photo: (H,W,3) RGB.
        rivals: Others of the same kind, by the names of their rows.

    Returns:
        Methods by name, and the seconds that ours takes before the first click.
    """
    start = time.perf_counter()
    opened = segmenter.open(photo)
    selector = opened.selector.prepare()
    seconds = time.perf_counter() - start
    height, width = photo.shape[:2]
    lab = rgb_to_lab(to_tensor(photo))[0].permute(1, 2, 0).numpy()
    y, x = np.mgrid[:height, :width] * (_POSITION / max(height, width))
    colours = _means(np.dstack([lab, x, y]), selector.superpixels)

    def clicked(own: Selector, include: Points, exclude: Points, box: Box | None) -> NDArray:
        return own.select(include, exclude, box, preview=True)

    others = {name: rival.open(photo).selector for name, rival in rivals.items()}
    networks = {name: partial(clicked, own) for name, own in {_OURS: selector, **others}.items()}
    return {
        **networks,
        "nearest click, Lab + position": partial(nearest_click, selector, colours),
        "nearest click, features": partial(nearest_click, selector, selector.features),
        "random walker": partial(walker, photo),
        "GrabCut": partial(grabcut, photo),
    }, seconds


def measure(
    segmenter: Segmenter, rivals: Mapping[str, Segmenter], size: int, most: int, job: Job
) -> list[dict[str, dict[str, Any]]]:
    """Clicks on the objects of a photo, with every method.

    Returns:
        For each object and method: "clicks", IoU after each click; "box" and "subject", IoU of the
        answers to a box and to nothing; "ms" of an answer and "seconds" before.
    """
    torch.set_num_threads(1)
    photo, label = read_record(job.record)
    label = reduced_label(label, size)
    photo = resize_image(photo, (label.shape[0], label.shape[1]))
    methods, seconds = methods_for(segmenter, photo, rivals)
    masks, valid = largest_objects(label), label != IGNORE
    outcomes = []
    for class_id in job.classes:
        truth = masks[class_id]
        rows, columns = np.nonzero(truth)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        frame = (2, 2, photo.shape[1] - 2, photo.shape[0] - 2)
        outcome: dict[str, dict[str, Any]] = {}
        for name, method in methods.items():
            answers, ms = simulate(method, truth, valid, most, max(_GOALS))
            subject = method([], [], None if name in (_OURS, *rivals) else frame)
            outcome[name] = {
                "clicks": [iou(answer, truth, valid) for answer in answers],
                "box": iou(method([], [], box), truth, valid),
                "subject": iou(subject, truth, valid),
                "ms": ms,
                "seconds": seconds,
            }
        outcomes.append(outcome)
    return outcomes


def after(scores: Sequence[float], number: int) -> float:
    """The best score after up to a number of clicks: a user stops at a good answer."""
    return max(scores[:number])


def clicks_to(scores: Sequence[float], goal: float, most: int) -> int:
    """The number of clicks to a goal; `most` if it is never reached."""
    return next((n for n, score in enumerate(scores, 1) if score >= goal), most)


def rows_of(outcomes: Sequence[Mapping[str, Mapping[str, Any]]], most: int) -> list[dict[str, str]]:
    """Averages the outcomes of objects; one row per method."""
    rows = []
    for name in outcomes[0]:
        own = [outcome[name] for outcome in outcomes]
        row = {"method": name}
        for number in _SHOWN:
            mean = np.mean([after(each["clicks"], number) for each in own])
            row[f"{number} click" + "s" * (number > 1)] = f"{mean:.3f}"
        for goal in _GOALS:
            mean = np.mean([clicks_to(each["clicks"], goal, most) for each in own])
            row[f"clicks to {goal:.0%}"] = f"{mean:.1f}"
        row["box"] = f"{np.mean([each['box'] for each in own]):.3f}"
        row["subject"] = f"{np.mean([each['subject'] for each in own]):.3f}"
        row["ms per click"] = f"{np.median([each['ms'] for each in own]):.0f}"
        rows.append(row)
    return rows


def clicks(
    root: str | Path,
    sets: Sequence[str],
    checkpoint: str,
    split: str,
    held_back: bool,
    count: int,
    size: int,
    most: int,
    seed: int,
    num_workers: int | None,
    rivals: Mapping[str, str] = MappingProxyType({}),
    name: str = "clicks",
) -> dict[str, Any]:
    """Clicks on labelled objects.

    Args:
        root: Folder of the sets.
        sets: Names of folders there, each in the folder layout with id 0 for everything that is
            not an object.
        checkpoint: Weights with a click network.
        split: Split of these sets.
        held_back: Whether to use only the tenth of the photos that trainings hold back.
        count: Number of objects per set; all if there are fewer.
        size: Pixels of the long side of the photos; smaller photos stay as they are.
        most: Largest number of clicks.
        seed: Random seed of the objects.
        num_workers: Processes; None for one per core, 0 for this process.
        rivals: Other weights with a click network, by the names of their rows.
        name: Name of the result file.

    Returns:
        Result with one table per set.

    Raises:
        ValueError: A set has no such split or no objects.
    """
    segmenter = Segmenter(checkpoint)
    jobs: list[Job] = []
    for folder in sets:
        records = Folder(Path(root) / folder, test=None, contrast=[_BACKGROUND]).records(split)
        if held_back:
            records = [record for record in records if is_held_back(record.image.stem)]
        jobs += draw_objects(folder, records, count, size, seed)
    networks = {way: Segmenter(weights) for way, weights in rivals.items()}
    run = partial(measure, segmenter, networks, size, most)
    found = list(map_in_workers(run, jobs, worker_count(num_workers), "photos"))
    by_set = {
        folder: [
            outcome
            for job, outcomes in zip(jobs, found, strict=True)
            if job.folder == folder
            for outcome in outcomes
        ]
        for folder in sets
    }
    first, *others = sets
    return {
        "name": name,
        "title": f"Clicks on objects of {first}: mean IoU",
        "rows": rows_of(by_set[first], most),
        "tables": {folder: rows_of(by_set[folder], most) for folder in others},
        "ratios": {},
        "settings": {
            "objects": ", ".join(f"{len(each)} {folder}" for folder, each in by_set.items()),
            "split": split + (", held back" if held_back else ""),
            "size": size,
            "most clicks": most,
            "seed": seed,
        },
    }


def click_mattes(
    root: str | Path, checkpoint: str, size: int, most: int, every: int, name: str = "click_mattes"
) -> dict[str, Any]:
    """Clicks on the true mattes of alphamatting.com.

    Args:
        root: Folder with `images/` and `alphas/`.
        checkpoint: Weights with a click network.
        size: Pixels of the long side of the photos.
        most: Number of clicks.
        every: Takes every so many photos.
        name: Name of the result file.

    Returns:
        Result with one row per method.
    """
    torch.set_num_threads(1)
    segmenter = Segmenter(checkpoint)
    errors: dict[str, list[tuple[float, float]]] = {}
    for photo, (matte,) in list(photo_mattes(Path(root), size))[::every]:
        methods, _ = methods_for(segmenter, photo, {})
        methods["GrabCut + guided filter"] = partial(soft_grabcut, photo)
        valid = (matte < 0.1) | (matte > 0.9)  # elsewhere a click says neither yes nor no
        for method_name, method in methods.items():
            answers, _ = simulate(method, matte > 0.5, valid, most, 1.0)
            error = matte_errors(np.clip(answers[-1], 0, 1), matte)
            errors.setdefault(method_name, []).append((error.sad, 1000 * error.mse))
    rows = []
    for method_name, pairs in errors.items():
        sad, mse = np.mean(pairs, 0)
        rows.append({"method": method_name, "SAD": f"{sad:.2f}", "MSE (1/1000)": f"{mse:.1f}"})
    return {
        "name": name,
        "title": f"Mattes of alphamatting.com after {most} clicks",
        "rows": rows,
        "ratios": {},
        "settings": {"photos": len(pairs), "size": size},
    }


def click_times(
    checkpoint: str, sizes: Sequence[Sequence[int]], rounds: int, name: str = "click_times"
) -> dict[str, Any]:
    """Times the analysis of a photo and the clicks after it.

    Args:
        checkpoint: Weights with a click network.
        sizes: Width and height of the photos, which are a free photo of scikit-image, enlarged.
        rounds: Number of clicks of each kind; the table shows medians, and the slowest click.
        name: Name of the result file.

    Returns:
        Result with one row per size.
    """
    segmenter, picture = Segmenter(checkpoint), coffee()
    segmenter.open(picture).select(preview=True)  # compiles and warms up
    rows = []
    for width, height in sizes:
        photo = resize_image(picture, (height, width))
        opened, opening = timed(partial(segmenter.open, photo))
        _, preparing = timed(opened.selector.prepare)
        rng = np.random.default_rng(0)
        times: dict[bool, list[float]] = {True: [], False: []}
        for preview, seconds in times.items():
            for number in range(rounds if preview else max(1, rounds // 5)):
                x, y = rng.uniform(0.3, 0.6, 2) * (width, height)
                beside = [(width - 5, height - 5)] * (number % 2)
                click = partial(opened.select, [(x, y)], beside, preview=preview)
                seconds.append(timed(click)[1])
        rows.append(
            {
                "photo": f"{width}x{height}",
                "analysis (s)": f"{opening + preparing:.2f}",
                "click, preview (ms)": f"{1000 * np.median(times[True]):.0f}",
                "slowest (ms)": f"{1000 * max(times[True]):.0f}",
                "click, whole photo (ms)": f"{1000 * np.median(times[False]):.0f}",
            }
        )
    return {
        "name": name,
        "title": "Seconds of the analysis and milliseconds of a click",
        "rows": rows,
        "ratios": {},
        "settings": {"clicks": rounds, "threads": torch.get_num_threads()},
    }
