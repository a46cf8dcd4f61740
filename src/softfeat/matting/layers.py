"""From superpixels to layers: segments, alphas, and selection of layers.

Legend: H W pixels of the photo, h w pixels of the working size, N = h*w, S superpixels, D feature
channels, K layers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor
from torch.nn import functional as F

from softfeat.ops.guided_filter import guided_slopes

Array = NDArray[np.float64]

# Chosen on photos that trainings hold back.
_LEAST_HEIGHT = 0.25  # of a merge that joins two things, divided by the root of S
_LEAST_SHARE = 0.12  # of its height in the largest height
_MOST_SUGGESTED = 8  # segments


class SegmentTree:
    """A hierarchy of similar superpixels (Ward's method), cut into any number of segments.

    The segments of a cut are unions of the segments of any finer cut. So asking for more layers
    splits some layers and leaves the others as they are. There is no randomness.

    Args:
        features: Mean features (S,D) of the superpixels.
    """

    def __init__(self, features: Array) -> None:
        self.features = features
        self.merges = linkage(features, "ward") if len(features) > 1 else np.zeros((0, 4))

    def cut(self, count: int) -> NDArray[np.int64]:
        """Group the superpixels into segments.

        Args:
            count: Number of segments. There are fewer if too many superpixels are equal.

        Returns:
            Segment ids (S,), from 0 without gaps.
        """
        if not len(self.merges):
            return np.zeros(len(self.features), np.int64)
        # Merges at height 0 join equal superpixels, which no cut separates.
        heights = self.merges[:, 2]  # (S-1,), in increasing order
        distinct = 1 + int((heights > 1e-9 * max(1.0, heights[-1])).sum())
        ids = fcluster(self.merges, min(count, distinct), "maxclust")
        return np.unique(ids, return_inverse=True)[1]

    def best_count(self) -> int:
        """Choose the number of segments by the heights of the merges.

        Ward's height of a merge is sqrt(2 a b / (a + b)) d, where d is the distance between the
        means of two segments of a and b superpixels. Divided by sqrt(S), it depends on the shares
        of the photo and not on the number of superpixels. A merge joins two things if its height
        is at least 0.25 sqrt(S), in the unit of the features, and 0.12 times the largest height.
        Without the first bound, a plain photo would fall into as many pieces as any other.

        Returns:
            Number of segments in 2..8: 1 more than the number of merges that join two things. 1 if
            all superpixels are equal.
        """
        heights = self.merges[::-1, 2]  # (S-1,), in decreasing order
        if not len(heights) or heights[0] <= 0:
            return 1
        least = max(_LEAST_SHARE * heights[0], _LEAST_HEIGHT * len(self.features) ** 0.5)
        return int(np.clip(1 + (heights >= least).sum(), 2, _MOST_SUGGESTED))


def normalise_alphas(alphas: Tensor) -> Tensor:
    """Clip alphas to [0,1] and divide them by their sum over the layers.

    Args:
        alphas: Alphas (N,K).

    Returns:
        Alphas (N,K) whose rows add up to 1. A row without positive values becomes 1/K.
    """
    clipped = alphas.clamp(0, 1)
    total = clipped.sum(1, keepdim=True)  # (N,1)
    even = torch.full_like(clipped, 1 / clipped.shape[1])  # (N,K)
    return torch.where(total > 0, clipped / total.where(total > 0, torch.ones_like(total)), even)


def upsample_alphas(
    alphas: Tensor, image: Tensor, kernel_size: int = 5, eps: float = 1e-2
) -> Tensor:
    """Upsample alphas to the size of a larger photo, along its edges.

    The result is the bilinear upsampling of the alphas, plus the detail of the photo times the
    slopes of the guided filter. The detail is the photo minus its own upsampled small version. So
    nothing is added where the photo has no detail.

    Args:
        alphas: Alphas (K,h,w) in [0,1] that add up to 1.
        image: Photo (3,H,W) in [0,1], or uint8 0..255.
        kernel_size: Side of the guided filter's window, in pixels of the alphas.
        eps: Regularisation, see `guided_filter`.

    Returns:
        Alphas (K,H,W) in [0,1] that add up to 1.
    """
    if alphas.shape[1:] == image.shape[1:]:
        return alphas

    def enlarged(maps: Tensor) -> Tensor:
        size = tuple(image.shape[1:])
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    def as_float(channel: Tensor) -> Tensor:
        return channel / 255 if channel.dtype == torch.uint8 else channel

    # One channel and one layer at a time, because maps of a large photo are large.
    size = tuple(alphas.shape[1:])
    coarse = torch.cat(
        [F.interpolate(as_float(c)[None, None], size, mode="area")[0] for c in image]
    )
    slopes = guided_slopes(alphas[None], coarse[None], kernel_size, eps)[0]  # (K,3,h,w)

    large = torch.empty(len(alphas), *image.shape[1:])  # (K,H,W)
    for alpha, out in zip(alphas, large, strict=True):
        out.copy_(enlarged(alpha[None])[0])
    for channel, small, directions in zip(image, coarse, slopes.transpose(0, 1), strict=True):
        detail = enlarged(small[None])[0].neg_().add_(as_float(channel))  # (H,W)
        for direction, out in zip(directions, large, strict=True):
            out.addcmul_(enlarged(direction[None])[0], detail)
    large.clamp_(0, 1)
    return large.div_(large.sum(0).clamp_(min=1e-6))


def select(
    alphas: NDArray[np.float32],
    point: Sequence[int] | Sequence[Sequence[int]] | None = None,
    box: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Add up the layers at a point, or the layers inside a box, to one matte.

    A point selects the layers with an alpha of at least 0.2 there, and the layer with the largest
    alpha. A box selects the layers that have more than half of their area inside it. If there are
    none, it selects the layer that covers most of the box.

    Args:
        alphas: Alphas (K,H,W) in [0,1].
        point: Position x, y in pixels, or several such positions, each of which adds its layers.
        box: Position left, top, right, bottom in pixels. The last two are exclusive.

    Returns:
        Matte (H,W) in [0,1].

    Raises:
        ValueError: If neither or both of `point` and `box` are given, or if they are outside the
            photo.
    """
    height, width = alphas.shape[1:]
    if (point is None) == (box is None):
        raise ValueError("select with either point=[x,y] or box=[left,top,right,bottom]")
    if point is not None:
        selected = np.zeros(len(alphas), bool)  # (K,)
        for x, y in np.atleast_2d(point).astype(int).tolist():
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(
                    f"point {x}, {y} is outside the photo of {width}x{height} pixels: "
                    f"choose x in 0..{width - 1} and y in 0..{height - 1}"
                )
            selected |= alphas[:, y, x] >= 0.2
            selected[alphas[:, y, x].argmax()] = True
    elif box is not None:
        left, top, right, bottom = (int(v) for v in box)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {left}, {top}, {right}, {bottom} is empty or not inside the photo of "
                f"{width}x{height} pixels"
            )
        inside = alphas[:, top:bottom, left:right].sum((1, 2))  # (K,)
        selected = inside > 0.5 * alphas.sum((1, 2))  # (K,)
        if not selected.any():
            selected[inside.argmax()] = True
    return alphas[selected].sum(0).clip(0, 1)
