"""Pair AUC of networks on several data sets, compared with features that need no training."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.data.layouts import Layout
from softfeat.imaging.slic import Superpixels
from softfeat.metrics.pair_auc import PairAUC
from softfeat.models.extractor import build_extractor, load_extractor
from softfeat.ops.colour_features import colour_features
from softfeat.training.baselines import POSITION_WEIGHT
from softfeat.training.soft_features import SoftFeatureModule

_UNTRAINED = "untrained network"


def pair_auc_of_sets(
    root: str | Path,
    layouts: Mapping[str, Callable[..., Layout]],
    networks: Mapping[str, str],
    split: str,
    image_size: Sequence[int],
    superpixels: Superpixels,
    cache_dir: str | Path,
    num_workers: int | None,
    sets: Sequence[str] | None = None,
    held_back: bool = False,
    name: str = "pair_auc",
) -> dict[str, Any]:
    """Scores networks on each set by itself, all on the same superpixels.

    Args:
        root: Folder of the sets.
        layouts: Layouts by the names of their folders, called with `root=`.
        networks: Checkpoints by row name. Colours and an untrained network are added.
        split: Split of every set.
        image_size: (H, W) that photos are resized to.
        superpixels: Parameters of the superpixels.
        cache_dir: Folder for prepared photos and superpixels.
        num_workers: Loader processes; None for one per core.
        sets: Names of the layouts to score; None for all.
        held_back: Whether to score the photos that trainings hold back; `split` must be val then.
        name: Name of the result files.

    Returns:
        Result with one row per way.

    Raises:
        ValueError: A set has no layout, or held-back photos are combined with another split.
    """
    sets = _checked(layouts, sets, split, held_back)
    make = partial(
        SegmentationData,
        cache_dir=cache_dir,
        image_size=image_size,
        superpixels=superpixels,
        num_workers=num_workers,
        hold_back=held_back,
        test_split=split,
        pack=True,
    )
    datasets = {folder: make(layouts[folder], Path(root) / folder) for folder in sets}
    modules = modules_of(networks, superpixels.count)
    scores = {folder: _score(data, modules, folder) for folder, data in datasets.items()}
    photos = "photos that trainings hold back" if held_back else f"{split} splits"
    return {
        "name": name,
        "title": f"Pair AUC on the {photos}",
        "rows": _rows(scores),
        "ratios": {},
        "settings": {
            "photos": ", ".join(str(len(data.datasets["test"])) for data in datasets.values()),
            "image": size_text(image_size),
            "superpixels": superpixels.count,
        },
    }


def _checked(
    layouts: Mapping[str, object], sets: Sequence[str] | None, split: str, held_back: bool
) -> list[str]:
    if held_back and split != "val":
        raise ValueError(f"suite.split={split}: held-back photos take the place of val; set val")
    sets = list(layouts if sets is None else sets)
    if unknown := ", ".join(folder for folder in sets if folder not in layouts):
        raise ValueError(f"suite.sets: {unknown} is none of {', '.join(layouts)}")
    return sets


def _rows(scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """Makes a row per way from its scores on each set."""
    rows = []
    for way in next(iter(scores.values())):
        by_set = {folder: by_way[way] for folder, by_way in scores.items()}
        cells = by_set | {"mean": mean(by_set.values())}
        rows.append({"features": way, **{name: f"{score:.3f}" for name, score in cells.items()}})
    return rows


def modules_of(networks: Mapping[str, str], count: int) -> dict[str, SoftFeatureModule]:
    """Loads networks for `count` superpixels; adds an untrained one with the first architecture."""
    trained = {name: load_extractor(checkpoint) for name, checkpoint in networks.items()}
    like = next(iter(trained.values())).hparams if trained else {"network": "bottleneck"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractors = trained | {_UNTRAINED: build_extractor(like)}
    return {
        name: SoftFeatureModule(extractor, num_superpixels=count).eval()
        for name, extractor in extractors.items()
    }


@torch.no_grad()
def _score(
    data: SegmentationData, modules: Mapping[str, SoftFeatureModule], title: str
) -> dict[str, float]:
    """Computes the pair AUC of every way on the test split of `data`."""
    open_test_split(data)
    metrics: dict[str, PairAUC] = {}
    for batch in track(data.test_dataloader(), title):
        for way, features in features_by_way(batch, modules, data.superpixels.count).items():
            metrics.setdefault(way, PairAUC()).update(*features)
    return {way: metric.compute()["pair_auc"].item() for way, metric in metrics.items()}


def open_test_split(data: SegmentationData) -> None:
    """Prepares the test split of `data`, and no other."""
    data.prepare_data([data.test_split])
    data.setup("test")


def features_by_way(
    batch: Batch, modules: Mapping[str, SoftFeatureModule], count: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Computes features (B,S,D) and labels (B,S) of the superpixels."""
    learned = {n: m.superpixel_features(batch) for n, m in modules.items()}
    _, labels = learned[_UNTRAINED]
    colour = (batch["image"], batch["superpixels"], count)
    lab, placed = colour_features(*colour), colour_features(*colour, POSITION_WEIGHT)
    return {**learned, "Lab": (lab, labels), "Lab + position": (placed, labels)}
