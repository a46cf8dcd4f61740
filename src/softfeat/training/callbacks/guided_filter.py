"""Smooths the extractor's feature maps along the photo's edges wherever they are looked at."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from softfeat.ops.guided_filter import guided_filter


class GuidedFilter(pl.Callback):
    """During validation, test and predict, `extractor(image)` gives the filtered map F.

    Training, and scores taken from the pyramid (superpixel means, class scores), are left alone:
    the filter belongs to the full-resolution map. Called with a map and its photo, it filters them
    at any time, as the pictures do.

    Args:
        kernel_size: window in pixels.
        eps: of the guide's variance.
        subsample: solve at 1/subsample of the resolution.
        chunk: channels filtered at a time.
    """

    def __init__(
        self, kernel_size: int = 11, eps: float = 0.01, subsample: int = 1, chunk: int = 16
    ) -> None:
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

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor], features: Tensor) -> Tensor:
            return self(features, inputs[0])

        extractor: Any = pl_module.extractor
        self._handle = extractor.register_forward_hook(hook)

    def _detach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    on_validation_start = on_test_start = on_predict_start = _attach
    on_validation_end = on_test_end = on_predict_end = _detach

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._detach(trainer, pl_module)
