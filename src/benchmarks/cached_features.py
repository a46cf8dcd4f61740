"""An epoch of a head on stored features against one that computes them again."""

import copy
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from src.benchmarks.measure import ratio
from src.data.datamodule import SegmentationData
from src.metrics.segmentation import SegmentationScores, confusion_matrix
from src.models.extractor import Extractor
from src.models.hard_segmentation import HardSegmentationModule


def _epoch(module: HardSegmentationModule, data: SegmentationData, number: int) -> float:
    """Trains an epoch, loading included; seconds."""
    module.train()
    optimizer = module.configure_optimizers()["optimizer"]
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[union-attr, attr-defined]
    started = time.perf_counter()
    for batch in loader:
        loss = module.loss(module.batch_scores(batch), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


@torch.no_grad()
def _miou(module: HardSegmentationModule, data: SegmentationData) -> float:
    module.eval()
    metric = SegmentationScores(module.num_classes)
    for batch in data.val_dataloader():
        pairs = zip(module.batch_scores(batch), batch["native_label"], strict=True)
        metric.update(torch.stack([confusion_matrix(*pair) for pair in pairs]))
    return metric.compute()["miou"].item()


def cached_features(data: SegmentationData, extractor: Extractor, epochs: int) -> dict[str, Any]:
    """Trains the same head on photos and on stored features, epoch by epoch in turn.

    Args:
        data: photos; with `variants`, so that both sides see the same ones.
        extractor: what gives the features; its weights do not matter here.
        epochs: counted ones; one more goes before them.

    Returns:
        Title, settings, rows (seconds an epoch) and ratios.
    """
    data.prepare_data()
    data.setup("fit")
    stored = copy.copy(data)
    torch.manual_seed(0)
    fresh = HardSegmentationModule(len(data.layout.class_names), extractor=extractor)
    fresh.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    cached = copy.deepcopy(fresh)
    fresh.eval()

    with TemporaryDirectory() as folder:
        stored.features_dir, stored.features = Path(folder), {}
        started = time.perf_counter()
        stored.store_features(fresh.inputs, "benchmark", torch.device("cpu"))
        storing = time.perf_counter() - started
        num_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        seconds: dict[str, list[float]] = {"computed anew": [], "stored": []}
        for number in range(epochs + 1):
            seconds["computed anew"].append(_epoch(fresh, data, number))
            seconds["stored"].append(_epoch(cached, stored, number))
        scores = (_miou(fresh, data), _miou(cached, stored))
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first warms up
    rows = [
        {
            "features": name,
            "s an epoch (median)": f"{sorted(values)[len(values) // 2]:.1f}",
            "s (min)": f"{min(values):.1f}",
            "s (max)": f"{max(values):.1f}",
            "val mIoU at the end": f"{score:.4f}",
        }
        for (name, values), score in zip(seconds.items(), scores, strict=True)
    ]
    return {
        "title": "Epochs of a head on frozen features",
        "rows": rows,
        "ratios": {"epoch time": ratio(seconds["computed anew"], seconds["stored"])},
        "settings": {
            "data": data.datasets["train"].records[0].image.parents[2].name,
            "photos an epoch": data.steps_per_epoch * data.batch_size,
            "image": "x".join(map(str, data.image_size)),
            "epochs": epochs,
            "seconds to store": f"{storing:.1f}",
            "megabytes stored": f"{num_bytes / 1e6:.0f}",
        },
    }
