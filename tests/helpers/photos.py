"""Photos that are drawn, not read."""

import numpy as np


def drawn_photo(side: int = 32, seed: int = 0) -> np.ndarray:
    """Draws a disc before a smooth background, with some noise.

    Returns:
        (side,side,3) float64, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    inside = (x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.1
    smooth = np.stack([0.2 + 0.4 * x, 0.5 - 0.3 * y, 0.3 + 0.1 * x * y], -1)
    return (np.where(inside[..., None], [0.9, 0.6, 0.2], smooth)
            + 0.02 * rng.standard_normal((side, side, 3))).clip(0, 1)  # fmt: skip
