"""Stops a run whose loss is no longer finite, before it overwrites a good checkpoint."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from softfeat.checks import whole

_REMEDY = (
    "Start again with a lower learning rate (model.optimizer.lr), or look at these files. "
    "The checkpoints in checkpoints/ are older and not affected"
)


class StopOnNonFinite(pl.Callback):
    """Raises a FloatingPointError that names the files of the first batch with a bad loss.

    Args:
        every_n_steps: Number of steps between two checks on a GPU, where a check waits for the
            device. The batches in between are remembered, and a check always precedes a
            checkpoint.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        whole("callbacks.finite.every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self._last: list[str] = []
        self._seen: list[tuple[int, Tensor, list[str]]] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss, self._last = outputs["loss"].detach(), batch["path"]
        self._seen.append((trainer.global_step, loss, self._last))
        if loss.device.type == "cpu" or len(self._seen) >= self.every_n_steps:
            self._check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not loss.isfinite():
            raise FloatingPointError(
                f"the validation loss after step {trainer.global_step} is {loss.item()}: the last "
                f"step's photos were\n  " + "\n  ".join(self._last) + f"\n{_REMEDY}"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Checks the weights: a finite loss can have an infinite gradient."""
        self._check()
        for name, value in pl_module.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise FloatingPointError(
                    f"the weights {name} are not finite after step {trainer.global_step}. The last "
                    "step's photos:\n  " + "\n  ".join(self._last) + f"\n{_REMEDY}"
                )

    def _check(self) -> None:
        seen, self._seen = self._seen, []
        if not seen or torch.stack([loss for _, loss, _ in seen]).isfinite().all():
            return
        step, loss, paths = next(entry for entry in seen if not entry[1].isfinite())
        raise FloatingPointError(
            f"the loss of step {step} is {loss.item()}. Its photos:\n  "
            + "\n  ".join(paths)
            + f"\n{_REMEDY}"
        )
