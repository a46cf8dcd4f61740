"""Confidence intervals of shares and of slopes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import theilslopes

_Z = 1.959964  # of a two-sided interval of 95 %


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Computes the 95 % interval of Wilson for a share.

    >>> [round(bound, 3) for bound in wilson(85, 100)]
    [0.767, 0.907]

    Args:
        successes: Number of successes.
        count: Number of trials, 1 or more.

    Returns:
        Lower and upper bound in [0,1].
    """
    share = successes / count
    centre = share + _Z**2 / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(frozen=True)
class Slope:
    """The slope of Theil and Sen, with its 95 % interval.

    Attributes:
        value: Median of the slopes between all pairs of points.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float
    high: float


def slope(places: Sequence[float], values: Sequence[float]) -> Slope:
    """Computes how fast values grow, robust against single outliers.

    >>> slope([0, 1, 2, 3], [5, 7, 9, 11]).value
    2.0

    Args:
        places: Places of the measurements, such as numbers of steps.
        values: Measurements.
    """
    value, _, low, high = theilslopes(values, places)
    return Slope(float(value), float(low), float(high))
