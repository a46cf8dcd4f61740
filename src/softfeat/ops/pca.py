"""Projections of feature maps to three dimensions, for display."""

import torch
from torch import Tensor


def principal_axes(features: Tensor, dim: int = 3) -> Tensor:
    """Find the directions in which the features of each image vary most.

    The sign of a direction is arbitrary. It is chosen so that the entry of largest magnitude is
    positive, so that the same features always give the same picture.

    Args:
        features: Features (B,D,H,W).
        dim: Number of directions, at most D.

    Returns:
        Orthonormal directions (B,D,dim), in order of decreasing variance.
    """
    flat = features.flatten(2).float()  # (B,D,H*W)
    flat = flat - flat.mean(2, keepdim=True)
    _, axes = torch.linalg.eigh(flat @ flat.mT)  # (B,D,D), by increasing variance
    axes = axes.flip(-1)[..., :dim]  # (B,D,dim)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))  # (B,1,dim)
    return axes * torch.where(largest < 0, -1.0, 1.0)


def pca(features: Tensor, dim: int = 3) -> Tensor:
    """Project the features of each image on their first principal components.

    Args:
        features: Features (B,D,H,W).
        dim: Number of components, at most D.

    Returns:
        Components (B,dim,H,W) with mean 0 per image, in order of decreasing variance.
    """
    axes = principal_axes(features, dim)  # (B,D,dim)
    flat = features.flatten(2).float()  # (B,D,H*W)
    flat = flat - flat.mean(2, keepdim=True)
    return (axes.mT @ flat).unflatten(2, features.shape[2:])  # (B,dim,H,W)


def random_projection(features: Tensor, dim: int = 3, seed: int = 0) -> Tensor:
    """Project features on random orthonormal directions, the same for all images.

    Args:
        features: Features (B,D,H,W).
        dim: Number of directions, at most D.
        seed: Random seed of the directions.

    Returns:
        Projected features (B,dim,H,W).
    """
    # Drawn on the CPU, so that the directions do not depend on the device
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features.shape[1], dim, generator=generator)  # (D,dim)
    axes = torch.linalg.qr(directions).Q.to(features.device)  # (D,dim)
    return torch.einsum("bdhw,dk->bkhw", features.float(), axes)


def normalise(maps: Tensor) -> Tensor:
    """Scale each channel of each image to [0,1]. A constant channel becomes 0.

    Args:
        maps: Maps (B,C,H,W) of any range.

    Returns:
        Maps (B,C,H,W) in [0,1].
    """
    low = maps.amin((2, 3), keepdim=True)  # (B,C,1,1)
    high = maps.amax((2, 3), keepdim=True)  # (B,C,1,1)
    return (maps - low) / torch.where(high > low, high - low, 1.0)
