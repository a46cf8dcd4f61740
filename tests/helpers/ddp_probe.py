"""A callback that writes down what each process of a training saw and computed."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm


class Probe(pl.Callback):
    """Records a training, whose batch norms it keeps in eval mode: their statistics are not shared.

    At the end, `folder/rank_<n>.pt` holds the gradients of every step by parameter name, the photos
    of every split in the order they were seen, and the folders of stored features.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.photos: dict[str, list[str]] = {"train": [], "val": [], "test": []}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.photos["train"] += batch["path"]
        for module in pl_module.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: int
    ) -> None:
        self.photos["val"] += batch["path"]

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: int
    ) -> None:
        self.photos["test"] += batch["path"]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stores = trainer.datamodule.features.values()  # type: ignore[attr-defined]
        left = {
            "gradients": self.gradients,
            "photos": self.photos,
            "features": [str(store.path) for store in stores],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(left, self.folder / f"rank_{trainer.global_rank}.pt")
