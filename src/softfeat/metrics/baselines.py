"""Superpixel features that need no training: what a trained network has to beat."""

import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from softfeat.ops.superpixels import superpixel_mean


def colour_features(
    image: Tensor, superpixels: Tensor, num_superpixels: int, position_weight: float = 0.0
) -> Tensor:
    """Mean Lab colour of each superpixel, and its mean position.

    Args:
        image: (B,3,H,W) RGB in [0,1].
        superpixels: (B,H,W) ids.
        num_superpixels: S.
        position_weight: Lab units (L in 0..100) that the whole height or width counts for; 0 leaves
            position out.

    Returns:
        (B,S,3), or (B,S,5) with position.
    """
    features = rgb_to_lab(image.float())
    if position_weight:
        height, width = image.shape[-2:]
        rows = torch.linspace(0, position_weight, height, device=image.device)
        cols = torch.linspace(0, position_weight, width, device=image.device)
        position = torch.stack(torch.meshgrid(rows, cols, indexing="ij"))
        features = torch.cat([features, position.expand(len(image), -1, -1, -1)], 1)
    return superpixel_mean(features, superpixels, num_superpixels)[0]
