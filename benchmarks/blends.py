"""Photos that are blends of known layers."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from softfeat.imaging.photo import Photo

Known = tuple[Photo, NDArray[np.float32], NDArray[np.float64]]


def blend_of_known_layers(
    kind: type, count: int, size: tuple[int, int] = (96, 128), own_alpha: bool = False
) -> Known:
    """Makes a photo, the alphas (K,H,W) and the colours (K,H,W,3) of smooth, textured layers.

    The borders between layers are soft, with structures as thin as hair. Half of the photo has
    alphas of 0 and 1.

    Args:
        kind: np.uint8 or np.uint16.
        count: Number of layers K.
        size: (H, W).
        own_alpha: Whether the photo is transparent towards its corners.
    """
    rng = np.random.default_rng(count)
    height, width = size
    most = np.iinfo(kind).max
    coarse = rng.random((count, 3, 5, 6))
    colours = np.stack([
        [zoom(plane, (height / 5, width / 6), order=1) for plane in planes] for planes in coarse
    ])  # fmt: skip
    colours += 0.03 * gaussian_filter(rng.standard_normal(colours.shape), (0, 0, 1, 1))
    colours = np.rint(colours.clip(0, 1).transpose(0, 2, 3, 1) * most)
    photo, alphas = _blended(colours, kind, rng)
    if not own_alpha:
        return photo, alphas, colours
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    alpha = ((0.5 - distance) * 5 * most).clip(0, most).astype(kind)
    return Photo(photo.pixels, alpha), alphas, colours


def blend_of_photos(photos: NDArray[np.uint8], seed: int = 0) -> Known:
    """Blends photos (K,H,W,3) in the same way, so that each is a layer."""
    colours = photos.astype(np.float64)
    photo, alphas = _blended(colours, np.uint8, np.random.default_rng(seed))
    return photo, alphas, colours


def _blended(
    colours: NDArray[np.float64], kind: type, rng: np.random.Generator
) -> tuple[Photo, NDArray[np.float32]]:
    """Blends layers (K,H,W,3) of whole numbers with random alphas."""
    shape = colours.shape[:3]
    field = gaussian_filter(rng.standard_normal(shape), (0, 10, 10))
    hair = gaussian_filter(rng.standard_normal(shape), (0, 1, 1))
    field = 12 * field / field.std() + 2 * hair / hair.std()
    weights = np.exp(field - field.max(0))
    weights[weights < 0.02] = 0
    alphas = (weights / weights.sum(0)).astype(np.float32)
    return Photo(np.rint((alphas[..., None] * colours).sum(0)).astype(kind)), alphas
