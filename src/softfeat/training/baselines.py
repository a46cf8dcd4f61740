"""Features without training, which the test compares with the trained ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softfeat.data.dataset import Batch
from softfeat.models.extractor import build_extractor
from softfeat.ops.colour_features import colour_features
from softfeat.ops.pyramid import pyramid_superpixel_mean

BASELINES = ("untrained", "lab", "lab_position")
# Lab units that the height or width of the picture is worth in the colour + position baseline:
# the distance from black to white.
POSITION_WEIGHT = 100.0
_SEED = 0


class Baselines:
    """Superpixel features of an untrained network, of Lab colours, and of colours and position.

    Args:
        hparams: Hyperparameters of the extractor, which the untrained network shares.
        num_superpixels: S.
        device: Device of the batches.
    """

    def __init__(
        self, hparams: Mapping[str, Any], num_superpixels: int, device: torch.device
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self.untrained = build_extractor(dict(hparams)).to(device).eval()
        self.num_superpixels = num_superpixels

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Computes the features of a batch.

        Returns:
            Features (B,S,D) by the names in `BASELINES`; each baseline has its own D.
        """
        colour = (batch["image"], batch["superpixels"], self.num_superpixels)
        untrained, _ = pyramid_superpixel_mean(
            self.untrained.pyramid(batch["image"]),
            batch["superpixels"],
            self.num_superpixels,
            batch.get("pooling"),
        )
        return {
            "untrained": untrained,
            "lab": colour_features(*colour),
            "lab_position": colour_features(*colour, position_weight=POSITION_WEIGHT),
        }
