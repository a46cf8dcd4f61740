"""Euclidean distances within a set of features, right for small ones, too."""

import torch
from torch import Tensor


@torch.no_grad()
def pairwise_distance(features: Tensor) -> Tensor:
    """L2 distances between all features of each image; no gradient.

    The Gram trick in float64: in float32 it loses half the digits of a small distance to
    cancellation.

    Args:
        features: (B,S,D); half precision gives float32.

    Returns:
        (B,S,S), exactly symmetric to rounding, exactly 0 between equal features.

    >>> pairwise_distance(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
    tensor([[[0., 5.],
             [5., 0.]]])
    """
    wide = features.double()
    wide = wide - wide.mean(-2, keepdim=True)
    square = wide.square().sum(-1)
    scale = square[..., :, None] + square[..., None, :]
    squared = torch.baddbmm(scale, wide, wide.mT, alpha=-2)
    # What is left of equal features is rounding. (NaN passes through.)
    squared.masked_fill_(squared <= 1e-14 * scale, 0)
    return squared.sqrt_().to(torch.promote_types(features.dtype, torch.float32))
