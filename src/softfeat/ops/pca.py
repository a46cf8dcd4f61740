"""Projections of feature maps to three dimensions, for looking at them."""

import torch
from torch import Tensor


def principal_axes(features: Tensor, dim: int = 3) -> Tensor:
    """The directions in which each image's features spread most.

    The sign of a direction, which is arbitrary, is chosen so that its entry of largest magnitude is
    positive: the same features always give the same picture.

    Args:
        features: (B,D,H,W).
        dim: directions to keep, at most D.

    Returns:
        (B,D,dim), orthonormal, by falling variance.
    """
    flat = features.flatten(2).float()
    flat = flat - flat.mean(2, keepdim=True)
    _, axes = torch.linalg.eigh(flat @ flat.mT)
    axes = axes.flip(-1)[..., :dim]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0)


def pca(features: Tensor, dim: int = 3) -> Tensor:
    """Projects each image's features on their first principal components.

    Args:
        features: (B,D,H,W).
        dim: components to keep, at most D.

    Returns:
        (B,dim,H,W), mean 0 per image, components by falling variance.
    """
    axes = principal_axes(features, dim)
    flat = features.flatten(2).float()
    flat = flat - flat.mean(2, keepdim=True)
    return (axes.mT @ flat).unflatten(2, features.shape[2:])


def random_projection(features: Tensor, dim: int = 3, seed: int = 0) -> Tensor:
    """Projects features on random orthonormal directions, the same for all images.

    Args:
        features: (B,D,H,W).
        dim: directions, at most D.
        seed: of the directions.

    Returns:
        (B,dim,H,W).
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features.shape[1], dim, generator=generator)
    axes = torch.linalg.qr(directions).Q.to(features.device)
    return torch.einsum("bdhw,dk->bkhw", features.float(), axes)


def normalise(maps: Tensor) -> Tensor:
    """Brings each channel of each image to [0,1]; a constant channel becomes 0.

    Args:
        maps: (B,C,H,W).

    Returns:
        (B,C,H,W).
    """
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)
