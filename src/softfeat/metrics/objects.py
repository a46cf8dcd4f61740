"""Scores of how well layers match labelled objects, and how well segments cover regions.

Legend: H W pixels, K layers, n valid pixels, R true regions, S segments.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


def _sums(alphas: Array, mask: Mask, valid: Mask | None) -> tuple[Array, Array, int]:
    """Sum each alpha over the object and over the other valid pixels.

    Args:
        alphas: Alphas (...,H,W) in [0,1].
        mask: Pixels (H,W) of the object.
        valid: Pixels (H,W) that are counted. None counts all pixels.

    Returns:
        inside: Sums (...) over the object.
        outside: Sums (...) over the other valid pixels.
        area: Number of valid pixels of the object.

    Raises:
        ValueError: If the shapes differ, or if no pixel of the object is valid.
    """
    counts = np.ones_like(mask) if valid is None else valid
    if not alphas.shape[-2:] == mask.shape == counts.shape:
        raise ValueError(
            f"alphas {alphas.shape}, mask {mask.shape} and valid {counts.shape} differ in size"
        )
    own = mask & counts  # (H,W)
    rest = ~mask & counts  # (H,W)
    if not own.any():
        raise ValueError("the object has no valid pixel")
    inside = alphas[..., own].sum(-1, dtype=np.float64)
    outside = alphas[..., rest].sum(-1, dtype=np.float64)
    return inside, outside, int(own.sum())


def soft_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> Array:
    """Compute the soft intersection over union of alphas and an object.

    It is sum min(a, m) / sum max(a, m). The mask m is 0 or 1, so the numerator is the sum of alpha
    inside the object, and the denominator is the object's area plus the sum of alpha outside it.

    Args:
        alphas: Alphas (...,H,W) in [0,1].
        mask: Pixels (H,W) of the object.
        valid: Pixels (H,W) that are counted. None counts all pixels.

    Returns:
        Scores (...) in [0,1].

    Raises:
        ValueError: If the shapes differ, or if no pixel of the object is valid.

    >>> alpha, mask = np.array([[0.5, 0.5, 0.0]]), np.array([[True, False, False]])
    >>> round(float(soft_iou(alpha, mask)), 3)
    0.333
    """
    inside, outside, area = _sums(alphas, mask, valid)
    return inside / (area + outside)


def best_layer_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> float:
    """Compute the soft IoU of the single layer that matches the object best.

    Args:
        alphas: Alphas (K,H,W) in [0,1].
        mask: Pixels (H,W) of the object.
        valid: Pixels (H,W) that are counted. None counts all pixels.

    Returns:
        Score in [0,1].

    Raises:
        ValueError: If the shapes differ, or if no pixel of the object is valid.
    """
    return float(soft_iou(alphas, mask, valid).max())


def best_union_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> float:
    """Compute the soft IoU of the sum of those layers that together match the object best.

    This is an oracle: it uses the true object to choose the layers.

    Let i_k and o_k be the sums of alpha_k inside and outside the object, and A its area. A subset S
    of the layers scores sum_S i_k / (A + sum_S o_k). If r is the best score of all subsets, then
    the best subset has the layers with i_k > r o_k. These are the layers with the largest share of
    their own area inside the object. So it is enough to sort the layers by this share and to try
    the K prefixes of that order. The result is exact for any K.

    Args:
        alphas: Alphas (K,H,W) in [0,1] that add up to at most 1.
        mask: Pixels (H,W) of the object.
        valid: Pixels (H,W) that are counted. None counts all pixels.

    Returns:
        Score in [0,1].

    Raises:
        ValueError: If the shapes differ, or if no pixel of the object is valid.
    """
    inside, outside, area = _sums(alphas, mask, valid)
    total = inside + outside  # (K,)
    shares = np.divide(inside, total, out=np.zeros_like(total), where=total > 0)
    order = shares.argsort()[::-1]
    return float((inside[order].cumsum() / (area + outside[order].cumsum())).max())


def layers_holding(alphas: Array, mask: Mask, valid: Mask | None = None, least: float = 0.1) -> int:
    """Count the layers that cover a notable share of the object. 1 is best.

    Args:
        alphas: Alphas (K,H,W) in [0,1].
        mask: Pixels (H,W) of the object.
        valid: Pixels (H,W) that are counted. None counts all pixels.
        least: Share of the object's area that a layer must cover to be counted.

    Returns:
        Number of layers, 0..K.

    Raises:
        ValueError: If the shapes differ, or if no pixel of the object is valid.
    """
    inside, _, area = _sums(alphas, mask, valid)
    return int((inside >= least * area).sum())


def segmentation_covering(
    segments: NDArray[np.integer], regions: NDArray[np.integer], ignore: int | None = None
) -> float:
    """Compute the covering of true regions by segments (Arbelaez et al. 2011, Sec. 3.1.3).

    It is sum_R |R| / N max_S |R and S| / |R or S|: the best IoU of each region R with a segment S,
    weighted by the area of the region.

    Args:
        segments: Segment ids (H,W).
        regions: True region ids (H,W).
        ignore: Id in `regions` of pixels that are not counted. None counts all pixels.

    Returns:
        Covering in (0,1]. 1 if both partitions are the same.

    Raises:
        ValueError: If the shapes differ, or if no pixel is counted.

    >>> regions = np.array([[0, 0, 1, 1]])
    >>> segmentation_covering(np.array([[5, 5, 5, 5]]), regions)
    0.5
    """
    if segments.shape != regions.shape:
        raise ValueError(f"segments {segments.shape} and regions {regions.shape} differ in size")
    counts = np.ones(regions.shape, bool) if ignore is None else regions != ignore
    if not counts.any():
        raise ValueError("the regions have no pixel that is counted: all of them are ignored")
    # Number regions and segments without gaps.
    region = np.unique(regions[counts], return_inverse=True)[1]  # (n,)
    segment = np.unique(segments[counts], return_inverse=True)[1]  # (n,)
    # Count the pixels of each pair of a region and a segment.
    columns = segment.max() + 1
    codes = region * columns + segment  # (n,)
    num_codes = (region.max() + 1) * columns
    both = np.bincount(codes, minlength=num_codes).reshape(-1, columns)  # (R,S)
    areas = both.sum(1)  # (R,)
    iou = both / (areas[:, None] + both.sum(0) - both)  # (R,S)
    return float((areas * iou.max(1)).sum() / areas.sum())
