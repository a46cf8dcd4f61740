"""What the networks have learned, as pictures, at every validation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import wandb
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from src.callbacks.guided_filter import GuidedFilter
from src.metrics.segmentation import segmentation_scores
from src.ops.pca import normalise, pca, random_projection
from src.ops.superpixels import superpixel_mean, superpixel_scatter
from src.utils.drawing import boundaries, confusion_picture, errors, label_colours, overlay, sheet

# A sheet, and what W&B gets.
Drawn = tuple[NDArray[np.uint8], dict[str, Any]]


def feature_columns(features: Tensor, filtered: Tensor, superpixels: Tensor) -> dict[str, Tensor]:
    """F seen in three ways, each with and without the guided filter.

    Args:
        features: F, (B,D,H,W).
        filtered: F smoothed along the photos' edges.
        superpixels: (B,H,W) ids.

    Returns:
        Pictures (B,3,H,W) in [0,1] by title: three principal components, three random projections,
        and three principal components of the superpixels' means (Eqs. 6 and 7).
    """
    num_superpixels = int(superpixels.max()) + 1
    columns = {}
    for ending, maps in (("", features), (", filtered", filtered)):
        means, _ = superpixel_mean(maps, superpixels, num_superpixels)
        columns[f"principal components{ending}"] = normalise(pca(maps))
        columns[f"random projection{ending}"] = normalise(random_projection(maps))
        mapped = superpixel_scatter(means, superpixels)
        columns[f"superpixel means{ending}"] = normalise(pca(mapped))
    return columns


class _ValidationPictures(pl.Callback):
    """Draws a fixed set of validation photos after every validation, into a folder and to W&B.

    Args:
        folder: where `step_<n>.png` goes.
        guided_filter: the one of the run.
        count: photos on a sheet.
    """

    def __init__(self, folder: str | Path, guided_filter: GuidedFilter, count: int = 4) -> None:
        self.folder, self.guided_filter, self.count = Path(folder), guided_filter, count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        dataset = trainer.datamodule.datasets["val"]  # type: ignore[attr-defined]
        # Spread over the split: neighbours are often frames of one film.
        count = min(self.count, len(dataset))
        samples: list[dict[str, Any]] = [dataset[i * len(dataset) // count] for i in range(count)]
        batch = {
            key: torch.stack([sample[key] for sample in samples]).to(pl_module.device)
            for key in ("image", "label", "superpixels")
        }
        with torch.no_grad():
            picture, panels = self._draw(pl_module, batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                step = {"trainer/global_step": trainer.global_step - 1}  # that of val's scores
                logger.experiment.log(panels | step)

    def _draw(self, module: Any, batch: dict[str, Tensor]) -> Drawn:
        raise NotImplementedError


class FeaturePictures(_ValidationPictures):
    """Photo with superpixel borders, labels, and `feature_columns`; W&B: `val/features`."""

    def _draw(self, module: Any, batch: dict[str, Tensor]) -> Drawn:
        image, superpixels = batch["image"], batch["superpixels"]
        features = module.extractor.forward(image)  # not as a call: a hook may filter that
        columns = {
            "photo, superpixels": boundaries(image, superpixels),
            "labels": label_colours(batch["label"]),
            **feature_columns(features, self.guided_filter(features, image), superpixels),
        }
        picture = sheet(columns)
        return picture, {"val/features": wandb.Image(picture)}


class SegmentationPictures(_ValidationPictures):
    """Prediction, ground truth, errors, and what F holds of them.

    W&B: `val/segmentation` (photos with masks), `val/features` (the sheet), `val/confusion` and
    `val/iou_table` (of the whole split).
    """

    def _draw(self, module: Any, batch: dict[str, Tensor]) -> Drawn:
        image, label = batch["image"], batch["label"]
        predicted = module(image).argmax(1)
        features = self.guided_filter(module.extractor.forward(image), image)
        columns = {
            "photo": image,
            "ground truth": overlay(image, label),
            "prediction": overlay(image, predicted),
            "errors": errors(image, predicted, label),
            "features, filtered": normalise(pca(features)),
        }
        picture = sheet(columns, module.class_names)
        return picture, {
            "val/features": wandb.Image(picture),
            "val/segmentation": _masked(image, predicted, label, module.class_names),
            "val/confusion": wandb.Image(confusion_picture(module.confusion, module.class_names)),
            "val/iou_table": _iou_table(module.confusion, module.class_names),
        }


def _masked(image: Tensor, predicted: Tensor, label: Tensor, names: list[str]) -> list[wandb.Image]:
    classes = dict(enumerate(names)) | {255: "ignored"}
    return [
        wandb.Image(
            (photo.movedim(0, -1).clamp(0, 1) * 255).byte().cpu().numpy(),
            masks={
                "prediction": {"mask_data": p.byte().cpu().numpy(), "class_labels": classes},
                "ground_truth": {"mask_data": t.byte().cpu().numpy(), "class_labels": classes},
            },
        )
        for photo, p, t in zip(image, predicted, label, strict=True)
    ]


def _iou_table(matrix: Tensor, names: list[str]) -> wandb.Table:
    scores = segmentation_scores(matrix.cpu())
    values = (scores["iou"].tolist(), scores["accuracy"].tolist(), matrix.sum(1).tolist())
    rows = [list(row) for row in zip(names, *values, strict=True)]
    return wandb.Table(columns=["class", "IoU", "accuracy", "pixels"], data=rows)
