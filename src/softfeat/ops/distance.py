"""Euclidean distances within a set of features, accurate for small distances too."""

import torch
from torch import Tensor


@torch.no_grad()
def pairwise_distance(features: Tensor) -> Tensor:
    """Compute the L2 distances between all features of each image, without a gradient.

    Uses ||x - y||^2 = ||x||^2 + ||y||^2 - 2 x.y in float64. In float32 this difference loses half
    of the digits of a small distance.

    Args:
        features: Features (B,S,D).

    Returns:
        Distances (B,S,S), in float32 for half precision and in the input's type otherwise.
        Symmetric up to rounding, and exactly 0 between equal features.

    >>> pairwise_distance(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
    tensor([[[0., 5.],
             [5., 0.]]])
    """
    # Distances do not depend on the origin. Small numbers around the mean cancel less.
    wide = features.double()  # (B,S,D)
    wide = wide - wide.mean(-2, keepdim=True)  # (B,S,D)

    square = wide.square().sum(-1)  # (B,S)
    scale = square[..., :, None] + square[..., None, :]  # (B,S,S)
    squared = torch.baddbmm(scale, wide, wide.mT, alpha=-2)  # (B,S,S)

    # Between equal features only rounding is left. The comparison is false for NaN, which stays.
    squared.masked_fill_(squared <= 1e-14 * scale, 0)
    return squared.sqrt_().to(torch.promote_types(features.dtype, torch.float32))
