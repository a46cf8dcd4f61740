"""What the networks have learned, as pictures, at every validation."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
from PIL import Image
from torch import Tensor

from softfeat.imaging.drawing import (
    boundaries,
    confusion_picture,
    errors,
    label_colours,
    overlay,
    sheet,
)
from softfeat.metrics.segmentation import segmentation_scores
from softfeat.ops.pca import normalise, pca, random_projection
from softfeat.ops.superpixels import superpixel_mean, superpixel_scatter
from softfeat.training.callbacks.guided_filter import GuidedFilter


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

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        dataset = trainer.datamodule.datasets["val"]  # type: ignore[attr-defined]
        # Spread over the split: neighbours are often frames of one film.
        count = min(self.count, len(dataset))
        samples: list[dict[str, Any]] = [dataset[i * len(dataset) // count] for i in range(count)]
        # One by one: full-resolution maps of several photos would take gigabytes.
        drawn = [self._columns(pl_module, _batch_of_one(s, pl_module.device)) for s in samples]
        columns = {title: torch.cat([d[title] for d in drawn]) for title in drawn[0]}
        picture = sheet(columns, getattr(pl_module, "class_names", ()))
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                step = {"trainer/global_step": trainer.global_step - 1}  # that of val's scores
                panels = {"val/features": wandb.Image(picture), **self._panels(pl_module, samples)}
                logger.experiment.log(panels | step)

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _panels(self, module: Any, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """What W&B gets besides the sheet."""
        return {}


def _batch_of_one(sample: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    return {key: sample[key][None].to(device) for key in ("image", "label", "superpixels")}


class FeaturePictures(_ValidationPictures):
    """Photo with superpixel borders, labels, and `feature_columns`; W&B: `val/features`."""

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, superpixels = batch["image"], batch["superpixels"]
        features = module.extractor.forward(image)  # not as a call: a hook may filter that
        return {
            "photo, superpixels": boundaries(image, superpixels),
            "labels": label_colours(batch["label"]),
            **feature_columns(features, self.guided_filter(features, image), superpixels),
        }


class SegmentationPictures(_ValidationPictures):
    """Prediction, ground truth, errors, and what F holds of them.

    W&B: `val/segmentation` (photos with masks), `val/features` (the sheet), `val/confusion` and
    `val/iou_table` (of the whole split).
    """

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        predicted = module(image).argmax(1)
        features = self.guided_filter(module.extractor.forward(image), image)
        return {
            "photo": image,
            "ground truth": overlay(image, label),
            "prediction": overlay(image, predicted),
            "errors": errors(image, predicted, label),
            "features, filtered": normalise(pca(features)),
        }

    def _panels(self, module: Any, samples: list[dict[str, Any]]) -> dict[str, Any]:
        names = module.class_names
        images = []
        for sample in samples:
            predicted = module(sample["image"][None].to(module.device)).argmax(1)[0]
            images.append(_masked(sample["image"], predicted, sample["label"], names))
        return {
            "val/segmentation": images,
            "val/confusion": wandb.Image(confusion_picture(module.confusion, names)),
            "val/iou_table": _iou_table(module.confusion, names),
        }


def _masked(image: Tensor, predicted: Tensor, label: Tensor, names: list[str]) -> wandb.Image:
    classes = dict(enumerate(names)) | {255: "ignored"}
    masks = {"prediction": predicted, "ground_truth": label}
    return wandb.Image(
        (image.movedim(0, -1).clamp(0, 1) * 255).byte().cpu().numpy(),
        masks={
            name: {"mask_data": mask.byte().cpu().numpy(), "class_labels": classes}
            for name, mask in masks.items()
        },
    )


def _iou_table(matrix: Tensor, names: list[str]) -> wandb.Table:
    scores = segmentation_scores(matrix.cpu())
    values = (scores["iou"].tolist(), scores["accuracy"].tolist(), matrix.sum(1).tolist())
    rows = [list(row) for row in zip(names, *values, strict=True)]
    return wandb.Table(columns=["class", "IoU", "accuracy", "pixels"], data=rows)
