"""An epoch of a head on stored features against one that computes them again."""

import copy
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.measure import ratio
from softfeat.data.datamodule import SegmentationData
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix
from softfeat.models.extractor import Extractor
from softfeat.training.frozen import FrozenFeatures
from softfeat.training.hard_segmentation import HardSegmentationModule


class _Training:
    """A head in training; every side has one."""

    def __init__(
        self, module: HardSegmentationModule, data: SegmentationData, seed: int, epochs: int
    ) -> None:
        self.module, self.data, self.seed = module, data, seed
        steps = epochs * data.steps_per_epoch
        self.optimizer, self.scheduler = module.optimizer_and_schedule(steps)

    def epoch(self, number: int) -> float:
        """Trains an epoch, loading included; seconds."""
        self.module.train()
        loader = self.data.train_dataloader()
        loader.sampler.seed = self.seed  # type: ignore[union-attr, attr-defined]
        loader.sampler.set_epoch(number)  # type: ignore[union-attr, attr-defined]
        started = time.perf_counter()
        for batch in loader:
            loss = self.module.loss(self.module.batch_scores(batch), batch["label"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
        return time.perf_counter() - started

    @torch.no_grad()
    def miou(self) -> float:
        """Of the validation split."""
        self.module.eval()
        metric = SegmentationScores(self.module.num_classes)
        for batch in self.data.val_dataloader():
            pairs = zip(self.module.batch_scores(batch), batch["native_label"], strict=True)
            metric.update(torch.stack([confusion_matrix(*pair) for pair in pairs]))
        return metric.compute()["miou"].item()


def cached_features(
    data: SegmentationData, extractor: Extractor, epochs: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Trains the same head on photos and on stored features, epoch by epoch in turn.

    Args:
        data: photos; with `variants`, so that both sides see the same ones.
        extractor: what gives the features; its weights do not matter here.
        epochs: of a training, to the end of its schedule; the first one of all is not timed.
        seeds: of the head and of the order of photos; a pair of trainings each.

    Returns:
        Title, settings, rows (seconds an epoch, scores at the end) and ratios.

    Raises:
        ValueError: a single epoch, which is not timed.
    """
    if epochs * len(seeds) < 2:
        raise ValueError(f"suite.epochs={epochs}, suite.seeds={list(seeds)}: two epochs or more")
    data.prepare_data()
    data.setup("fit")
    stored = copy.copy(data)
    sides = {"computed anew": data, "stored": stored}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, list[float]] = {name: [] for name in sides}

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
        started = time.perf_counter()
        stored.setup("fit")
        storing = time.perf_counter() - started
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        num_bytes = sum(file.stat().st_size for file in files)
        for seed in seeds:
            head = new_head(seed)
            trainings = {
                n: _Training(copy.deepcopy(head), d, seed, epochs) for n, d in sides.items()
            }
            for number in range(epochs):
                for name, training in trainings.items():
                    seconds[name].append(training.epoch(number))
            for name, training in trainings.items():
                scores[name].append(training.miou())
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first warms up
    rows = [
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
    differences = [b - a for a, b in zip(*scores.values(), strict=True)]
    return {
        "title": "Epochs of a head on frozen features",
        "rows": rows,
        "ratios": {"epoch time": ratio(seconds["computed anew"], seconds["stored"])},
        "settings": {
            "data": data.datasets["train"].records[0].image.parents[2].name,
            "photos an epoch": data.steps_per_epoch * data.batch_size,
            "image": "x".join(map(str, data.image_size)),
            "epochs": epochs,
            "seeds": ", ".join(map(str, seeds)),
            "mIoU, stored less anew": ", ".join(f"{d:+.4f}" for d in differences),
            "seconds to store": f"{storing:.1f}",
            "megabytes stored": f"{num_bytes / 1e6:.0f}",
        },
    }
