"""Smooths the extractor's feature maps along the edges of the photo."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from softfeat.ops.guided_filter import check_filter, guided_filter


class GuidedFilter(pl.Callback):
    """Filters the feature map F wherever it is computed in validation, test and prediction.

    In these stages `extractor(image)` returns the filtered map: in the pictures of validation and
    test, and in `predict_step` of soft features. `extractor.forward(image)` returns the map without
    the filter. Training steps and scores read the pyramid, not the map, and are never filtered.

    Args:
        kernel_size: Size of the whole window in pixels.
        eps: Constant added to the variance of the photo, whose values are in [0,1].
        subsample: Solve at 1/subsample of the resolution.
        chunk: Number of channels filtered at a time.
    """

    def __init__(
        self, kernel_size: int = 11, eps: float = 0.01, subsample: int = 1, chunk: int = 16
    ) -> None:
        check_filter(kernel_size, eps, subsample, chunk)
        self.options: dict[str, Any] = {
            "kernel_size": kernel_size,
            "eps": eps,
            "subsample": subsample,
            "chunk": chunk,
        }
        self._handle: Any = None

    def __call__(self, features: Tensor, image: Tensor) -> Tensor:
        """Filters features (B,D,H,W) with photos (B,3,H,W) in [0,1]; see `guided_filter`."""
        return guided_filter(features, image, **self.options)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor], features: Tensor) -> Tensor | None:
            return None if trainer.training else self(features, inputs[0])

        # Attached until `teardown`, so that callbacks can draw at the end of a validation, whatever
        # their order.
        extractor: Any = pl_module.extractor
        self._handle = extractor.register_forward_hook(hook)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._detach()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
