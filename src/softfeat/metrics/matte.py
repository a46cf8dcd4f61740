"""Errors of mattes (Rhemann et al. 2009), and the layers that together come closest to a matte."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude

Array = NDArray[np.floating]

_GRADIENT_SCALE = 1.4  # pixels
_MOST_LAYERS = 12  # for which all 2^K unions can be tried


@dataclass(frozen=True)
class MatteErrors:
    """Errors of a matte. 0 is perfect.

    Attributes:
        sad: Sum of absolute differences, in thousands of pixels.
        mse: Mean squared difference.
        gradient: Sum of squared differences of the gradient magnitudes, in thousands.
        soft: Mean absolute difference where the true matte is neither 0 nor 1. NaN if there is no
            such pixel.
    """

    sad: float
    mse: float
    gradient: float
    soft: float


def matte_errors(alpha: Array, truth: Array) -> MatteErrors:
    """Compare a matte with the true one.

    Args:
        alpha: Matte (H,W) in [0,1].
        truth: True matte (H,W) in [0,1].

    Returns:
        Errors of the matte.

    Raises:
        ValueError: If the sizes differ.
    """
    if alpha.shape != truth.shape:
        raise ValueError(f"the mattes differ in size: {alpha.shape} and {truth.shape}")
    difference = np.abs(alpha.astype(np.float64) - truth)
    slopes = [
        gaussian_gradient_magnitude(matte.astype(np.float64), _GRADIENT_SCALE, mode="nearest")
        for matte in (alpha, truth)
    ]
    soft = (truth > 0) & (truth < 1)
    return MatteErrors(
        sad=float(difference.sum() / 1000),
        mse=float((difference**2).mean()),
        gradient=float(((slopes[0] - slopes[1]) ** 2).sum() / 1000),
        soft=float(difference[soft].mean()) if soft.any() else float("nan"),
    )


def best_union(layers: Array, truth: Array) -> Array:
    """Add up those layers that together come closest to a matte, in absolute differences.

    Args:
        layers: Alphas (K,H,W) in [0,1] that add up to at most 1. K is at most 12, because all 2^K
            unions are tried.
        truth: True matte (H,W) in [0,1].

    Returns:
        Union (H,W) in [0,1].

    Raises:
        ValueError: If there are more than 12 layers.
    """
    if len(layers) > _MOST_LAYERS:
        raise ValueError(
            f"{len(layers)} layers have too many unions to try: give at most {_MOST_LAYERS}"
        )
    flat = layers.reshape(len(layers), -1).astype(np.float32)  # (K,H*W)
    goal = truth.ravel()  # (H*W,)
    unions = (np.array(u, np.float32) @ flat for u in product((0, 1), repeat=len(layers)))
    return min(unions, key=lambda u: float(np.abs(u - goal).sum())).reshape(truth.shape)
