"""What a head reads of photos, from an extractor that is not trained."""

import hashlib
import json

import torch
from torch import Tensor

from softfeat.models.extractor import Extractor
from softfeat.models.heads import head_inputs


class FrozenFeatures:
    """The inputs of a head, computed in eval mode and without gradients (see `head_inputs`).

    Args:
        extractor: The network; shared, not copied.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    @property
    def identity(self) -> str:
        """Hash of the network's hyperparameters and weights."""
        digest = hashlib.sha256(json.dumps(self.extractor.hparams, sort_keys=True).encode())
        for name, value in self.extractor.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> "FrozenFeatures":
        """Moves the network to a device."""
        self.extractor.to(device)
        return self

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Computes maps (B,C,h,w) from photos (B,3,H,W) in [0,1]."""
        self.extractor.eval()
        with torch.no_grad():
            return head_inputs(*self.extractor.pyramid_and_low(image))
