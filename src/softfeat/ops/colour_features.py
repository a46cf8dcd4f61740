"""Colours and positions of superpixels, which are features without training."""

import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from softfeat.ops.superpixels import superpixel_mean


def colour_features(
    image: Tensor, superpixels: Tensor, num_superpixels: int, position_weight: float = 0.0
) -> Tensor:
    """Compute the mean Lab colour of each superpixel and, if asked for, its mean position.

    Args:
        image: Photos (B,3,H,W) RGB in [0,1].
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.
        position_weight: Distance in Lab units (L in 0..100) that the whole height or width of the
            photo stands for. 0 leaves out the position.

    Returns:
        Features (B,S,3), or (B,S,5) with the position.
    """
    features = rgb_to_lab(image.float())  # (B,3,H,W)
    if position_weight:
        height, width = image.shape[-2:]
        rows = torch.linspace(0, position_weight, height, device=image.device)
        cols = torch.linspace(0, position_weight, width, device=image.device)
        position = torch.stack(torch.meshgrid(rows, cols, indexing="ij"))  # (2,H,W)
        features = torch.cat([features, position.expand(len(image), -1, -1, -1)], 1)
    return superpixel_mean(features, superpixels, num_superpixels)[0]
