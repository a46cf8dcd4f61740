"""Training of the same features on sampled pixels (Aksoy et al. 2018), for comparison."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softfeat.data.dataset import Batch
from softfeat.ops.pixels import pyramid_at_pixels
from softfeat.training.soft_features import SoftFeatureModule


class SampledPixelModule(SoftFeatureModule):
    """Extractor with the loss over pairs of sampled pixels. Validation compares superpixels.

    Args:
        sample_pixels: Draws pixels of labels (B,H,W), as `ops.pixels.sample_pixels` does.
        args: Arguments of `SoftFeatureModule`.
        kwargs: Likewise. A CUDA graph cannot draw pixels, so `cuda_graph` has to be false.

    Raises:
        ValueError: `cuda_graph` is true.
    """

    def __init__(
        self, *args: Any, sample_pixels: Callable[..., tuple[Tensor, Tensor]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.cuda_graph:
            raise ValueError("sampled pixels cannot be replayed: set model.cuda_graph=false")
        if not callable(sample_pixels):
            raise ValueError(f"model.sample_pixels={sample_pixels}: choose loss=pixel_npair")
        sample_pixels(torch.zeros(1, 2, 2).long(), generator=torch.Generator())  # checks settings
        self.sample_pixels = sample_pixels

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Computes what a training step minimises.

        Args:
            batch: Images and labels.
            step: Number of the optimiser step. With torch's seed and the rank of the process it
                seeds the sampling, so that a resumed run draws the same pixels.

        Returns:
            As `compare`.
        """
        features, labels = self.pixel_features(batch, step)
        return self.compare(features, labels, batch)

    def pixel_features(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Samples R sets of N pixels per image.

        Args:
            batch: Images and labels.
            step: Number of the optimiser step.

        Returns:
            features: (B*R,N,D).
            labels: (B*R,N).
        """
        seed = np.random.SeedSequence([torch.initial_seed(), step, self.global_rank])
        generator = torch.Generator(batch["label"].device)
        generator.manual_seed(int(seed.generate_state(1)[0]))
        pixels, labels = self.sample_pixels(batch["label"], generator=generator)
        size = (batch["label"].shape[1], batch["label"].shape[2])
        features = pyramid_at_pixels(self.extractor.pyramid(batch["image"]), pixels, size)
        return features.flatten(0, 1), labels.flatten(0, 1)
