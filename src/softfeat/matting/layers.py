"""From superpixels to layers: initial segments, their groups, alphas, colours, choosing layers."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from softfeat.matting.affinity import segment_means
from softfeat.ops.guided_filter import guided_slopes

Array = NDArray[np.float64]


class SegmentTree:
    """A hierarchy of like superpixels (Ward), which any number of segments is cut from.

    Segments of one cut are unions of those of any finer cut: more layers split layers, and leave
    the others as they are. Nothing is drawn at random.

    Args:
        features: (S,D), one row a superpixel.
    """

    def __init__(self, features: Array) -> None:
        self.features = features
        self.merges = linkage(features, "ward") if len(features) > 1 else np.zeros((0, 4))

    def cut(self, count: int) -> NDArray[np.int64]:
        """Segments of the superpixels.

        Args:
            count: of segments; fewer come out where superpixels are equal.

        Returns:
            (S,) ids from 0 without gaps.
        """
        if not len(self.merges):
            return np.zeros(len(self.features), np.int64)
        heights = self.merges[:, 2]
        distinct = 1 + int((heights > 1e-9 * max(1.0, heights[-1])).sum())
        ids = fcluster(self.merges, min(count, distinct), "maxclust")
        return np.unique(ids, return_inverse=True)[1]

    def best_count(self) -> int:
        """The number of segments, 2 to 8, that the hierarchy breaks off at most clearly.

        It is where the next merge is largest in relation to the one before.
        """
        heights = self.merges[::-1, 2]
        counts = np.arange(2, min(8, len(heights) - 1) + 1)
        if not len(counts) or heights[0] <= 0:
            return 1
        # heights[k - 2] is what merging k segments into k - 1 costs
        ratios = heights[counts - 2] / heights[counts - 1].clip(min=1e-12 * heights[0])
        return int(counts[ratios.argmax()])


def initial_segments(
    tree: SegmentTree, features: Array, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segments of all pixels: each goes to the nearest mean of a segment of superpixels.

    Args:
        tree: of the superpixels.
        features: (N,D) of the pixels.
        count: of segments, at most.

    Returns:
        labels: (N,) 0..C-1.
        of_superpixels: (S,) the segment of each superpixel.
    """
    of_superpixels = tree.cut(count)
    means = segment_means(of_superpixels, tree.features)
    return KDTree(means).query(features)[1].astype(np.int64), of_superpixels


def normalise_alphas(alphas: Tensor) -> Tensor:
    """Clips to [0,1] and divides by the sum over the layers.

    Args:
        alphas: (N,K).

    Returns:
        (N,K), rows add up to 1. A row without anything positive is shared evenly.
    """
    clipped = alphas.clamp(0, 1)
    total = clipped.sum(1, keepdim=True)
    even = torch.full_like(clipped, 1 / clipped.shape[1])
    return torch.where(total > 0, clipped / total.where(total > 0, torch.ones_like(total)), even)


def upsample_alphas(
    alphas: Tensor, image: Tensor, kernel_size: int = 5, eps: float = 1e-2
) -> Tensor:
    """Brings alphas to the size of a larger photo, along its edges.

    Enlarged bilinearly, plus what the photo knows beyond its own version of the alphas' size, by
    the slopes of the guided filter. Where the photo holds no detail, nothing is added.

    Args:
        alphas: (K,h,w) in [0,1], adding up to 1.
        image: (3,H,W) in [0,1].
        kernel_size: window of the guided filter, in pixels of the alphas.
        eps: of the photo's variance; see `guided_filter`.

    Returns:
        (K,H,W) in [0,1], adding up to 1.
    """
    if alphas.shape[1:] == image.shape[1:]:
        return alphas

    def enlarged(maps: Tensor) -> Tensor:
        size = tuple(image.shape[1:])
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    coarse = F.interpolate(image[None], size=tuple(alphas.shape[1:]), mode="area")[0]
    slopes = guided_slopes(alphas[None], coarse[None], kernel_size, eps)[0]
    detail = image - enlarged(coarse)
    large = torch.empty(len(alphas), *image.shape[1:])
    for alpha, slope, out in zip(alphas, slopes, large, strict=True):  # photos may be large
        out.copy_(enlarged(alpha[None])[0])
        for direction, channel in zip(slope, detail, strict=True):
            out.addcmul_(enlarged(direction[None])[0], channel)
        out.clamp_(0, 1)
    return large.div_(large.sum(0).clamp_(min=1e-6))


def layer_colours(image: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colours that a layer has by itself, where it blends with others (Germer et al. 2020).

    Args:
        image: (H,W,3) in [0,1].
        alpha: (H,W) of the layer.

    Returns:
        (H,W,3) in [0,1].
    """
    # Compiled on its first import: a matter of those only who need it. Numba's OpenMP layer would
    # reset the number of torch's threads.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    from pymatting import estimate_foreground_ml

    return estimate_foreground_ml(image, alpha)


def select(
    alphas: NDArray[np.float32],
    point: Sequence[int] | Sequence[Sequence[int]] | None = None,
    box: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """One matte of the layers that a point or a box on the photo belongs to.

    A point belongs to the layers that hold a fifth or more of it. A box holds the layers that have
    more of their coverage inside than outside of it, or, where there is none, the layer that covers
    most of the box.

    Args:
        alphas: (K,H,W).
        point: x, y in pixels, or several such points, each of which adds its layers.
        box: left, top, right, bottom in pixels, the last two exclusive.

    Returns:
        (H,W) in [0,1].

    Raises:
        ValueError: neither or both given; outside of the photo.
    """
    height, width = alphas.shape[1:]
    if (point is None) == (box is None):
        raise ValueError("select by one of point=[x,y] and box=[left,top,right,bottom]")
    if point is not None:
        chosen = np.zeros(len(alphas), bool)
        for x, y in np.atleast_2d(point).astype(int).tolist():
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"point {x}, {y} is outside of the photo, {width}x{height}")
            chosen |= alphas[:, y, x] >= 0.2
            chosen[alphas[:, y, x].argmax()] = True
    elif box is not None:
        left, top, right, bottom = (int(v) for v in box)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {left}, {top}, {right}, {bottom} is empty or not inside the photo, "
                f"{width}x{height}"
            )
        inside = alphas[:, top:bottom, left:right].sum((1, 2))
        chosen = inside > 0.5 * alphas.sum((1, 2))
        if not chosen.any():
            chosen[inside.argmax()] = True
    return alphas[chosen].sum(0).clip(0, 1)
