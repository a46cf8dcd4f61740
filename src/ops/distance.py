"""Euclidean distances within a set of features, with a gradient that can be trusted."""

import torch
from torch import Tensor


class _PairwiseDistance(torch.autograd.Function):
    """The Gram trick in float64.

    In float32 it loses half the digits of a small distance to cancellation, and the gradient,
    divided by that distance, all of them. In float64 both products stay right to 1e-5 down to
    distances of 1e-5 of the features' spread.
    """

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        wide = features.double()
        wide = wide - wide.mean(-2, keepdim=True)
        square = wide.square().sum(-1)
        scale = square[..., :, None] + square[..., None, :]
        squared = torch.baddbmm(scale, wide, wide.mT, alpha=-2)
        # What is left of equal features is rounding: an exact zero there, and on the diagonal.
        # (NaN passes through: a diverged network must not look like a collapsed one.)
        squared.masked_fill_(squared <= scale.mul_(1e-14), 0.0)
        distance = squared.sqrt_().to(features.dtype)
        ctx.save_for_backward(wide, distance)
        ctx.dtype = features.dtype
        return distance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        wide, distance = ctx.saved_tensors
        # d is symmetric in p and q, and 0 has no direction to move in.
        pull = torch.where(distance == 0, 0.0, (gradient + gradient.mT) / distance).double()
        moved = torch.baddbmm(pull.sum(-1, keepdim=True) * wide, pull, wide, alpha=-1)
        return moved.to(ctx.dtype)


def pairwise_distance(features: Tensor) -> Tensor:
    """L2 distances between all features of each image.

    Args:
        features: (B,S,D) in float32 or float64; half precision is taken to float32.

    Returns:
        (B,S,S), exactly symmetric to rounding, exactly 0 between equal features, where its
        gradient is 0 too.

    >>> pairwise_distance(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
    tensor([[[0., 5.],
             [5., 0.]]])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return _PairwiseDistance.apply(features)
