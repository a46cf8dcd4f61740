"""How well layers hold labelled objects, and how well they cover regions that people drew.

An object is the largest connected component of a class in a photo. Its scores are the soft IoU of
the best single layer, the soft IoU of the best union of layers (an oracle), and the number of
layers that hold a tenth of it or more. Regions are those of BSDS500: their covering by the layer
that is largest at each pixel.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from kornia.color import rgb_to_lab
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage

from benchmarks.mattes import kmeans_layers
from benchmarks.measure import timed
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import Folder, Record
from softfeat.data.parallel import map_in_workers, worker_count
from softfeat.data.records import read_classes, read_record, resize_label
from softfeat.imaging.images import resize_image
from softfeat.matting.soft_segmentation import analyse, layers_of
from softfeat.metrics.objects import (
    best_layer_iou,
    best_union_iou,
    layers_holding,
    segmentation_covering,
)
from softfeat.models.extractor import Extractor, load_extractor
from softfeat.models.photo_features import features_of
from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.pca import normalise
from softfeat.segmenter import working_size

_SMALLEST, _LARGEST = 0.03, 0.6  # share of the photo that an object covers
_BACKGROUND = 0  # id of the contrast class in the files of all sets of objects
_REGIONS, _REGIONS_SPLIT = "bsds500", "val"
_MEASURES = {"layer IoU": ".3f", "union IoU": ".3f", "layers holding": ".2f"}

_AUTO = "As many layers as the segment tree suggests (auto)"

Mask: TypeAlias = NDArray[np.bool_]
Cut: TypeAlias = tuple[str, int | Literal["auto"]]  # way, number of layers


@dataclass(frozen=True)
class Job:
    """A photo, and what its layers are compared with.

    Attributes:
        folder: Name of the set.
        record: Files of the photo and its label.
        classes: Classes whose largest objects are scored. If empty, the regions of the label are.
    """

    folder: str
    record: Record
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a job measured.

    Attributes:
        scores: For each way and number of layers, one dictionary per object (or one for the
            regions of the photo).
        counts: Number of layers, for each way and requested number.
        seconds: For each way, seconds per stage.
    """

    scores: dict[Cut, list[dict[str, float]]]
    counts: dict[Cut, int]
    seconds: dict[str, dict[str, float]]


def largest_objects(label: NDArray[np.uint8]) -> dict[int, Mask]:
    """Finds the largest 4-connected component of each class that covers 3 % to 60 % of a photo.

    Args:
        label: (H,W) classes 0..K-1, CONTRAST or IGNORE.

    Returns:
        (H,W) masks by class.
    """
    objects = {}
    for class_id in np.unique(label[label < CONTRAST]).tolist():
        parts, _ = ndimage.label(label == class_id)
        mask = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
        if _SMALLEST <= mask.mean() <= _LARGEST:
            objects[class_id] = mask
    return objects


def reduced_label(label: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Reduces a label map (H,W) to a long side of at most `size` pixels."""
    height, width = label.shape
    return resize_label(label, working_size(height, width, size))


def draw_objects(
    folder: str, records: Sequence[Record], count: int, size: int, seed: int
) -> list[Job]:
    """Draws objects of a set: pairs of a photo and a class.

    Args:
        folder: Name of the set.
        records: Photos of the set.
        count: Number of objects. All are taken if there are fewer.
        size: Pixels of the long side at which objects are found.
        seed: Random seed. With the same seed, fewer objects are part of more.

    Returns:
        One job per photo.

    Raises:
        ValueError: No photo shows an object.
    """
    pairs = [
        (number, class_id)
        for number, record in enumerate(track(records, f"objects of {folder}"))
        for class_id in largest_objects(reduced_label(read_classes(record), size))
    ]
    if not pairs:
        raise ValueError(
            f"{folder}: none of {len(records)} photos shows an object that covers "
            f"{_SMALLEST:.0%} to {_LARGEST:.0%} of it; choose other sets or another split"
        )
    classes: dict[int, list[int]] = defaultdict(list)
    for index in sorted(np.random.default_rng(seed).permutation(len(pairs))[:count]):
        number, class_id = pairs[index]
        classes[number].append(class_id)
    return [Job(folder, records[number], tuple(ids)) for number, ids in classes.items()]


def lab_features(image: NDArray) -> NDArray[np.float32]:
    """Makes features of Lab colours: (H,W,3) RGB in [0,1] -> (H,W,3), in [0,1].

    Each channel is scaled to its range on the photo, as `analyse` does with a network's features.
    """
    guide = torch.tensor(image.transpose(2, 0, 1).copy()).float()[None]
    return normalise(rgb_to_lab(guide))[0].permute(1, 2, 0).numpy()


def layers_of_ways(
    photo: NDArray[np.uint8],
    networks: Mapping[str, Extractor],
    features_sizes: Sequence[int],
    layers: int,
    seed: int,
) -> tuple[dict[Cut, NDArray[np.float32]], dict[str, dict[str, float]]]:
    """Divides a photo in every way. One analysis serves all cuts of a way.

    Args:
        photo: (H,W,3) uint8.
        networks: Extractors by the names of their ways.
        features_sizes: Long sides in pixels at which the networks see the photo.
        layers: Number of layers K, in addition to "auto".
        seed: Random seed of the eigenvectors and of k-means.

    Returns:
        alphas: (K,H,W) of each way and number of layers. K-means has no "auto".
        seconds: Seconds per stage of each way that has an analysis.
    """
    image = photo / 255
    sources = {
        name: partial(features_of, extractor, photo, features_sizes)
        for name, extractor in networks.items()
    } | {"Lab": partial(lab_features, image)}
    alphas: dict[Cut, NDArray[np.float32]] = {}
    seconds = {}
    for way, source in sources.items():
        maps, duration = timed(source)
        analysis = analyse(image, maps, seed)
        seconds[way] = {"network": duration, **analysis.seconds}
        cuts: tuple[int | Literal["auto"], ...] = (layers, "auto")
        for number in cuts:
            cut = layers_of(analysis, number)
            alphas[way, number] = cut.alphas
            seconds[way][f"relaxed, {number}"] = cut.seconds["relaxed"]
        if way in networks:
            alphas[f"k-means, {way}", layers] = kmeans_layers(analysis.features, layers, seed)
    return alphas, seconds


def object_scores(alphas: NDArray, mask: Mask, valid: Mask) -> dict[str, float]:
    """Scores layers (K,H,W) on an object (H,W), at the pixels (H,W) that count."""
    return {
        "layer IoU": best_layer_iou(alphas, mask, valid),
        "union IoU": best_union_iou(alphas, mask, valid),
        "layers holding": layers_holding(alphas, mask, valid),
    }


def measure(
    networks: Mapping[str, Extractor],
    size: int,
    features_sizes: Sequence[int],
    layers: int,
    seed: int,
    job: Job,
) -> Outcome:
    """Divides the photo of a job and scores its layers. `objects` explains the arguments."""
    photo, label = read_record(job.record)
    label = reduced_label(label, size)
    photo = resize_image(photo, (label.shape[0], label.shape[1]))
    alphas, seconds = layers_of_ways(photo, networks, features_sizes, layers, seed)
    if job.classes:
        masks_by_class = largest_objects(label)
        masks, valid = [masks_by_class[class_id] for class_id in job.classes], label != IGNORE
        scores = {
            cut: [object_scores(each, mask, valid) for mask in masks]
            for cut, each in alphas.items()
        }
    else:
        scores = {
            cut: [{"covering": segmentation_covering(each.argmax(0), label, IGNORE)}]
            for cut, each in alphas.items()
        }
    return Outcome(scores, {cut: len(each) for cut, each in alphas.items()}, seconds)


def score_rows(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], number: int | Literal["auto"]
) -> list[dict[str, str]]:
    """Averages the scores over the objects of each set, and then over the sets.

    Args:
        jobs: The photos.
        outcomes: What was measured, in the same order.
        number: Number of layers.

    Returns:
        One row per way.
    """
    folders = [f for f in dict.fromkeys(job.folder for job in jobs) if f != _REGIONS]
    rows = []
    for way in [way for way, layers in outcomes[0].scores if layers == number]:
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for job, outcome in zip(jobs, outcomes, strict=True):
            for score in outcome.scores[way, number]:
                for measure_name, value in score.items():
                    values[job.folder, measure_name].append(value)
        means = {key: float(np.mean(each)) for key, each in values.items()}
        count = np.mean([outcome.counts[way, number] for outcome in outcomes])
        row = {"way": way, "layers per photo": f"{count:.1f}"}
        for name, form in _MEASURES.items():
            by_set = {folder: means[folder, name] for folder in folders}
            row |= {f"{folder} {name}": f"{mean:{form}}" for folder, mean in by_set.items()}
            if by_set:
                row[f"mean {name}"] = f"{np.mean(list(by_set.values())):{form}}"
        if (_REGIONS, "covering") in means:
            row[f"{_REGIONS} covering"] = f"{means[_REGIONS, 'covering']:.3f}"
        rows.append(row)
    return rows


def time_rows(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Averages the seconds per stage over the photos; one row per way."""
    rows = []
    for way, stages in outcomes[0].seconds.items():
        means = {s: np.mean([outcome.seconds[way][s] for outcome in outcomes]) for s in stages}
        cells = means | {"all": sum(means.values())}
        rows.append({"way": way, **{stage: f"{mean:.2f}" for stage, mean in cells.items()}})
    return rows


def objects(
    root: str | Path,
    sets: Sequence[str],
    networks: Mapping[str, str],
    split: str,
    held_back: bool,
    count: int,
    bsds_count: int | None,
    size: int,
    features_sizes: Sequence[int],
    layers: int,
    seed: int,
    num_workers: int | None,
    name: str = "objects",
) -> dict[str, Any]:
    """Divides photos into layers and scores them on labelled objects and on regions.

    Args:
        root: Folder of the sets.
        sets: Names of folders there, each in the folder layout with id 0 for everything that is
            not an object.
        networks: Checkpoints by the names of their rows. Lab colours and k-means are added.
        split: Split of these sets.
        held_back: Whether to use only the tenth of the photos that trainings hold back.
        count: Number of objects per set; all if there are fewer.
        bsds_count: Number of photos of BSDS500, always from its val split; None leaves it out.
        size: Pixels of the long side of the photos; smaller photos stay as they are.
        features_sizes: Long sides in pixels at which the networks see a photo.
        layers: Number of layers K, in addition to "auto".
        seed: Random seed of the objects and photos, the eigenvectors and k-means.
        num_workers: Processes; None for one per core, 0 for this process.
        name: Name of the result files.

    Returns:
        Result with one row per way.

    Raises:
        ValueError: A set has no such split or no objects.
    """
    extractors = {way: load_extractor(checkpoint) for way, checkpoint in networks.items()}
    jobs = _jobs(Path(root), sets, split, held_back, count, bsds_count, size, seed)
    run = partial(measure, extractors, size, tuple(features_sizes), layers, seed)
    outcomes = list(map_in_workers(run, jobs, worker_count(num_workers), "photos"))
    return {
        "name": name,
        "title": f"Layers that hold things, {layers} layers",
        "rows": score_rows(jobs, outcomes, layers),
        "tables": {
            _AUTO: score_rows(jobs, outcomes, "auto"),
            "Seconds per photo, means": time_rows(outcomes),
        },
        "ratios": {},
        "settings": {
            **_counts(jobs, sets),
            "split": split + (", held back" if held_back else ""),
            "size": size,
            "features_sizes": ", ".join(map(str, features_sizes)),
            "seed": seed,
        },
    }


def _counts(jobs: Sequence[Job], sets: Sequence[str]) -> dict[str, str]:
    """Counts the photos and objects of each set."""
    photos = {folder: [j for j in jobs if j.folder == folder] for folder in [*sets, _REGIONS]}
    objects = {folder: sum(len(job.classes) for job in photos[folder]) for folder in sets}
    return {
        "photos": ", ".join(f"{len(each)} {folder}" for folder, each in photos.items()),
        "objects": ", ".join(f"{count} {folder}" for folder, count in objects.items()),
    }


def _jobs(
    root: Path,
    sets: Sequence[str],
    split: str,
    held_back: bool,
    count: int,
    bsds_count: int | None,
    size: int,
    seed: int,
) -> list[Job]:
    """Draws the photos. `objects` explains the arguments."""
    jobs: list[Job] = []
    for folder in sets:
        records = Folder(root / folder, test=None, contrast=[_BACKGROUND]).records(split)
        if held_back:
            records = [record for record in records if is_held_back(record.image.stem)]
        jobs += draw_objects(folder, records, count, size, seed)
    if bsds_count is not None:
        records = Folder(root / _REGIONS, test=None).records(_REGIONS_SPLIT)
        numbers = np.random.default_rng(seed).permutation(len(records))[:bsds_count]
        jobs += [Job(_REGIONS, records[number]) for number in sorted(numbers)]
    return jobs
