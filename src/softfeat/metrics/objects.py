"""How well layers hold labelled objects, and how well segments cover regions.

Legend: H x W pixels, K layers.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


def _sums(alphas: Array, mask: Mask, valid: Mask | None) -> tuple[Array, Array, int]:
    """Sums each alpha over the object and over the other valid pixels.

    Args:
        alphas: (...,H,W) in [0,1].
        mask: (H,W) the object.
        valid: (H,W) pixels that count; None for all.

    Returns:
        inside: (...) sum over the object.
        outside: (...) sum over the other pixels that count.
        area: pixels of the object that count.

    Raises:
        ValueError: The shapes differ, or no pixel of the object counts.
    """
    counts = np.ones_like(mask) if valid is None else valid
    if not alphas.shape[-2:] == mask.shape == counts.shape:
        raise ValueError(f"alphas {alphas.shape}, mask {mask.shape} and valid {counts.shape}")
    own, rest = mask & counts, ~mask & counts
    if not own.any():
        raise ValueError("the object has no pixel that counts")
    inside, outside = (alphas[..., part].sum(-1, dtype=np.float64) for part in (own, rest))
    return inside, outside, int(own.sum())


def soft_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> Array:
    """Intersection over union of alphas and an object: sum min(a, m) / sum max(a, m).

    The mask m is 0 or 1, so the sums are those of alpha within the object, and of the object's area
    and alpha outside of it.

    Args:
        alphas: (...,H,W) in [0,1].
        mask: (H,W) the object.
        valid: (H,W) pixels that count; None for all.

    Returns:
        (...) in [0,1].

    Raises:
        ValueError: The shapes differ, or no pixel of the object counts.

    >>> alpha, mask = np.array([[0.5, 0.5, 0.0]]), np.array([[True, False, False]])
    >>> round(float(soft_iou(alpha, mask)), 3)
    0.333
    """
    inside, outside, area = _sums(alphas, mask, valid)
    return inside / (area + outside)


def best_layer_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> float:
    """Soft IoU of the single layer that fits the object best.

    Args:
        alphas: (K,H,W) in [0,1].
        mask: (H,W) the object.
        valid: (H,W) pixels that count; None for all.

    Raises:
        ValueError: The shapes differ, or no pixel of the object counts.
    """
    return float(soft_iou(alphas, mask, valid).max())


def best_union_iou(alphas: Array, mask: Mask, valid: Mask | None = None) -> float:
    """Soft IoU of the sum of those layers that fit the object best together (an oracle).

    Let i_k and o_k be the sums of alpha_k inside and outside of the object, and A its area. A
    subset S scores sum_S i_k / (A + sum_S o_k). If r is the best score of all subsets, the best
    subset consists of the layers with i_k > r o_k: those that lie within the object with the
    largest shares of themselves. So it is enough to order the layers by these shares and to try
    the K prefixes of that order. The result is exact for any K.

    Args:
        alphas: (K,H,W) in [0,1], adding up to at most 1.
        mask: (H,W) the object.
        valid: (H,W) pixels that count; None for all.

    Raises:
        ValueError: The shapes differ, or no pixel of the object counts.
    """
    inside, outside, area = _sums(alphas, mask, valid)
    total = inside + outside
    shares = np.divide(inside, total, out=np.zeros_like(total), where=total > 0)
    order = shares.argsort()[::-1]
    return float((inside[order].cumsum() / (area + outside[order].cumsum())).max())


def layers_holding(alphas: Array, mask: Mask, valid: Mask | None = None, least: float = 0.1) -> int:
    """Number of layers that hold a share of the object; 1 is best.

    Args:
        alphas: (K,H,W) in [0,1].
        mask: (H,W) the object.
        valid: (H,W) pixels that count; None for all.
        least: Share of the object's area that a layer must hold.

    Raises:
        ValueError: The shapes differ, or no pixel of the object counts.
    """
    inside, _, area = _sums(alphas, mask, valid)
    return int((inside >= least * area).sum())


def segmentation_covering(
    segments: NDArray[np.integer], regions: NDArray[np.integer], ignore: int | None = None
) -> float:
    """Covering of true regions by segments (Arbelaez et al. 2011, Sec. 3.1.3).

    sum_R |R| / N max_S |R and S| / |R or S|

    Args:
        segments: (H,W) ids S.
        regions: (H,W) true ids R.
        ignore: Id of the pixels in `regions` that do not count; None if all count.

    Returns:
        Covering in (0,1]; 1 for the same partition.

    Raises:
        ValueError: The shapes differ, or no pixel counts.

    >>> regions = np.array([[0, 0, 1, 1]])
    >>> segmentation_covering(np.array([[5, 5, 5, 5]]), regions)
    0.5
    """
    if segments.shape != regions.shape:
        raise ValueError(f"segments {segments.shape} and regions {regions.shape} differ in size")
    counts = np.ones(regions.shape, bool) if ignore is None else regions != ignore
    if not counts.any():
        raise ValueError("no pixel of the regions counts")
    of_region, of_segment = (
        np.unique(ids[counts], return_inverse=True)[1] for ids in (regions, segments)
    )  # (n,) without gaps
    columns = of_segment.max() + 1
    codes = of_region * columns + of_segment
    both = np.bincount(codes, minlength=(of_region.max() + 1) * columns).reshape(-1, columns)
    areas = both.sum(1)  # (R,)
    iou = both / (areas[:, None] + both.sum(0) - both)  # (R,S)
    return float((areas * iou.max(1)).sum() / areas.sum())
