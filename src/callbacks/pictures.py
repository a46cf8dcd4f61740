"""What the network has learned, as pictures, at every validation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from src.data.labels import IGNORE
from src.ops.pca import normalise, pca
from src.ops.superpixels import superpixel_mean, superpixel_scatter


def label_colours(labels: Tensor) -> Tensor:
    """Colours label ids: fixed, well spread hues; ignore is black.

    Args:
        labels: (B,H,W) int64.

    Returns:
        (B,3,H,W) in [0,1].
    """
    ids = torch.arange(256, dtype=torch.float64)
    hue = (ids * 0.61803398875) % 1  # golden ratio: neighbours in id are far apart in hue
    table = torch.stack([0.55 + 0.4 * torch.cos(2 * torch.pi * (hue - s / 3)) for s in range(3)], 1)
    table *= (1 - 0.35 * (ids // 8 % 2))[:, None]
    table[IGNORE] = 0
    return table.float().to(labels.device)[labels].movedim(-1, 1)


def boundaries(image: Tensor, superpixels: Tensor) -> Tensor:
    """Draws the borders of superpixels into photos (B,3,H,W) in [0,1]."""
    edge = torch.zeros_like(superpixels, dtype=torch.bool)
    edge[:, :, 1:] |= superpixels[:, :, 1:] != superpixels[:, :, :-1]
    edge[:, 1:] |= superpixels[:, 1:] != superpixels[:, :-1]
    return torch.where(edge[:, None], image.new_tensor([1.0, 0.9, 0.1]).view(3, 1, 1), image)


def sheet(columns: list[Tensor]) -> NDArray[np.uint8]:
    """Lays pictures out, one row an image, one column a kind.

    Args:
        columns: (B,3,H,W) each, in [0,1].

    Returns:
        (B*H', W', 3) uint8.
    """
    padded = [torch.nn.functional.pad(c.cpu().float(), (2, 2, 2, 2), value=1.0) for c in columns]
    rows = torch.cat([torch.cat(list(image), -1) for image in torch.stack(padded, 1)], -2)
    return (rows.movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()


class FeaturePictures(pl.Callback):
    """Writes a sheet of a fixed set of validation images after every validation.

    Columns: photo with superpixel borders, labels, first three principal components of F, the same
    of the superpixels' mean features (Eqs. 6 and 7).

    Args:
        folder: where `step_<n>.png` goes.
        count: images on the sheet.
    """

    def __init__(self, folder: str | Path, count: int = 4) -> None:
        self.folder, self.count = Path(folder), count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        picture = sheet(self._columns(trainer, pl_module))
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                logger.log_image("val/features", [picture], trainer.global_step)

    @torch.no_grad()
    def _columns(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Tensor]:
        dataset = trainer.datamodule.datasets["val"]  # type: ignore[attr-defined]
        # Spread over the split: neighbours are often frames of one film.
        count = min(self.count, len(dataset))
        samples: list[dict[str, Any]] = [dataset[i * len(dataset) // count] for i in range(count)]
        image, label, superpixels = (
            torch.stack([sample[key] for sample in samples]).to(pl_module.device)
            for key in ("image", "label", "superpixels")
        )
        features = pl_module(image)
        num_superpixels = int(superpixels.max()) + 1
        means, _ = superpixel_mean(features, superpixels, num_superpixels)
        return [
            boundaries(image, superpixels),
            label_colours(label),
            normalise(pca(features)),
            normalise(pca(superpixel_scatter(means, superpixels))),
        ]
