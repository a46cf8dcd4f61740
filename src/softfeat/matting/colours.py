"""The layers' own colours, estimated for all layers of a photo together.

Germer et al. 2020 ("Fast Multi-Level Foreground Estimation") look for a foreground and a background
that vary little and blend to the photo. Here the same is done for K layers. They minimise

    sum_k sum_(p,q) (eps + |a_kp - a_kq|) (F_kp - F_kq)^2   subject to   sum_k a_kp F_kp = t_p

over the neighbouring pixels p and q. So a colour continues smoothly where the alpha of its layer
changes, and all layers together give the photo.

Legend: H W pixels of the photo, h w pixels of a level or a tile, K layers.
"""

from collections.abc import Callable
from types import EllipsisType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from softfeat.imaging.photo import Photo
from softfeat.imaging.raster import Depth
from softfeat.memory import trim_heap

_SMOOTHNESS = 1e-3  # eps
_SMALL = 32  # pixels: levels up to this size cost little and get more rounds
_ROUNDS_OF_SMALL, _ROUNDS = 10, 2
_TILE_ROWS, _TILE_COLUMNS = 128, 512  # pixels: temporary maps of a tile stay small
_INVISIBLE = 1 / 512  # less than half a level of 8 bits

Crop = Callable[[slice, slice], tuple[Tensor, Tensor]]


def relax(colours: Tensor, alphas: Tensor, target: Tensor, rounds: int) -> Tensor:
    """Improve the colours by rounds of Jacobi's method under the constraint.

    The smoothest colour of a pixel is the mean of its neighbours with the weights eps + |difference
    of the alphas|. What then lacks to the target is divided among the layers in the ratio of
    alpha / (sum of these weights), which solves the constrained problem at one pixel.

    Args:
        colours: Colours (K,3,h,w) in [0,1].
        alphas: Alphas (K,h,w) in [0,1].
        target: Sum (3,h,w) over the layers of alpha times colour.
        rounds: Number of rounds.

    Returns:
        Colours (K,3,h,w) in [0,1].
    """
    across = _SMOOTHNESS + (alphas[:, :, 1:] - alphas[:, :, :-1]).abs_()  # (K,h,w-1)
    down = _SMOOTHNESS + (alphas[:, 1:] - alphas[:, :-1]).abs_()  # (K,h-1,w)
    total = torch.zeros_like(alphas)  # (K,h,w), sum of the weights of a pixel
    total[:, :, 1:] += across
    total[:, :, :-1] += across
    total[:, 1:] += down
    total[:, :-1] += down
    total.clamp_(min=_SMOOTHNESS)  # for a level of one pixel, which has no neighbours
    from_left, from_right = across / total[:, :, 1:], across / total[:, :, :-1]  # (K,h,w-1)
    from_above, from_below = down / total[:, 1:], down / total[:, :-1]  # (K,h-1,w)
    share = alphas / total  # (K,h,w)
    # Both this and what lacks are 0 where the photo is transparent.
    share /= (alphas * share).sum(0).clamp_(min=1e-6)
    for _ in range(rounds):
        mean = torch.zeros_like(colours)  # (K,3,h,w)
        mean[..., 1:].addcmul_(from_left[:, None], colours[..., :-1])
        mean[..., :-1].addcmul_(from_right[:, None], colours[..., 1:])
        mean[..., 1:, :].addcmul_(from_above[:, None], colours[..., :-1, :])
        mean[..., :-1, :].addcmul_(from_below[:, None], colours[..., 1:, :])
        lack = target - (alphas[:, None] * mean).sum(0)  # (3,h,w)
        colours = mean.addcmul_(share[:, None], lack).clamp_(0, 1)
    return colours


@torch.inference_mode()
def layer_colours(photo: Photo, alphas: NDArray[np.float32]) -> NDArray[Depth]:
    """Estimate the own colours of all layers of a photo.

    Each level, from one pixel to the size of the photo, starts from the result of the level before.
    Where a layer is invisible, its colours continue those nearby. The colours that the photo has
    under transparent parts have no influence.

    Args:
        photo: Photo (H,W).
        alphas: Alphas (K,H,W) in [0,1] that add up to 1.

    Returns:
        Colours (K,H,W,3) with the bits and in the colour space of the photo. Their sum, weighted by
        the alphas, is close to the photo.
    """
    most = np.iinfo(photo.pixels.dtype).max

    def photo_crop(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The target (3,h,w) and the alphas (K,h,w), both times the photo's own alpha."""
        crop = photo.pixels[rows, columns].transpose(2, 0, 1).astype(np.float32)
        target = torch.from_numpy(crop).div_(most)
        visible = torch.from_numpy(alphas[:, rows, columns])
        if photo.alpha is None:
            return target, visible
        own = torch.from_numpy(photo.alpha[rows, columns].astype(np.float32)).div_(most)
        return target.mul_(own), visible * own

    size = photo.pixels.shape[:2]
    levels = _levels(photo_crop, len(alphas), size)
    target, coverage = levels[-1] if levels else photo_crop(slice(None), slice(None))
    mean = target / coverage.sum(0).clamp(min=1e-6)  # (3,1,1)
    colours = mean.repeat(len(alphas), 1, 1, 1)  # (K,3,1,1)
    # A start for the next level only, which takes much memory: half as exact is enough for 8 bits.
    kind = torch.float16 if most == 255 else torch.float32
    del target, coverage
    trim_heap()  # of the strips
    while levels:
        colours = _finer(*levels.pop(), colours, kind)
    result = np.empty((*alphas.shape, 3), photo.pixels.dtype)

    values = torch.from_numpy(result).permute(0, 3, 1, 2)  # (K,3,H,W)

    def write(place: tuple[EllipsisType, slice, slice], tile: Tensor) -> None:
        values[place] = (tile * most).round_().to(values.dtype)

    _refine(photo_crop, colours, write, size)
    return result


def _levels(crop: Crop, layers: int, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Targets (3,h,w) and alphas (K,h,w), from half the size to one pixel; none for one pixel.

    Args:
        crop: Function that returns target and alphas of a rectangle of the photo.
        layers: Number of layers K.
        size: Height and width of the photo.
    """
    if max(size) == 1:
        return []
    half = [(length + 1) // 2 for length in size]
    levels = [(torch.empty(3, *half), torch.empty(layers, *half))]
    for top in range(0, half[0], _TILE_ROWS):
        rows = slice(top, top + _TILE_ROWS)
        strip = crop(slice(2 * top, 2 * (top + _TILE_ROWS)), slice(None))
        for level, maps in zip(levels[0], strip, strict=True):
            level[:, rows] = _half(maps)
    while max(levels[-1][0].shape[1:]) > 1:
        levels.append((_half(levels[-1][0]), _half(levels[-1][1])))
    return levels


def _finer(target: Tensor, coverage: Tensor, coarse: Tensor, kind: torch.dtype) -> Tensor:
    """Colours (K,3,h,w) of a level with target (3,h,w) and alphas (K,h,w), from those before."""
    colours = torch.empty(len(coverage), *target.shape, dtype=kind)

    def crop(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        return target[:, rows, columns], coverage[:, rows, columns]

    _refine(crop, coarse, colours.__setitem__, (target.shape[1], target.shape[2]))
    return colours


def _half(maps: Tensor) -> Tensor:
    """Means (C,ceil(h/2),ceil(w/2)) of 2x2 pixels of maps (C,h,w)."""
    return F.avg_pool2d(maps[None], 2, ceil_mode=True, count_include_pad=False)[0]


def _twice(maps: Tensor, rows: slice, columns: slice) -> Tensor:
    """A rectangle of maps (K,C,h,w) that are enlarged to (K,C,2h,2w)."""
    top, left = rows.start // 2, columns.start // 2
    part = maps[:, :, top : (rows.stop + 1) // 2, left : (columns.stop + 1) // 2].float()
    count, channels, h, w = part.shape
    large = part[:, :, :, None, :, None].expand(count, channels, h, 2, w, 2)
    large = large.contiguous().view(count, channels, 2 * h, 2 * w)
    inner_rows = slice(rows.start - 2 * top, rows.stop - 2 * top)
    return large[:, :, inner_rows, columns.start - 2 * left : columns.stop - 2 * left]


def _refine(
    crop: Crop,
    coarse: Tensor,
    write: Callable[[tuple[EllipsisType, slice, slice], Tensor], None],
    size: tuple[int, int],
) -> None:
    """Compute the colours of a level, tile by tile.

    Args:
        crop: Function that returns target and alphas of a rectangle of the level.
        coarse: Colours (K,3,ceil(h/2),ceil(w/2)) of the level before.
        write: Function that receives the place and the colours (K,3,...) of each tile.
        size: Height and width of the level.
    """
    height, width = size
    rounds = _ROUNDS_OF_SMALL if max(size) <= _SMALL else _ROUNDS
    for top in range(0, height, _TILE_ROWS):
        for left in range(0, width, _TILE_COLUMNS):
            # A round carries information one pixel far. With such a margin, the tiles do not show.
            rows = slice(max(0, top - rounds), min(height, top + _TILE_ROWS + rounds))
            columns = slice(max(0, left - rounds), min(width, left + _TILE_COLUMNS + rounds))
            target, alphas = crop(rows, columns)
            colours = _twice(coarse, rows, columns)
            seen = alphas.amax((1, 2)) >= _INVISIBLE  # (K,)
            total = alphas.sum(0)  # (h,w)
            if seen.all():
                colours = relax(colours, alphas, target, rounds)
            elif seen.sum() == 1 and total.min() > 0:
                colours[seen] = target / total  # what `relax` finds for a single layer
            elif seen.any():
                visible = alphas[seen]
                # The alphas of the other layers go to these.
                visible *= total / visible.sum(0).clamp(min=1e-6)
                colours[seen] = relax(colours[seen], visible, target, rounds)
            inner = colours[:, :, top - rows.start :, left - columns.start :]
            place = slice(top, top + _TILE_ROWS), slice(left, left + _TILE_COLUMNS)
            write((..., *place), inner[:, :, :_TILE_ROWS, :_TILE_COLUMNS])
