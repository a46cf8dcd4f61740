"""Stops a training on Ctrl-C or SIGTERM so that resuming gives the same result as not stopping."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

from softfeat.interrupt import SIGNALS, Interrupted, handle_signals, say, stop_at_once

_VALIDATION = "epoch_loop.val_loop.batch_progress"


def validation_pending(checkpoint: dict[str, Any]) -> bool:
    """Checks whether a checkpoint was saved before the validation of its step was complete."""
    progress = checkpoint["loops"]["fit_loop"][_VALIDATION]["total"]
    return bool(progress["started"] > progress["processed"])


class StopOnSignal(pl.Callback):
    """Finishes the current step, saves `last.ckpt` and raises `Interrupted`.

    A checkpoint is also saved before every validation. So a signal during a validation stops at
    once, and a validation that is killed loses no step. A second signal ends the process.

    Under ddp, all processes agree after every step whether one of them got a signal. Within a
    validation they do not, and stop after it. Under Slurm, SIGTERM is left to Lightning, which may
    have queued the job again.

    Has to be the last callback: the others have then recorded the step.

    Args:
        path: File of the checkpoint.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._signum: int | None = None
        self._trainer: pl.Trainer | None = None
        self._stopping = False  # all processes agreed
        self._saved = -1  # step of the last checkpoint saved here

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trainer = trainer
        connector: Any = trainer._accelerator_connector
        environment = connector.cluster_environment
        slurm = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        handle_signals(self._handle, *SIGNALS[: 1 if slurm else 2])

    def _handle(self, signum: int, _: FrameType | None) -> None:
        assert self._trainer is not None
        if self._signum is not None:
            _kill_others(self._trainer)
            say("\x1b[?25h" if os.isatty(2) else "")  # the cursor, which a progress bar hides
            os._exit(128 + signum)
        self._signum = signum
        if self._trainer.is_global_zero:
            say("stopping after this step; the same signal again stops at once")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._agree(trainer)
        loop: Any = trainer.fit_loop.epoch_loop
        if self._stopping and not loop._should_accumulate() and not self._validates_next(trainer):
            # Lightning expects a checkpoint within an epoch to be saved here. It still has to log
            # this step, so the end comes with the next batch.
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stopping and self._saved == trainer.global_step:
            self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, before_validation=True)
            if self._stopping:
                self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._signum is not None and trainer.world_size == 1:
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stopping:  # in the last step of an epoch without validation
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        handle_signals(stop_at_once)
        self._agree(trainer)
        if self._stopping:
            self._stop(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException):  # by Lightning's own handler
            between_steps = trainer.training and not trainer.is_last_batch
            if between_steps and self._saved != trainer.global_step:
                self._save(trainer)
        elif not self._stopping:
            _kill_others(trainer)  # they wait for this process

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:  # a resumed run does not log earlier steps again
            logger.save()

    def _agree(self, trainer: pl.Trainer) -> None:
        """Decides in all processes alike whether the training stops."""
        self._stopping = self._signum is not None
        if trainer.world_size > 1:
            self._stopping = trainer.strategy.reduce_boolean_decision(self._stopping, all=False)

    def _validates_next(self, trainer: pl.Trainer) -> bool:
        loop: Any = trainer.fit_loop.epoch_loop
        return trainer.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    def _save(self, trainer: pl.Trainer, before_validation: bool = False) -> None:
        """Saves a checkpoint; not `Trainer.save_checkpoint`, which waits for all processes."""
        connector: Any = trainer._checkpoint_connector
        checkpoint = connector.dump_checkpoint()
        if before_validation:
            # As if the first batch of the validation had started. Lightning would otherwise go on
            # with the next training step.
            progress = checkpoint["loops"]["fit_loop"][_VALIDATION]["total"]
            progress["ready"] += 1
            progress["started"] += 1
        trainer.strategy.save_checkpoint(checkpoint, self.path)
        self._saved = trainer.global_step

    def _stop(self, trainer: pl.Trainer) -> None:
        if self._stopping:  # the others may end only when the checkpoint is written
            trainer.strategy.barrier()
        raise Interrupted(self._signum or SIGNALS[0])  # without a number: another process got it


def _kill_others(trainer: pl.Trainer) -> None:
    """Ends the other processes of ddp that this one has started."""
    launcher: Any = trainer.strategy.launcher
    if hasattr(launcher, "kill"):
        launcher.kill(signal.SIGKILL)
