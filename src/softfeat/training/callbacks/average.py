"""A moving average of the weights, which is validated, saved and tested."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging

from softfeat.checks import number


class MovingAverage(EMAWeightAveraging):
    """Like Lightning's callback, except that testing uses the averaged weights.

    Lightning restores the weights in training whenever a checkpoint is loaded, even for a test,
    which would then score other weights than those that were validated and kept. Pictures of a
    training show the weights in training.

    Args:
        decay: Weight of the previous average in every update, in [0,1). The average covers about
            1 / (1 - decay) steps. It starts from the weights of the first step, so choose a decay
            whose number of steps is small compared with the training.

    Raises:
        ValueError: `decay` is out of range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        number("callbacks.average.decay", decay, 0, below=1)
        super().__init__(decay=decay)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
