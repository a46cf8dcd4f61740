"""Errors of mattes, and how well layers can be joined to a true matte (Rhemann et al. 2009)."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude

Array = NDArray[np.floating]

_GRADIENT_SCALE = 1.4  # pixels
_MOST_LAYERS = 12  # whose unions are all tried


@dataclass(frozen=True)
class MatteErrors:
    """Errors of a matte; 0 is perfect.

    Attributes:
        sad: sum of absolute differences, in thousands of pixels.
        mse: mean squared difference.
        gradient: sum of squared differences of the gradients' lengths, in thousands.
        soft: mean absolute difference where the true matte is neither 0 nor 1; NaN if nowhere.
    """

    sad: float
    mse: float
    gradient: float
    soft: float


def matte_errors(alpha: Array, truth: Array) -> MatteErrors:
    """Compares a matte with the true one.

    Args:
        alpha: (H,W) in [0,1].
        truth: (H,W) in [0,1].

    Raises:
        ValueError: of different sizes.
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
    """The sum of those layers that comes closest to a matte, by the sum of absolute differences.

    Args:
        layers: (K,H,W) in [0,1], adding up to at most 1; K <= 12, for all 2^K unions are tried.
        truth: (H,W) in [0,1].

    Returns:
        (H,W).

    Raises:
        ValueError: too many layers.
    """
    if len(layers) > _MOST_LAYERS:
        raise ValueError(
            f"{len(layers)} layers have too many unions to try: {_MOST_LAYERS} at most"
        )
    flat, goal = layers.reshape(len(layers), -1).astype(np.float32), truth.ravel()
    unions = (np.array(u, np.float32) @ flat for u in product((0, 1), repeat=len(layers)))
    return min(unions, key=lambda u: float(np.abs(u - goal).sum())).reshape(truth.shape)
