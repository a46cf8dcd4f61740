"""A moving average of the weights, which is validated, kept and tested."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's average, but for the test at the end of a training.

    Lightning's own puts the weights in training back whenever a checkpoint is loaded, also for a
    test, which would then be of other weights than those that were validated and kept. Pictures of
    a training show the weights in training.

    Args:
        decay: weight of the average so far in every update, in [0,1): about 1 / (1 - decay) steps
            are in it. The first step's weights are its start, so take one that is short beside the
            training.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.average.decay={decay}: choose 0 or more, below 1")
        super().__init__(decay=decay)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
