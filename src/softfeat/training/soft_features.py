"""Training of soft semantic features on superpixels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softfeat.checks import flag, number, whole
from softfeat.data.dataset import Batch
from softfeat.metrics.pair_auc import PairAUC
from softfeat.models.extractor import Extractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_majority
from softfeat.training.base import BaseModule, MakeOptimizer
from softfeat.training.baselines import BASELINES, Baselines
from softfeat.training.classifier import SpacesClassifier
from softfeat.training.graphed_step import GraphedStep, Step, trainer_can_replay


class SoftFeatureModule(BaseModule):
    """Extractor with the superpixel loss (Fig. 2).

    Under ddp a step is that of one process with the joint batch: the loss is a mean over photos,
    and every process has equally many. Batch norms use the photos of their own process.

    Args:
        extractor: The network.
        loss: Computes a scalar from features (B,S,D) and labels (B,S).
        optimizer: Makes the optimiser from parameter groups.
        num_superpixels: S.
        num_classes: Number of classes of each label space of the data; needed by the classifier.
        classifier_weight: Weight of the cross-entropy of a classifier, which teaches the features
            what is alike in different photos; 0 for the loss alone, as in the paper.
        class_weights: (K,) weights of all classes in this cross-entropy; None for equal weights.
        encoder_rate: See `BaseModule`.
        warmup_steps: See `BaseModule`.
        cuda_graph: Replay forward and backward pass from one CUDA graph where `can_replay` allows
            it.

    Raises:
        ValueError: The settings of the classifier contradict each other.
    """

    def __init__(
        self,
        extractor: Extractor,
        loss: Callable[[Tensor, Tensor], Tensor] = npair_loss,
        optimizer: MakeOptimizer = torch.optim.AdamW,
        num_superpixels: int = 500,
        num_classes: Sequence[int] = (),
        classifier_weight: float = 0.0,
        class_weights: Tensor | None = None,
        encoder_rate: float = 1.0,
        warmup_steps: int = 0,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(extractor, optimizer, warmup_steps, encoder_rate)
        number("model.classifier_weight", classifier_weight, 0)
        whole("model.num_superpixels", num_superpixels, 1)
        flag("model.cuda_graph", cuda_graph)
        if class_weights is not None and not classifier_weight:
            raise ValueError(
                f"model.classifier_weight={classifier_weight}: choose more than 0 with "
                "model.class_weights=frequency, which weighs the classifier's classes"
            )
        if not callable(loss):
            raise ValueError(f"loss={loss}: choose one of the files in conf/loss, such as npair")
        loss(torch.zeros(1, 2, extractor.dim), torch.zeros(1, 2).long())  # checks its settings
        self.loss, self.num_superpixels = loss, num_superpixels
        self.classifier_weight = classifier_weight
        self.classifier: SpacesClassifier | None = None
        if classifier_weight:
            self.classifier = SpacesClassifier(extractor.dim, num_classes, class_weights)
        self.cuda_graph = cuda_graph
        self.step = Step(self.losses)
        self.val_pairs = PairAUC()
        self.test_pairs = nn.ModuleDict({name: PairAUC() for name in ("trained", *BASELINES)})

    def forward(self, image: Tensor) -> Tensor:
        """Computes the feature map F (B,D,H,W) of images (B,3,H,W) in [0,1]."""
        features: Tensor = self.extractor(image)
        return features

    def superpixel_features(
        self, batch: Batch, pyramid: Callable[[Tensor], list[Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pools features and labels of a batch over its superpixels (Eqs. 1 and 3).

        Args:
            batch: Images, labels and superpixels.
            pyramid: Computes the feature levels of the images; None for the module's network.

        Returns:
            features: (B,S,D).
            labels: (B,S) int64, IGNORE for superpixels without a labelled pixel.
        """
        superpixels = batch["superpixels"]
        # Before the network: the table of votes is freed before the network's maps fill the memory.
        labels = superpixel_majority(batch["label"], superpixels, self.num_superpixels)
        levels = (pyramid or self.extractor.pyramid)(batch["image"])
        features, _ = pyramid_superpixel_mean(
            levels, superpixels, self.num_superpixels, batch.get("pooling")
        )
        return features, labels

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Computes what a training step minimises.

        Args:
            batch: Images, labels and superpixels.
            step: Number of the optimiser step; not used here (see `SampledPixelModule`).

        Returns:
            As `compare`.
        """
        return self.compare(*self.superpixel_features(batch), batch)

    def compare(self, features: Tensor, labels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Computes the losses of features and labels.

        Args:
            features: (R*B,S,D) features of R draws per image of the batch.
            labels: (R*B,S) their labels.
            batch: The batch that they come from.

        Returns:
            "loss", a scalar. With a classifier also its two parts: "npair", and "cross_entropy"
            before it is weighted.
        """
        npair = self.loss(features, labels)
        if self.classifier is None:
            return {"loss": npair}
        space = batch["space"].repeat_interleave(len(features) // len(batch["space"]))
        cross_entropy = self.classifier.loss(features, labels, space)
        loss = npair + self.classifier_weight * cross_entropy
        return {"loss": loss, "npair": npair, "cross_entropy": cross_entropy}

    def on_train_start(self) -> None:
        if self.cuda_graph and trainer_can_replay(self.trainer):
            self.step = GraphedStep(self.losses, self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.step(batch, self.global_step)
        self.log_losses(losses)
        return losses["loss"]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.step.backward(loss)

    def on_train_end(self) -> None:
        self.step = Step(self.losses)  # frees a graph's memory; the module may be moved

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features, labels = self.superpixel_features(batch)
        self.val_loss.update(self.loss(features, labels), len(labels))
        self.val_pairs.update(features, labels)

    def on_validation_epoch_end(self) -> None:
        self.log_validation_loss()
        scores = self.val_pairs.compute()
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val_auc", scores["pair_auc"], prog_bar=True, logger=False)
        self.val_pairs.reset()

    def on_test_start(self) -> None:
        self.baselines = Baselines(self.extractor.hparams, self.num_superpixels, self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        features, labels = self.superpixel_features(batch)
        for name, values in {"trained": features, **self.baselines(batch)}.items():
            self.test_pairs[name].update(values, labels)  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        for name, metric in self.test_pairs.items():
            scores = metric.compute()  # type: ignore[operator]
            if name == "trained":
                self.log_dict({f"test/{key}": value for key, value in scores.items()})
            else:
                self.log(f"test/pair_auc_{name}", scores["pair_auc"])
            metric.reset()  # type: ignore[operator]

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes F of a batch; the guided-filter callback smooths it along the photo's edges."""
        return self(batch["image"])
