"""How fast a training is, and how long it waits for its photos."""

from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs `system/images_per_s` and `system/data_wait` every `trainer.log_every_n_steps` steps.

    The images are those of all processes. The wait is the share of the wall-clock time, in [0,1],
    between the end of a step and the start of the next: waiting for the loader, and for the
    transfer to the device. It is measured on the host; a GPU with queued work may not be idle.

    A measurement starts with the first step of an epoch or at the end of the previous measurement,
    so validation and checkpoints are in none. Steps at the end of an epoch that do not complete a
    measurement are left out.
    """

    def __init__(self) -> None:
        self._started = self._ended = self._waited = 0.0
        self._images = 0
        self._fresh = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fresh = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fresh = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = perf_counter()
        if self._fresh:
            self._fresh = False
            self._restart(now)
        else:
            self._waited += now - self._ended

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._images += len(batch["path"])
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            # Lightning is about to read the loss for its loggers, which waits for the device too;
            # waiting here keeps that out of the wait for data.
            if pl_module.device.type != "cpu":
                torch.accelerator.synchronize(pl_module.device)
            seconds = perf_counter() - self._started
            measured = {
                "system/images_per_s": self._images * trainer.world_size / seconds,
                "system/data_wait": self._waited / seconds,
            }
            for logger in trainer.loggers:
                logger.log_metrics(measured, trainer.global_step - 1)  # Lightning counts from 0
            self._restart(perf_counter())
        self._ended = perf_counter()

    def _restart(self, now: float) -> None:
        self._started, self._waited, self._images = now, 0.0, 0
