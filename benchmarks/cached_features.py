"""Epochs of a head on stored features compared with epochs that compute them again."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.measure import ratio, timed
from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix
from softfeat.models.extractor import Extractor
from softfeat.training.frozen import FrozenFeatures
from softfeat.training.hard_segmentation import HardSegmentationModule

_COMPUTED, _STORED = "computed every time", "stored"


class _Training:
    """The training of a head on one side."""

    def __init__(
        self, module: HardSegmentationModule, data: SegmentationData, seed: int, epochs: int
    ) -> None:
        self.module, self.data, self.seed = module, data, seed
        steps = epochs * data.steps_per_epoch
        self.optimizer, self.scheduler = module.optimizer_and_schedule(steps)

    def epoch(self, number: int) -> None:
        """Trains for an epoch, loading included."""
        self.module.train()
        loader = self.data.train_dataloader()
        loader.sampler.seed = self.seed  # type: ignore[union-attr, attr-defined]
        loader.sampler.set_epoch(number)  # type: ignore[union-attr, attr-defined]
        for batch in loader:
            loss = self.module.loss(self.module.batch_scores(batch), batch["label"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()

    @torch.no_grad()
    def miou(self) -> float:
        """Measures mIoU on the validation split."""
        self.module.eval()
        metric = SegmentationScores(self.module.num_classes)
        for batch in self.data.val_dataloader():
            pairs = zip(self.module.batch_scores(batch), batch["native_label"], strict=True)
            metric.update(torch.stack([confusion_matrix(*pair) for pair in pairs]))
        return metric.compute()["miou"].item()


def cached_features(
    data: SegmentationData, extractor: Extractor, epochs: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Trains the same head on photos and on stored features, alternating between epochs.

    Args:
        data: Photos, with `variants`, so that both sides see the same ones.
        extractor: Network that computes the features; its weights do not matter here.
        epochs: Number of epochs of a training. The first epoch of all is not timed.
        seeds: Random seeds of the heads and of the order of photos, one pair of trainings each.

    Returns:
        Result with one row per side.

    Raises:
        ValueError: There is only one epoch.
    """
    if epochs * len(seeds) < 2:
        raise ValueError(
            f"suite.epochs={epochs}, suite.seeds={list(seeds)}: the first epoch is not timed; "
            "choose two epochs or more"
        )
    data.prepare_data()
    data.setup("fit")
    stored = copy.copy(data)
    sides = {_COMPUTED: data, _STORED: stored}

    def new_head(seed: int) -> HardSegmentationModule:
        torch.manual_seed(seed)
        return HardSegmentationModule(
            len(data.layout.class_names),
            extractor,
            optimizer=partial(torch.optim.AdamW, lr=3e-3, fused=True),
        )

    with TemporaryDirectory() as folder:
        stored.features_dir, stored.features, stored.datasets = Path(folder), {}, {}
        stored.frozen = FrozenFeatures(extractor)
        _, storing = timed(lambda: stored.setup("fit"))
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        num_bytes = sum(file.stat().st_size for file in files)
        seconds, scores = _train(new_head, sides, epochs, seeds)
    differences = [b - a for a, b in zip(*scores.values(), strict=True)]
    return {
        "title": "Epochs of a head on frozen features",
        "rows": _rows(seconds, scores),
        "ratios": {"epoch time": ratio(seconds[_COMPUTED], seconds[_STORED])},
        "settings": {
            "data": data.datasets["train"].records[0].image.parents[2].name,
            "photos an epoch": data.steps_per_epoch * data.batch_size,
            "image": size_text(data.image_size),
            "epochs": epochs,
            "seeds": ", ".join(map(str, seeds)),
            "mIoU, stored minus computed": ", ".join(f"{d:+.4f}" for d in differences),
            "seconds to store": f"{storing:.1f}",
            "megabytes stored": f"{num_bytes / 1e6:.0f}",
        },
    }


def _train(
    new_head: Callable[[int], HardSegmentationModule],
    sides: Mapping[str, SegmentationData],
    epochs: int,
    seeds: Sequence[int],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Trains a head per seed and side.

    Returns:
        seconds: Seconds of every epoch except the very first, by side.
        scores: mIoU on the validation split at the end of every training, by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, list[float]] = {name: [] for name in sides}
    for seed in seeds:
        head = new_head(seed)
        trainings = {n: _Training(copy.deepcopy(head), d, seed, epochs) for n, d in sides.items()}
        for number in range(epochs):
            for name, training in trainings.items():
                seconds[name].append(timed(partial(training.epoch, number))[1])
        for name, training in trainings.items():
            scores[name].append(training.miou())
    return {name: values[1:] for name, values in seconds.items()}, scores


def _rows(
    seconds: Mapping[str, list[float]], scores: Mapping[str, list[float]]
) -> list[dict[str, str]]:
    return [
        {
            "features": name,
            "s an epoch (median)": f"{median(values):.1f}",
            "s (min)": f"{min(values):.1f}",
            "s (max)": f"{max(values):.1f}",
            "val mIoU at the end": f"{mean(scores[name]):.4f}",
            "of each seed": ", ".join(f"{score:.4f}" for score in scores[name]),
        }
        for name, values in seconds.items()
    ]
