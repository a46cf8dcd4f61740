"""Pair AUC of networks on the splits of several data sets, beside what needs no training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.data.layouts import Layout
from softfeat.imaging.slic import Superpixels
from softfeat.metrics.baselines import colour_features
from softfeat.metrics.pair_auc import PairAUC
from softfeat.models.extractor import build_extractor, load_extractor
from softfeat.training.baselines import POSITION_WEIGHT
from softfeat.training.soft_features import SoftFeatureModule


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
        root: folder of the sets.
        layouts: what makes each set, called with `root=`, by the name of its folder.
        networks: checkpoints by the names of their rows; beside them stands an untrained network
            of the first one's form.
        split: of every set.
        image_size: (H, W) that photos are resized to.
        superpixels: parameters of the maps.
        cache_dir: where maps are kept.
        num_workers: loader processes; None for one a core.
        sets: names of the layouts to score; None for all.
        held_back: Score the tenth of the train splits that trainings hold back (`data.hold_back`),
            to choose a setting. `split` must be val then.
        name: of the files.

    Returns:
        Name, title, settings and rows: one a way, with a column a set and their mean.

    Raises:
        ValueError: a set without a layout, or held-back photos of another split than val.
    """
    if held_back and split != "val":
        raise ValueError(f"suite.split={split}: held-back photos take the place of val; set val")
    sets = list(layouts if sets is None else sets)
    if unknown := ", ".join(name for name in sets if name not in layouts):
        raise ValueError(f"suite.sets: {unknown} is none of {', '.join(layouts)}")
    trained = {name: load_extractor(checkpoint) for name, checkpoint in networks.items()}
    like = next(iter(trained.values())).hparams if trained else {"network": "bottleneck"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractors = trained | {"untrained network": build_extractor(like)}
    modules = {
        name: SoftFeatureModule(extractor, num_superpixels=superpixels.count).eval()
        for name, extractor in extractors.items()
    }

    def ways(batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        found = {n: m.superpixel_features(batch) for n, m in modules.items()}
        _, labels = found["untrained network"]
        colour = (batch["image"], batch["superpixels"], superpixels.count)
        lab, placed = colour_features(*colour), colour_features(*colour, POSITION_WEIGHT)
        return {**found, "Lab": (lab, labels), "Lab + position": (placed, labels)}

    scores: dict[str, dict[str, float]] = {}
    photos = []
    for folder in sets:
        data = SegmentationData(
            layouts[folder],
            Path(root) / folder,
            cache_dir,
            image_size,
            superpixels=superpixels,
            num_workers=num_workers,
            hold_back=held_back,
            test_split=split,
            pack=True,
        )
        data.prepare_data([split])
        data.setup("test")
        photos.append(len(data.datasets["test"]))
        metrics: dict[str, PairAUC] = {}
        with torch.no_grad():
            for batch in track(data.test_dataloader(), folder):
                for way, found in ways(batch).items():
                    metrics.setdefault(way, PairAUC()).update(*found)
        for way, metric in metrics.items():
            scores.setdefault(way, {})[folder] = metric.compute()["pair_auc"].item()
    rows = [
        {
            "features": way,
            **{folder: f"{score:.3f}" for folder, score in found.items()},
            "mean": f"{sum(found.values()) / len(found):.3f}",
        }
        for way, found in scores.items()
    ]
    return {
        "name": name,
        "title": "Pair AUC on the photos that trainings hold back"
        if held_back
        else f"Pair AUC on the {split} splits",
        "rows": rows,
        "ratios": {},
        "settings": {
            "photos": ", ".join(map(str, photos)),
            "image": "x".join(map(str, image_size)),
            "superpixels": superpixels.count,
        },
    }
