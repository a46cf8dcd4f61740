"""Linear probes: how much of the classes of a set can be read from features by a linear map."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pair_auc import features_by_way, modules_of, open_test_split
from benchmarks.quality import superpixel_probe
from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Folder
from softfeat.imaging.slic import Superpixels
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix
from softfeat.ops.labels import CONTRAST
from softfeat.ops.superpixels import superpixel_majority, superpixel_scatter
from softfeat.training.soft_features import SoftFeatureModule

_TRUE = "true classes of the superpixels"
_SCORES = ("miou", "pixel_accuracy", "class_accuracy", "fwiou")


def linear_probe(
    root: str | Path,
    networks: Mapping[str, str],
    image_size: Sequence[int],
    superpixels: Superpixels,
    cache_dir: str | Path,
    num_workers: int | None,
    name: str = "linear_probe",
) -> dict[str, Any]:
    """Fits a softmax regression to superpixels of the train split, and scores it on the val split.

    Scores of superpixels become maps, which are enlarged to the size of the labels.

    Args:
        root: Folder of the set, as for `data=folder`. All classes count, also the background.
        networks: Checkpoints by row name. Colours and an untrained network are added, and
            superpixels that have the class of most of their pixels.
        image_size: (H, W) that photos are resized to.
        superpixels: Parameters of the superpixels.
        cache_dir: Folder for prepared photos and superpixels.
        num_workers: Loader processes; None for one per core.
        name: Name of the result files.

    Returns:
        Result with one row per way.
    """
    make = partial(
        SegmentationData,
        Folder,
        root,
        cache_dir=cache_dir,
        image_size=image_size,
        superpixels=superpixels,
        num_workers=num_workers,
        native_labels=True,
        pack=True,
    )
    train, val = make(test_split="train"), make(test_split="val")
    for data in (train, val):
        open_test_split(data)
    modules = modules_of(networks, superpixels.count)
    probes = _probes(train, modules)
    scores = _scores(val, modules, probes)
    return {
        "name": name,
        "title": f"A linear probe of superpixels, {Path(root).name}",
        "rows": [
            {"features": way, **{key: f"{100 * values[key]:.1f}" for key in _SCORES}}
            for way, values in scores.items()
        ],
        "ratios": {},
        "settings": {
            "photos": f"{len(train.datasets['test'])} train, {len(val.datasets['test'])} val",
            "classes": len(val.layout.class_names),
            "image": size_text(image_size),
            "superpixels": superpixels.count,
        },
    }


@torch.no_grad()
def _probes(
    data: SegmentationData, modules: Mapping[str, SoftFeatureModule]
) -> dict[str, nn.Linear]:
    """Fits a probe to every way to compute features."""
    seen: dict[str, list[Tensor]] = {}
    true: list[Tensor] = []
    for batch in track(data.test_dataloader(), "features (train)"):
        ways = features_by_way(batch, modules, data.superpixels.count)
        _, labels = next(iter(ways.values()))
        known = labels < CONTRAST
        true.append(labels[known])
        for way, (features, _) in ways.items():
            seen.setdefault(way, []).append(features[known])
    labels, num_classes = torch.cat(true), len(data.layout.class_names)
    with torch.enable_grad():
        return {
            way: superpixel_probe(torch.cat(parts), labels, num_classes)
            for way, parts in track(seen.items(), "probes")
        }


@torch.no_grad()
def _scores(
    data: SegmentationData,
    modules: Mapping[str, SoftFeatureModule],
    probes: Mapping[str, nn.Linear],
) -> dict[str, dict[str, float]]:
    """Scores the probes, and the true classes."""
    num_classes, count = len(data.layout.class_names), data.superpixels.count
    metrics = {way: SegmentationScores(num_classes) for way in (*probes, _TRUE)}
    for batch in track(data.test_dataloader(), "scores (val)"):
        superpixels = batch["superpixels"]
        ways = features_by_way(batch, modules, count).items()
        predicted = {way: probes[way](features) for way, (features, _) in ways}
        majority = superpixel_majority(batch["label"], superpixels, count)
        # One more class for the unlabelled ones, which is dropped.
        classes = F.one_hot(majority.clamp(max=num_classes), num_classes + 1)
        predicted[_TRUE] = classes[..., :num_classes].float()
        for way, values in predicted.items():
            maps = superpixel_scatter(values, superpixels)
            matrices = [
                confusion_matrix(*pair) for pair in zip(maps, batch["native_label"], strict=True)
            ]
            metrics[way].update(torch.stack(matrices))
    computed = {way: metric.compute() for way, metric in metrics.items()}
    return {way: {key: of[key].item() for key in _SCORES} for way, of in computed.items()}
