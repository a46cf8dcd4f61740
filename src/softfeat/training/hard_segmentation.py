"""Hard segmentation on frozen soft features (Fig. 7, Table 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.checks import flag, one_of
from softfeat.data.dataset import Batch
from softfeat.data.layouts import Layout
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix, segmentation_scores
from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.extractor import Extractor, extractor_of
from softfeat.models.heads import Decoder, LinearProbe, head_inputs
from softfeat.models.test_time_views import ONE_VIEW, Views
from softfeat.ops.labels import IGNORE
from softfeat.ops.sizes import ceil_div
from softfeat.training.base import BaseModule, MakeOptimizer
from softfeat.training.ddp import share_of_mean

SCORES = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")
_HEADS: dict[str, type[nn.Module]] = {"decoder": Decoder, "linear": LinearProbe}


def head_classes(layout: Layout, trained_for: Sequence[str] = ()) -> list[str]:
    """Finds the classes that a head names.

    Args:
        layout: The data set.
        trained_for: Class names of a trained head, which the data has to have; empty for a new one.

    Raises:
        ValueError: The data set has several label spaces, a contrast class, or other classes.
    """
    names = list(layout.class_names)
    if not names:
        raise ValueError(
            "a mixture of label spaces serves soft features only; choose a data set with classes "
            "of its own"
        )
    if layout.contrast:
        raise ValueError(
            f"the data has the contrast class {', '.join(map(str, layout.contrast))}, which a head "
            "cannot name: set data.layout.contrast=[]"
        )
    if trained_for and len(names) != len(trained_for):
        raise ValueError(
            f"the data has {len(names)} classes and the model {len(trained_for)}: choose the data "
            "set that it was trained on"
        )
    if trained_for and names != list(trained_for):
        raise ValueError(
            f"the data's classes are {', '.join(names)}, and the model was trained for "
            f"{', '.join(trained_for)}"
        )
    return names


class HardSegmentationModule(BaseModule):
    """Frozen extractor with a head, trained with cross-entropy.

    Under ddp a step is that of one process with the joint batch: the mean over the labelled pixels
    of all processes. Batch norms use the photos of their own process.

    Args:
        num_classes: K.
        extractor: The network. With `end_to_end` its `level_norm` becomes 0, because that acts in
            eval mode only: on features that the head would not know.
        head: "decoder", or "linear" for a probe of what the features hold.
        optimizer: Makes the optimiser from parameter groups.
        class_names: Names of the K classes.
        class_weights: (K,) weights of the classes in the loss; None for equal weights.
        warmup_steps: See `BaseModule`.
        end_to_end: Train the extractor, too.
        views: Views of a photo over which scores are averaged at test time.

    Raises:
        ValueError: There is no such head.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        extractor: Extractor,
        head: Literal["decoder", "linear"] = "decoder",
        optimizer: MakeOptimizer = torch.optim.AdamW,
        class_names: Sequence[str] = (),
        class_weights: Tensor | None = None,
        warmup_steps: int = 0,
        end_to_end: bool = False,
        views: Views = ONE_VIEW,
    ) -> None:
        super().__init__(extractor, optimizer, warmup_steps)
        one_of("model.head", head, _HEADS)
        flag("model.end_to_end", end_to_end)
        if end_to_end:
            extractor.hparams["level_norm"] = 0.0
        self.end_to_end = end_to_end
        # All of it frozen: the extractor's batch norms stay as they are, too (see `train`).
        self.extractor.requires_grad_(end_to_end)
        channels = [extractor.low_channels, *extractor.level_channels]
        self.head = _HEADS[head](channels, num_classes)
        self.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Rebuilds this module; goes into checkpoints as plain values.
        self.hparams_plain = {"num_classes": num_classes, "head": head}
        self.num_classes, self.class_names = num_classes, list(class_names)
        self.balanced = class_weights is not None
        weights = torch.ones(num_classes) if class_weights is None else class_weights.float()
        self.register_buffer("class_weights", weights, persistent=False)
        self.views = views
        self.val_scores = SegmentationScores(num_classes)
        self.test_scores = SegmentationScores(num_classes)
        self.train()  # Lightning leaves the modes as they are; a loaded extractor is in eval mode

    def train(self, mode: bool = True) -> "HardSegmentationModule":
        """Sets the mode of the head; a frozen extractor stays in eval mode with its batch norms."""
        super().train(mode)
        if not self.end_to_end:
            self.extractor.eval()
        return self

    def inputs(self, image: Tensor) -> list[Tensor]:
        """Computes what the head reads (see `head_inputs`) from photos (B,3,H,W)."""
        with torch.set_grad_enabled(self.end_to_end and torch.is_grad_enabled()):
            return head_inputs(*self.extractor.pyramid_and_low(image))

    def scores(self, image: Tensor) -> Tensor:
        """Computes class scores (B,K,H/4,W/4) of photos (B,3,H,W)."""
        return self.head(self.inputs(image))

    def forward(self, image: Tensor) -> Tensor:
        """Computes class scores (B,K,H,W) of photos (B,3,H,W) in [0,1]."""
        size = image.shape[-2:]
        return F.interpolate(self.scores(image), size, mode="bilinear", align_corners=False)

    def predict(self, image: Tensor) -> Tensor:
        """Predicts classes (B,H,W) int64 of photos (B,3,H,W) from all `views`."""
        scores, size = self.views(self.scores, image), image.shape[-2:]
        return F.interpolate(scores, size, mode="bilinear", align_corners=False).argmax(1)

    def batch_scores(self, batch: Batch) -> Tensor:
        """Computes class scores (B,K,H/4,W/4) of a batch of photos or of stored features."""
        if "features" in batch:
            return self.head([level.float() for level in batch["features"]])
        return self.scores(batch["image"])

    def label_weight(self, label: Tensor) -> Tensor:
        """Sums the class weights of all labelled pixels; their number, if classes are equal."""
        known = label != IGNORE
        if not self.balanced:
            return known.sum()
        return torch.where(known, self.class_weights[torch.where(known, label, 0)], 0.0).sum()

    def loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Computes the first value of `loss_and_weight`."""
        return self.loss_and_weight(scores, label)[0]

    def loss_and_weight(self, scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the weighted mean cross-entropy of all labelled pixels.

        The scores are enlarged to half the resolution of the labels, and each stands for the four
        pixels around it. This costs a fourth of full resolution.

        Args:
            scores: (B,K,h,w).
            label: (B,H,W) int64.

        Returns:
            loss: Scalar; 0 with gradient 0 where there is no label.
            weight: Scalar, see `label_weight`.
        """
        size = [ceil_div(n, 2) for n in label.shape[1:]]
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
        weight = self.label_weight(label)
        return torch.stack(losses).sum() / weight.clamp(min=1), weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, weight = self.loss_and_weight(self.batch_scores(batch), batch["label"])
        self.log_losses({"loss": loss})
        return loss * share_of_mean(weight)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.batch_scores(batch)
        loss, weight = self.loss_and_weight(scores, batch["label"])
        self.val_loss.update(loss, weight.clamp(min=1))
        self.val_scores.update(_matrices(scores, batch))

    def on_validation_epoch_end(self) -> None:
        self.log_validation_loss()
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
        self.confusion = scores["matrix"]  # of the last validation or test; pictures show it
        metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predicts the classes (B,H,W) of a batch."""
        return self.predict(batch["image"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["hard_segmentation"] = self.hparams_plain  # see `load_hard_segmentation`
        checkpoint["class_names"] = self.class_names


def _matrices(scores: Tensor, batch: Batch) -> Tensor:
    """Computes confusion matrices (B,K,K), image by image: labels have sizes of their own."""
    labels = batch["native_label"] if "native_label" in batch else batch["label"]
    pairs = zip(scores, labels, strict=True)
    return torch.stack([confusion_matrix(score, label) for score, label in pairs])


def load_hard_segmentation(
    checkpoint: str | Path, views: Views = ONE_VIEW
) -> HardSegmentationModule:
    """Rebuilds a trained module, in eval mode on the CPU.

    Args:
        checkpoint: Checkpoint of a hard-segmentation run: a file, a run directory or the name of
            shipped weights.
        views: Views of a photo over which scores are averaged at test time.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint of hard segmentation.
    """
    content = read_checkpoint(checkpoint)
    if "hard_segmentation" not in content:
        raise ValueError(f"{checkpoint} holds soft features: train a head on it (hardseg_*) first")
    module = HardSegmentationModule(
        extractor=extractor_of(content),
        class_names=content["class_names"],
        views=views,
        **content["hard_segmentation"],
    )
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: the head's weights do not fit: {error}") from error
    return module.eval()
