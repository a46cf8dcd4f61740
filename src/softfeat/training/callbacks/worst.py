"""The photos on which a model scores worst, found during a test and drawn after it."""

import heapq
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from softfeat.imaging.drawing import errors, overlay, save_picture, sheet


class WorstPhotos(pl.Callback):
    """Draws the photos of the test split with the lowest mIoU, worst first.

    Only their indices are kept during the test; the photos are read and predicted again.

    Args:
        path: File of the sheet.
        count: Number of photos on it.
    """

    def __init__(self, path: str | Path, count: int = 8) -> None:
        self.path, self.count = Path(path), count
        self._worst: list[tuple[float, int]] = []  # a heap with the best of them on top
        self._seen = 0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._worst, self._seen = [], 0

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for miou in (
            outputs["miou"].nan_to_num(1.0).tolist()
        ):  # a photo without labels has no errors
            heapq.heappush(self._worst, (-miou, self._seen))
            self._seen += 1
            if len(self._worst) > self.count:
                heapq.heappop(self._worst)

    @torch.no_grad()
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        worst = sorted(self._worst, reverse=True)
        if not worst:
            return
        module: Any = pl_module
        dataset = trainer.datamodule.datasets["test"]  # type: ignore[attr-defined]
        samples = [dataset[index] for _, index in worst]
        image, label = (torch.stack([s[k] for s in samples]) for k in ("image", "label"))
        predicted = torch.cat(
            [module.predict(one.to(module.device)).cpu() for one in image.split(1)]
        )
        names = [
            f"{Path(s['path']).name}: mIoU {-m:.2f}"
            for s, (m, _) in zip(samples, worst, strict=True)
        ]
        columns = {
            "photo": image,
            "ground truth": overlay(image, label),
            "prediction": overlay(image, predicted),
            "errors": errors(image, predicted, label),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(sheet(columns, module.class_names, names), self.path)
