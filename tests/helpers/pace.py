"""A callback that slows a training down and writes a file, so that a test can interrupt it."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class Pace(pl.Callback):
    """Writes a file after the second step, and waits a little in every step.

    Args:
        file: File to write.
        seconds: Wait in every step.
    """

    def __init__(self, file: str, seconds: float = 0.05) -> None:
        self.file, self.seconds = Path(file), seconds

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.file.touch()
        time.sleep(self.seconds)
