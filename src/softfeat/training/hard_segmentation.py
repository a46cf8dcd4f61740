"""Hard segmentation on frozen soft features (Fig. 7, Table 2)."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix, segmentation_scores
from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.extractor import Extractor, extractor_of, load_extractor
from softfeat.models.heads import Decoder, LinearProbe, head_inputs
from softfeat.models.test_time_views import ONE_VIEW, Views
from softfeat.ops.labels import IGNORE
from softfeat.training.classifier import ClassWeights, check_class_weights, rarity
from softfeat.training.ddp import share_buffers, share_of_mean
from softfeat.training.schedule import poly_with_warmup

SCORES = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")


class HardSegmentationModule(pl.LightningModule):
    """Frozen extractor + head, trained with cross-entropy.

    Under ddp a step is that of one process with the joint batch: the mean over the labelled pixels
    of all processes. Batch norms go by the photos of their own process.

    Args:
        features_checkpoint: of soft features, whose extractor is taken; None for the one given.
        extractor: the network where there is no checkpoint, randomly initialised.
        num_classes: K.
        head: "decoder", or "linear" for a probe of what the features hold.
        optimizer: made from the parameters that learn.
        class_weights: "equal", or "frequency": of a class that has the share p of the training
            pixels 1 / log(1.02 + p), so that rare classes are not given up (Paszke et al. 2016).
        total_steps: optimiser steps of the whole training, at the end of which the rate is 0.
        power: of the polynomial decay of the learning rate.
        warmup_steps: of linear growth before it.
        end_to_end: train the extractor, too.
        cache_features: compute the frozen features once for all and train on what is stored.
        channels_last: memory layout of the convolutions.
        views: of a photo, over which scores are averaged at test time.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        features_checkpoint: str | Path | None = None,
        extractor: Extractor | None = None,
        head: Literal["decoder", "linear"] = "decoder",
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.AdamW,
        class_weights: ClassWeights = "equal",
        total_steps: int = 1,
        power: float = 0.9,
        warmup_steps: int = 0,
        end_to_end: bool = False,
        cache_features: bool = False,
        channels_last: bool = True,
        views: Views = ONE_VIEW,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f"{num_classes} classes: a mixture of label spaces serves soft features only; "
                "choose a data set with classes of its own"
            )
        if end_to_end and cache_features:
            raise ValueError(
                "model.cache_features=true stores what a frozen extractor gives, and "
                "model.end_to_end=true trains it: choose one"
            )
        check_class_weights(class_weights)
        if features_checkpoint is not None:
            given, extractor = extractor, load_extractor(features_checkpoint)
            if given is not None:  # no part of what was learned
                extractor.recompute = given.recompute
        if extractor is None:
            raise ValueError("give model.features_checkpoint, or an extractor in its place")
        if end_to_end:  # it acts in eval mode alone: on features that the head would not know
            extractor.hparams["level_norm"] = 0.0
        self.extractor = extractor
        self.end_to_end, self.cache_features = end_to_end, cache_features
        # Frozen whole: the extractor's batch norms stay as they are, too (see train).
        self.extractor.requires_grad_(end_to_end)
        channels = [extractor.low_channels, *extractor.level_channels]
        kinds: dict[str, type[nn.Module]] = {"decoder": Decoder, "linear": LinearProbe}
        if head not in kinds:
            raise ValueError(f"model.head={head}: choose {' or '.join(kinds)}")
        self.head = kinds[head](channels, num_classes)
        # What rebuilds this module; goes into checkpoints as plain values.
        self.hparams_plain = {"num_classes": num_classes, "head": head}
        self.class_names: list[str] = []  # from the data, or a checkpoint
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.balanced = optimizer, class_weights == "frequency"
        self.register_buffer("class_weights", torch.ones(num_classes), persistent=False)
        self.total_steps, self.power, self.warmup_steps = total_steps, power, warmup_steps
        self.views = views
        self.num_classes = num_classes
        self.val_loss = MeanMetric(nan_strategy=math.nan)  # "disable" drops the weights, too
        self.val_scores = SegmentationScores(num_classes)
        self.test_scores = SegmentationScores(num_classes)
        self.train()  # Lightning leaves the modes as they are: a loaded extractor may be in either

    def setup(self, stage: str) -> None:
        data: SegmentationData = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.layout.contrast:
            raise ValueError(
                f"the data has the contrast class {', '.join(map(str, data.layout.contrast))}, but "
                "a head needs every class: set data.layout.contrast=[]"
            )
        names = list(data.layout.class_names)
        if len(names) != self.num_classes:
            raise ValueError(
                f"the data has {len(names)} classes and the model {self.num_classes}: "
                f"set model.num_classes={len(names)}, or null to go by the data"
            )
        if self.class_names and names != self.class_names:
            raise ValueError(
                f"the data's classes are {', '.join(names)}, and the model was trained for "
                f"{', '.join(self.class_names)}"
            )
        self.class_names = names
        if stage in ("fit", "validate") and self.balanced:
            self.class_weights.copy_(rarity(data.class_shares()))
        if stage == "fit" and self.cache_features:
            device = self.trainer.strategy.root_device
            self.extractor.to(device).eval()
            state = hashlib.sha256(json.dumps(self.extractor.hparams, sort_keys=True).encode())
            for name, value in self.extractor.state_dict().items():
                state.update(name.encode())
                state.update(value.cpu().contiguous().numpy().tobytes())
            splits = ["train", "val"] if self.trainer.limit_val_batches else ["train"]
            data.store_features(self.inputs, state.hexdigest(), device, splits)
        elif stage == "fit" and data.variants is not None:
            warnings.warn(
                f"data.variants={data.variants} without model.cache_features: each photo is seen "
                "in so many versions only; data.variants=null augments anew each time",
                stacklevel=2,
            )

    def train(self, mode: bool = True) -> "HardSegmentationModule":
        """As ever, but a frozen extractor stays in eval mode: its batch norms do not move."""
        super().train(mode)
        if not self.end_to_end:
            self.extractor.eval()
        return self

    def inputs(self, image: Tensor) -> list[Tensor]:
        """What the head reads (see `head_inputs`), of photos (B,3,H,W)."""
        with torch.set_grad_enabled(self.end_to_end and torch.is_grad_enabled()):
            return head_inputs(*self.extractor.pyramid_and_low(image))

    def scores(self, image: Tensor) -> Tensor:
        """Class scores (B,K,H/4,W/4) of photos (B,3,H,W)."""
        return self.head(self.inputs(image))

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B,K,H,W) of photos (B,3,H,W) in [0,1]."""
        size = image.shape[-2:]
        return F.interpolate(self.scores(image), size, mode="bilinear", align_corners=False)

    def predict(self, image: Tensor) -> Tensor:
        """Classes (B,H,W) int64 of photos (B,3,H,W), from all `views`."""
        scores, size = self.views(self.scores, image), image.shape[-2:]
        return F.interpolate(scores, size, mode="bilinear", align_corners=False).argmax(1)

    def batch_scores(self, batch: Batch) -> Tensor:
        """Class scores (B,K,H/4,W/4) of a batch of photos or of stored features."""
        if "features" in batch:
            return self.head([level.float() for level in batch["features"]])
        return self.scores(batch["image"])

    def weight_of(self, label: Tensor) -> Tensor:
        """Summed class weights of a label map's pixels: their number, where classes are equal."""
        known = label != IGNORE
        if not self.balanced:
            return known.sum()
        return torch.where(known, self.class_weights[torch.where(known, label, 0)], 0.0).sum()

    def loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """The first of `loss_and_weight`."""
        return self.loss_and_weight(scores, label)[0]

    def loss_and_weight(self, scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean cross-entropy of all labels, with the scores at half their resolution.

        A score stands for the four pixels around it, which costs a fourth of enlarging further.

        Returns:
            The mean, 0 with gradient 0 where there is no label, and `weight_of(label)`.
        """
        size = [-(-n // 2) for n in label.shape[1:]]
        enlarged = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)
        log_probability = enlarged.log_softmax(1)
        parts = (label[:, row::2, col::2] for row in (0, 1) for col in (0, 1))
        losses = [
            F.nll_loss(
                log_probability[:, :, : part.shape[1], : part.shape[2]],
                part,
                self.class_weights,
                ignore_index=IGNORE,
                reduction="sum",
            )
            for part in parts
        ]
        weight = self.weight_of(label)
        return torch.stack(losses).sum() / weight.clamp(min=1), weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, weight = self.loss_and_weight(self.batch_scores(batch), batch["label"])
        # A progress bar reads its values every step, and on a GPU waits for them.
        self.log("train/loss", loss, prog_bar=loss.device.type == "cpu")
        return loss * share_of_mean(weight)

    def on_validation_start(self) -> None:
        share_buffers(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.batch_scores(batch)
        loss, weight = self.loss_and_weight(scores, batch["label"])
        self.val_loss.update(loss, weight.clamp(min=1))
        self.val_scores.update(_matrices(scores, batch))

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        self._log_scores(self.val_scores, "val")
        self.log("val_miou", self.trainer.callback_metrics["val/miou"], prog_bar=True, logger=False)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        matrices = _matrices(self.views(self.scores, batch["image"]), batch)
        self.test_scores.update(matrices)
        return {"miou": segmentation_scores(matrices)["miou"]}

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores, "test")

    def _log_scores(self, metric: SegmentationScores, split: str) -> None:
        scores = metric.compute()
        self.log_dict({f"{split}/{name}": scores[name] for name in SCORES})
        named = zip(self.class_names, scores["iou"], strict=True)
        self.log_dict({f"{split}/iou/{name}": value for name, value in named})
        self.confusion = scores["matrix"]  # of the last validation or test, for pictures
        metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Classes (B,H,W) of a batch."""
        return self.predict(batch["image"])

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = poly_with_warmup(optimizer, self.total_steps, self.power, self.warmup_steps)
        schedule = {"scheduler": scheduler, "interval": "step", "name": "train/lr"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # What rebuilds both networks, as plain values: see load_hard_segmentation.
        checkpoint["extractor"] = self.extractor.hparams
        checkpoint["hard_segmentation"] = self.hparams_plain
        checkpoint["class_names"] = self.class_names


def _matrices(scores: Tensor, batch: Batch) -> Tensor:
    """Confusion matrices (B,K,K); one image at a time, for labels have sizes of their own."""
    labels = batch["native_label"] if "native_label" in batch else batch["label"]
    pairs = zip(scores, labels, strict=True)
    return torch.stack([confusion_matrix(score, label) for score, label in pairs])


def load_hard_segmentation(
    checkpoint: str | Path, views: Views = ONE_VIEW
) -> HardSegmentationModule:
    """Rebuilds a trained module, in eval mode on the CPU.

    Args:
        checkpoint: of a hard-segmentation run.
        views: of a photo, over which scores are averaged at test time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of hard segmentation.
    """
    content = read_checkpoint(checkpoint)
    if "hard_segmentation" not in content:
        raise ValueError(f"{checkpoint} holds soft features: train a head on it (hardseg_*) first")
    module = HardSegmentationModule(
        extractor=extractor_of(content), views=views, **content["hard_segmentation"]
    )
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: the head's weights do not fit: {error}") from error
    module.class_names = content["class_names"]
    return module.eval()
