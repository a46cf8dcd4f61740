"""The course of a training: a bar on a terminal, lines elsewhere."""

from time import perf_counter

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich import get_console

from softfeat.checks import whole


class Progress(RichProgressBar):
    """Lightning's bar on a terminal or in a notebook; otherwise a line for every validation.

    The line has the step, the score that decides the best checkpoint, the losses, and the seconds
    since the start of the training.

    Args:
        refresh_rate: Number of batches between two updates of the bar; 0 for no bar.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        whole("callbacks.progress.refresh_rate", refresh_rate, 0)
        console = get_console()
        self._lines = not (console.is_terminal or console.is_jupyter)
        super().__init__(refresh_rate=0 if self._lines else refresh_rate)
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started = perf_counter()
        self._line(trainer, "training starts")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        keeper = trainer.checkpoint_callback
        names = (getattr(keeper, "monitor", None), "val/loss", "train/loss")
        values = [
            f"{name} {trainer.callback_metrics[name]:.4g}"
            for name in names
            if name in trainer.callback_metrics
        ]
        self._line(trainer, ", ".join([*values, f"{perf_counter() - self._started:.0f} s"]))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._line(trainer, "test starts")

    def _line(self, trainer: pl.Trainer, text: str) -> None:
        if self._lines and trainer.is_global_zero:
            total = int(trainer.num_training_batches * (trainer.max_epochs or 0))
            steps = f"{trainer.global_step}/{total}" if total else f"{trainer.global_step}"
            print(f"step {steps}: {text}", flush=True)
