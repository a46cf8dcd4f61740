"""Training of soft semantic features on superpixels, or on sampled pixels for comparison."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.metrics.baselines import colour_features
from softfeat.metrics.pair_auc import PairAUC
from softfeat.models.extractor import Extractor, build_extractor
from softfeat.ops.npair import npair_loss
from softfeat.ops.pixels import pyramid_at_pixels
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixels import superpixel_majority
from softfeat.training.classifier import ClassWeights, SpacesClassifier, check_class_weights, rarity
from softfeat.training.ddp import share_buffers
from softfeat.training.graphed_step import GraphedGradients
from softfeat.training.schedule import poly_with_warmup

# Lab units that the height or width of the picture is worth in the colour + position baseline:
# as much as the way from black to white.
POSITION_WEIGHT = 100.0
_UNTRAINED_SEED = 0


class SoftFeatureModule(pl.LightningModule):
    """Extractor + superpixel loss (Fig. 2).

    Under ddp a step is that of one process with the joint batch: the loss is a mean over photos, of
    which every process has as many. Batch norms go by the photos of their own process.

    Args:
        extractor: the network.
        loss: Function of features (B,S,D) and labels (B,S) that returns a scalar.
        optimizer: made from the parameters.
        num_superpixels: S.
        classifier_weight: of the cross-entropy of a classifier beside the loss, which tells the
            features what is alike in two photos; 0 for the loss alone, as in the paper.
        class_weights: of that classifier, as those of `HardSegmentationModule`: "equal", or
            "frequency" for rare classes to weigh more.
        encoder_rate: Learning rate of the extractor's stages, as a factor of the rate of the rest.
            Below 1 for stages that start from another training; 0 leaves them as they are.
        sample_pixels: of labels (B,H,W), as `ops.pixels.sample_pixels`: trains on these pixels;
            None trains on superpixels. Validation compares superpixels in both cases.
        total_steps: optimiser steps of the whole training, at the end of which the rate is 0.
        power: of the polynomial decay of the learning rate.
        warmup_steps: of linear growth before it.
        channels_last: memory layout of the convolutions, in which pooling copies nothing.
        compile: compile the network with `torch.compile`.
        cuda_graph: replay forward and backward pass from one CUDA graph, where that can be: on one
            GPU, in float32 or mixed with bfloat16, without accumulated gradients and sampled
            pixels.
    """

    def __init__(
        self,
        extractor: Extractor,
        loss: Callable[[Tensor, Tensor], Tensor] = npair_loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.AdamW,
        num_superpixels: int = 500,
        classifier_weight: float = 0.0,
        class_weights: ClassWeights = "equal",
        encoder_rate: float = 1.0,
        sample_pixels: Callable[..., tuple[Tensor, Tensor]] | None = None,
        total_steps: int = 1,
        power: float = 0.9,
        warmup_steps: int = 0,
        channels_last: bool = True,
        compile: bool = False,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__()
        check_class_weights(class_weights)
        if classifier_weight < 0 or (class_weights == "frequency" and not classifier_weight):
            raise ValueError(
                f"model.classifier_weight={classifier_weight}: choose 0 or more, and more than 0 "
                "with model.class_weights=frequency, which weighs the classifier's classes"
            )
        if encoder_rate < 0:
            raise ValueError(f"model.encoder_rate={encoder_rate}: choose 0 or more")
        self.extractor = extractor
        if channels_last:
            self.extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss, self.sample_pixels, self.optimizer = loss, sample_pixels, optimizer
        self.encoder_rate = encoder_rate
        self.num_superpixels = num_superpixels
        self.classifier_weight, self.class_weights = classifier_weight, class_weights
        self.classifier: SpacesClassifier | None = None  # as many classes as the data has
        self.total_steps, self.power, self.warmup_steps = total_steps, power, warmup_steps
        # A function, not a wrapped module: the state's keys stay what they are.
        self.pyramid = torch.compile(extractor.pyramid) if compile else extractor.pyramid
        self.cuda_graph = cuda_graph
        self.graph: GraphedGradients | None = None
        self.val_loss = MeanMetric(nan_strategy=math.nan)  # "disable" drops the weights, too
        self.val_pairs = PairAUC()
        self.test_pairs = nn.ModuleDict(
            {name: PairAUC() for name in ("trained", "untrained", "lab", "lab_position")}
        )

    def setup(self, stage: str) -> None:
        data: SegmentationData = self.trainer.datamodule  # type: ignore[attr-defined]
        data.pool_at(self.extractor.level_sizes(data.image_size), flat=self._can_replay)

    def configure_model(self) -> None:
        # Here, not in setup: a callback that keeps an average of the weights asks for it before.
        # On the CPU, where labels are counted: Lightning moves it with the rest of the module.
        with torch.device("cpu"):
            self.add_classifier(self.trainer.datamodule)  # type: ignore[attr-defined]

    def add_classifier(self, data: SegmentationData) -> None:
        """Makes the classifier of the data's classes, where there is to be one and is none yet."""
        if self.classifier_weight and self.classifier is None:
            sizes = [len(names) for names in data.label_spaces]
            weights = rarity(data.class_shares()) if self.class_weights == "frequency" else None
            self.classifier = SpacesClassifier(self.extractor.dim, sizes, weights)

    def forward(self, image: Tensor) -> Tensor:
        """The feature map F (B,D,H,W) of images (B,3,H,W) in [0,1]."""
        features: Tensor = self.extractor(image)
        return features

    def superpixel_features(
        self, batch: Batch, pyramid: Callable[[Tensor], list[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Pools a network's features and the labels of a batch.

        Returns:
            features: (B,S,D).
            labels: (B,S) int64, IGNORE for superpixels without a labelled pixel.
        """
        superpixels = batch["superpixels"]
        # Before the network: the table of votes is gone when its maps fill the memory.
        labels = superpixel_majority(batch["label"], superpixels, self.num_superpixels)
        features, _ = pyramid_superpixel_mean(
            pyramid(batch["image"]), superpixels, self.num_superpixels, batch.get("pooling")
        )
        return features, labels

    def compared_features(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """What a training step compares: superpixels, or sampled pixels, of R draws an image.

        Args:
            batch: images, labels and superpixels.
            step: on its number, torch's seed and the process hangs what is drawn, so that a
                resumed run draws what the other would have.

        Returns:
            features, labels: those of `superpixel_features`, or (B*R,N,D) and (B*R,N).
        """
        if self.sample_pixels is None:
            return self.superpixel_features(batch, self.pyramid)
        seed = np.random.SeedSequence([torch.initial_seed(), step, self.global_rank])
        generator = torch.Generator(batch["label"].device)
        generator.manual_seed(int(seed.generate_state(1)[0]))
        pixels, labels = self.sample_pixels(batch["label"], generator=generator)
        size = (batch["label"].shape[1], batch["label"].shape[2])
        features = pyramid_at_pixels(self.pyramid(batch["image"]), pixels, size)
        return features.flatten(0, 1), labels.flatten(0, 1)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """What a training step minimises.

        Args:
            batch: images, labels and superpixels.
            step: as for `compared_features`.

        Returns:
            "loss", a scalar; beside a classifier also what it is the sum of, "npair" and, before
            its weight, "cross_entropy".
        """
        compared = self.compared_features(batch, step)
        npair = self.loss(*compared)
        if self.classifier is None:
            return {"loss": npair}
        draws = len(compared[0]) // len(batch["space"])
        space = batch["space"].repeat_interleave(draws)
        cross_entropy = self.classifier.loss(*compared, space)
        loss = npair + self.classifier_weight * cross_entropy
        return {"loss": loss, "npair": npair, "cross_entropy": cross_entropy}

    @property
    def _can_replay(self) -> bool:
        trainer = self.trainer
        return (
            self.cuda_graph
            and self.sample_pixels is None
            and isinstance(trainer.strategy, SingleDeviceStrategy)
            and trainer.strategy.root_device.type == "cuda"
            and trainer.precision in ("32-true", "bf16-mixed")
        )

    def on_train_start(self) -> None:
        self.graph = self.captured_steps() if self._can_replay else None

    def on_train_epoch_start(self) -> None:
        if self.trainer.accumulate_grad_batches != 1:  # from now on, it may be
            self.graph = None

    def on_train_end(self) -> None:
        self.graph = None  # and its memory; the module may go elsewhere

    def captured_steps(self) -> GraphedGradients:
        """What replays `losses` of batches on a GPU."""
        return GraphedGradients(partial(self.losses, step=0), self)  # nothing is drawn

    def training_losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """As `losses`; those that are replayed have no history, but `backward` knows the way."""
        if self.graph is not None:
            if self.graph.takes(batch):
                return self.graph(batch)
            rank_zero_warn(
                "some batches go without the CUDA graph, for their superpixels are less compact "
                "than most: they train the same, and slower"
            )
        return self.losses(batch, step)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.graph is not None and not loss.requires_grad:
            self.graph.give_gradients()
        else:
            super().backward(loss, *args, **kwargs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.training_losses(batch, self.global_step)
        loss = losses.pop("loss")
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        # A progress bar reads its values every step, and on a GPU waits for them.
        self.log("train/loss", loss, prog_bar=loss.device.type == "cpu")
        return loss

    def on_validation_start(self) -> None:
        share_buffers(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features, labels = self.superpixel_features(batch, self.pyramid)
        self.val_loss.update(self.loss(features, labels), len(labels))
        self.val_pairs.update(features, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        scores = self.val_pairs.compute()
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val_auc", scores["pair_auc"], prog_bar=True, logger=False)
        self.val_pairs.reset()

    def on_test_start(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_UNTRAINED_SEED)
            untrained = build_extractor(self.extractor.hparams)
        # Not a submodule: it is no part of the model.
        self._untrained = untrained.to(self.device).eval().pyramid

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        features, labels = self.superpixel_features(batch, self.pyramid)
        colour = (batch["image"], batch["superpixels"], self.num_superpixels)
        compared = {
            "trained": features,
            "untrained": self.superpixel_features(batch, self._untrained)[0],
            "lab": colour_features(*colour),
            "lab_position": colour_features(*colour, position_weight=POSITION_WEIGHT),
        }
        for name, values in compared.items():
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
        """F of a batch; smoothed along the photo's edges where the callback does so."""
        return self(batch["image"])

    def configure_optimizers(self) -> Any:
        learned = [p for p in self.parameters() if p.requires_grad]
        groups: list[Any] = [{"params": learned}]
        rates = [1.0]
        if self.encoder_rate != 1:
            encoder = set(self.extractor.encoder_parameters())
            groups = [
                {"name": "rest", "params": [p for p in learned if p not in encoder]},
                {"name": "encoder", "params": [p for p in learned if p in encoder]},
            ]
            rates = [1.0, self.encoder_rate]
        optimizer = self.optimizer(groups)
        scheduler = poly_with_warmup(
            optimizer, self.total_steps, self.power, self.warmup_steps, rates
        )
        schedule = {"scheduler": scheduler, "interval": "step", "name": "train/lr"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # What rebuilds the network, as plain numbers: see load_extractor.
        checkpoint["extractor"] = self.extractor.hparams
