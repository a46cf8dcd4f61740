"""Pictures of what the networks have learned, after every validation and after the test."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
from torch import Tensor

from softfeat.checks import text, whole
from softfeat.imaging.drawing import (
    boundaries,
    confusion_picture,
    errors,
    label_colours,
    overlay,
    save_picture,
    sheet,
)
from softfeat.metrics.segmentation import segmentation_scores
from softfeat.ops.pca import normalise, pca, random_projection
from softfeat.ops.superpixels import superpixel_mean, superpixel_scatter


def feature_columns(features: Tensor, filtered: Tensor, superpixels: Tensor) -> dict[str, Tensor]:
    """Shows F in three ways, each with and without the guided filter.

    Args:
        features: (B,D,H,W) feature map F.
        filtered: (B,D,H,W) F smoothed along the photos' edges.
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


class _Pictures(pl.Callback):
    """Draws a fixed set of photos into a folder and to W&B.

    Validation photos are drawn after every validation as `step_<n>.png`, test photos after the test
    as `test.png`. Feature maps are smoothed by the run's `GuidedFilter` callback, if there is one.

    Args:
        folder: Folder of the files.
        count: Number of photos on a sheet.
    """

    def __init__(self, folder: str | Path, count: int = 4) -> None:
        text("callbacks.pictures.folder", str(folder) if isinstance(folder, Path) else folder)
        whole("callbacks.pictures.count", count, 1)
        self.folder, self.count = Path(folder), count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val", f"step_{trainer.global_step:06d}.png")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module, "test", "test.png")

    @torch.no_grad()
    def _draw(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, name: str
    ) -> None:
        if not trainer.is_global_zero:
            return
        dataset = trainer.datamodule.datasets[split]  # type: ignore[attr-defined]
        # Spread over the split: neighbours are often frames of one film.
        count = min(self.count, len(dataset))
        samples: list[dict[str, Any]] = [dataset[i * len(dataset) // count] for i in range(count)]
        # One by one: full-resolution maps of several photos would take gigabytes.
        drawn = [self._columns(pl_module, _batch_of_one(s, pl_module.device)) for s in samples]
        columns = {title: torch.cat([d[title] for d in drawn]) for title in drawn[0]}
        picture = sheet(columns, getattr(pl_module, "class_names", ()))
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(picture, self.folder / name)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                step = {
                    "trainer/global_step": trainer.global_step - 1
                }  # that of the split's scores
                panels = {f"{split}/features": wandb.Image(picture)}
                logger.experiment.log(panels | self._panels(pl_module, samples, split) | step)

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _panels(self, module: Any, samples: list[dict[str, Any]], split: str) -> dict[str, Any]:
        """Makes further panels of W&B."""
        return {}


def _batch_of_one(sample: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    return {key: sample[key][None].to(device) for key in ("image", "label", "superpixels")}


class FeaturePictures(_Pictures):
    """Photo with superpixel borders, labels, and `feature_columns`; W&B: `<split>/features`."""

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, superpixels = batch["image"], batch["superpixels"]
        features = module.extractor.forward(image)  # not filtered: see `GuidedFilter`
        filtered = module.extractor(image)
        return {
            "photo, superpixels": boundaries(image, superpixels),
            "labels": label_colours(batch["label"]),
            **feature_columns(features, filtered, superpixels),
        }


class SegmentationPictures(_Pictures):
    """Prediction, ground truth, errors, and the features below them.

    W&B: `<split>/segmentation` (photos with masks), `<split>/features` (the sheet),
    `<split>/confusion` and `<split>/iou_table` (of the whole split).
    """

    def _columns(self, module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        predicted = module(image).argmax(1)
        return {
            "photo": image,
            "ground truth": overlay(image, label),
            "prediction": overlay(image, predicted),
            "errors": errors(image, predicted, label),
            "features, filtered": normalise(pca(module.extractor(image))),
        }

    def _panels(self, module: Any, samples: list[dict[str, Any]], split: str) -> dict[str, Any]:
        names = module.class_names
        images = []
        for sample in samples:
            predicted = module(sample["image"][None].to(module.device)).argmax(1)[0]
            images.append(_masked(sample["image"], predicted, sample["label"], names))
        return {
            f"{split}/segmentation": images,
            f"{split}/confusion": wandb.Image(confusion_picture(module.confusion, names)),
            f"{split}/iou_table": _iou_table(module.confusion, names),
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
