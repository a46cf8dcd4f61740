"""What the LightningModules of both systems share: optimiser, schedule, logging, checkpoints."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from softfeat.checks import flag, number, whole
from softfeat.models.extractor import Extractor
from softfeat.training.ddp import share_buffers
from softfeat.training.schedule import poly_with_warmup

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]


def check_optimizer(make: MakeOptimizer) -> None:
    """Checks the settings of an optimiser, before a training has read its data.

    Args:
        make: Makes the optimiser from parameters.

    Raises:
        ValueError: A setting is out of range, or the optimiser does not take it.
    """
    for name, value in getattr(make, "keywords", {}).items():
        key = f"model.optimizer.{name}"
        if name == "lr":
            number(key, value, above=0)
        elif name in ("weight_decay", "eps", "dampening", "lr_decay"):
            number(key, value, 0)
        elif name in ("momentum", "alpha"):
            number(key, value, 0, below=1)
        elif name in ("fused", "foreach", "nesterov", "amsgrad", "maximize") and value is not None:
            flag(key, value)
        elif isinstance(value, float):
            number(key, value)
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ValueError(f"model.optimizer: {error}") from error


class BaseModule(pl.LightningModule):
    """An extractor in training, alone or with something on top of it.

    Args:
        extractor: The network. Its convolutions are laid out channels-last, so that pooling copies
            nothing.
        optimizer: Makes the optimiser from parameter groups.
        warmup_steps: Number of optimiser steps in which the learning rate grows linearly.
        encoder_rate: Learning rate of the extractor's stages, as a factor of the rate of the rest.
            Below 1 for stages that start from another training; 0 leaves them as they are.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        extractor: Extractor,
        optimizer: MakeOptimizer = torch.optim.AdamW,
        warmup_steps: int = 0,
        encoder_rate: float = 1.0,
    ) -> None:
        super().__init__()
        number("model.encoder_rate", encoder_rate, 0)
        whole("model.warmup_steps", warmup_steps, 0)
        check_optimizer(optimizer)
        self.extractor = extractor
        self.extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.warmup_steps, self.encoder_rate = optimizer, warmup_steps, encoder_rate
        self.restored_metrics: dict[str, float] = {}
        self.started = time.perf_counter()  # of the fit
        self.val_loss = MeanMetric(nan_strategy=math.nan)  # "disable" drops the weights, too

    def optimizer_and_schedule(self, total_steps: int) -> tuple[Optimizer, LambdaLR]:
        """Makes the optimiser and the schedule of its learning rates.

        Args:
            total_steps: Optimiser steps of the whole training; the learning rate ends at 0.

        Returns:
            The optimiser, and a schedule to be advanced after every optimiser step. With an
            `encoder_rate` other than 1 there are two parameter groups, "rest" and "encoder".
        """
        learned = [p for p in self.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": learned}]
        factors = [1.0]
        if self.encoder_rate != 1:
            encoder = set(self.extractor.encoder_parameters())
            groups = [
                {"name": "rest", "params": [p for p in learned if p not in encoder]},
                {"name": "encoder", "params": [p for p in learned if p in encoder]},
            ]
            factors = [1.0, self.encoder_rate]
        optimizer = self.optimizer(groups)
        return optimizer, poly_with_warmup(optimizer, total_steps, self.warmup_steps, factors)

    def configure_optimizers(self) -> Any:
        # Not `trainer.estimated_stepping_batches`: it starts the loader before a resumed run knows
        # its epoch.
        trainer: Any = self.trainer
        total_steps = trainer.max_epochs * trainer.datamodule.steps_per_epoch
        optimizer, schedule = self.optimizer_and_schedule(total_steps)
        scheduler = {"scheduler": schedule, "interval": "step", "name": "train/lr"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients, in bfloat16 also those of a fused optimiser."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val:
            # In mixed precision, Lightning refuses fused optimisers, which unscale gradients
            # themselves. Gradients in bfloat16 are not scaled.
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    def log_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Logs the losses of a training step as `train/<name>`."""
        for name, value in losses.items():
            # A progress bar reads its values in every step, which waits for a GPU.
            on_bar = name == "loss" and value.device.type == "cpu"
            self.log(f"train/{name}", value, prog_bar=on_bar)

    def log_validation_loss(self) -> None:
        """Logs the mean of `val_loss` and resets it."""
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()

    def metrics(self) -> dict[str, float]:
        """Lists the last values of all metrics, and the seconds of the fit, as `seconds/fit`.

        Those of a training that was resumed are included.
        """
        logged = {} if self._trainer is None else self._trainer.callback_metrics
        before = self.restored_metrics.get("seconds/fit", 0.0)
        return (
            self.restored_metrics
            | {k: float(v) for k, v in logged.items() if "/" in k}
            | {"seconds/fit": before + time.perf_counter() - self.started}
        )

    def on_validation_start(self) -> None:
        share_buffers(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The paths in a checkpoint are where the run was, or what a stranger wrote. Lightning would
        # forget the best score of a moved run, and delete files at these paths.
        folder = Path(os.path.realpath(Path(self.trainer.ckpt_path or "").parent))
        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:
                _rebase(state, folder)
        self.restored_metrics = dict(checkpoint.get("metrics", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = self.metrics()
        checkpoint["extractor"] = self.extractor.hparams  # plain values: see `load_extractor`


def _rebase(state: dict[str, Any], folder: Path) -> None:
    """Changes the paths in the state of a `ModelCheckpoint` to files of the same name in `folder`.

    Without a name there is no file, as before the first checkpoint.
    """

    def moved(path: object) -> str:
        name = Path(str(path)).name if path else ""
        return str(folder / name) if name not in ("", "..") else ""

    state["dirpath"] = str(folder)
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state.get(key))
    models = state.get("best_k_models", {})
    state["best_k_models"] = {moved(path): score for path, score in models.items()}
