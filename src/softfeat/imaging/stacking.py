"""Layers that stack to their photo, in whole numbers, as documents store them.

Alphas that add up to 1 do not stack, because a document lays each layer over those below. A layer
needs its alpha divided by what the layers above let through. Rounding changes its share a little,
so the colours are adjusted to the rounded alphas.

Legend: H W pixels of the photo, K layers, n pixels where layers blend.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softfeat.imaging.photo import Photo
from softfeat.imaging.raster import Depth
from softfeat.thread_pool import map_in_threads

_ROWS = 32  # rows of the photo at a time, so that temporary arrays stay small


def _strips(height: int) -> Iterator[slice]:
    return (slice(top, top + _ROWS) for top in range(0, height, _ROWS))


def stacking_alphas(photo: Photo, alphas: NDArray[np.float32]) -> NDArray[Depth]:
    """Compute the alphas with which layers laid over each other have their shares.

    Args:
        photo: Photo (H,W).
        alphas: Alphas (K,H,W) in [0,1] that add up to 1, the lowest layer first.

    Returns:
        Alphas (K,H,W) with the bits of the photo. The alpha of the whole stack is the photo's own.
    """
    kind = photo.pixels.dtype
    most = float(np.iinfo(kind).max)
    stack = np.zeros(alphas.shape, kind)

    def fill(rows: slice) -> None:
        own = np.full(alphas[0, rows].shape, most) if photo.alpha is None else photo.alpha[rows]
        share = alphas[:, rows] * (own / most).astype(np.float32)  # (K,h,W)
        # Shares below half a level vanish. The others take their part, so that the sum stays.
        share *= share >= np.minimum(0.5 / most, share.max(0))
        total = share.sum(0)  # (h,W)
        share *= np.divide(own / most, total, out=np.zeros_like(total), where=total > 0)
        below = np.cumsum(share, 0)  # (K,h,W), a layer and those below it
        let_through = np.ones(total.shape)  # by the rounded layers above
        for k in reversed(range(len(alphas))):
            rest = 1 - own / most + (below[k - 1] if k else 0)  # what this layer must let through
            opaque = np.divide(rest, let_through, out=np.ones_like(rest), where=let_through > 0)
            opaque = np.where(share[k] > 0, (1 - opaque).clip(0, 1), 0)
            stack[k, rows] = np.rint(opaque * most)
            let_through *= 1 - stack[k, rows] / most

    map_in_threads(fill, _strips(alphas.shape[1]))
    return stack


def shares(stack: NDArray[Depth]) -> NDArray[np.float32]:
    """Compute the share of each layer in what a stack shows.

    Args:
        stack: Alphas (K,...) of layers laid over each other, the lowest first.

    Returns:
        Shares (K,...) in [0,1]. Their sum is the alpha of the stack.
    """
    opaque = stack.astype(np.float32)
    opaque /= np.iinfo(stack.dtype).max  # (K,...)
    through = np.cumprod(1 - opaque[::-1], 0)[::-1]  # (K,...), through a layer and those above it
    opaque[:-1] *= through[1:]
    return opaque


def fit_colours(photo: Photo, colours: NDArray[Depth], stack: NDArray[Depth]) -> None:
    """Change colours as little as possible, so that the stack shows the photo.

    The mixture of the rounded colours differs from the photo by half a level or less.

    Args:
        photo: Photo (H,W).
        colours: Colours (K,H,W,3) of the layers. They are changed in place.
        stack: Result of `stacking_alphas`.
    """

    def fit(rows: slice) -> None:
        share = shares(stack[:, rows])  # (K,h,W)
        visible = share > 0
        count = visible.sum(0)  # (h,W)
        strip = colours[:, rows]
        np.copyto(strip, photo.pixels[rows], where=(visible & (count == 1))[..., None])
        row, column = np.nonzero(count > 1)  # (n,) each
        part = share[:, row, column]  # (K,n)
        part /= part.sum(0)
        target = photo.pixels[rows][row, column].astype(np.float32)  # (n,3)
        blends = strip[:, row, column].astype(np.float32)  # (K,n,3)
        wrong = np.abs(_mixture(part, blends) - target).max(1) > 0.5  # (n,)
        strip[:, row[wrong], column[wrong]] = _fitted(
            target[wrong],
            blends[:, wrong],
            part[:, wrong],
            float(np.iinfo(colours.dtype).max),
        )

    map_in_threads(fit, _strips(stack.shape[1]))


def _fitted(
    target: NDArray[np.float32],
    colours: NDArray[np.float32],
    share: NDArray[np.float32],
    most: float,
) -> NDArray[np.float32]:
    """Whole colours (K,n,3) in 0..most whose mixture by shares (K,n) is the target (n,3)."""
    norm = (share**2).sum(0)[:, None]  # (n,1)
    lack = target - _mixture(share, colours)  # (n,3)
    colours += share[..., None] * (lack / norm)  # the smallest change
    colours.clip(0, most, out=colours)
    lack = target - _mixture(share, colours)
    limited = np.abs(lack).max(1) > 1e-3 * most / 255  # (n,)
    if limited.any():
        colours[:, limited] = _pushed(target[limited], colours[:, limited], share[:, limited], most)
    # Rounding. The layer with the largest share makes up for the others.
    rounded = np.rint(colours)
    places = share.argmax(0), np.arange(share.shape[1])
    largest, exact = share[places][:, None], colours[places]  # (n,1), (n,3)
    excess = _mixture(share, rounded - colours) - largest * (rounded[places] - exact)
    rounded[places] = np.rint(exact - excess / largest).clip(0, most)
    return rounded


def _mixture(share: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mixture (n,3) of colours (K,n,3) by shares (K,n)."""
    return np.einsum("kn,knc->nc", share, colours)


def _pushed(
    target: NDArray[np.float32],
    colours: NDArray[np.float32],
    share: NDArray[np.float32],
    most: float,
) -> NDArray[np.float32]:
    """Colours (K,n,3) like those of `_fitted`, where some reach a limit."""
    for _ in range(2):  # the smallest change of the layers that can move
        lack = target - _mixture(share, colours)  # (n,3)
        free = share[..., None] * np.where(lack > 0, colours < most, colours > 0)  # (K,n,3)
        norm = (free**2).sum(0)
        colours += free * np.divide(lack, norm, out=np.zeros_like(lack), where=norm > 0)
        colours.clip(0, most, out=colours)
    # What still lacks goes to all visible layers in proportion to their distance from the limit.
    mixture = _mixture(share, colours)
    lack = target - mixture
    room = np.where(lack > 0, most - mixture, mixture)
    part = np.divide(np.abs(lack), room, out=np.zeros_like(lack), where=room > 0).clip(0, 1)
    colours += (share > 0)[..., None] * part * np.where(lack > 0, most - colours, -colours)
    return colours
