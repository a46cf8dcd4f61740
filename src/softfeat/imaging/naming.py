"""Names of layers, by place and colour."""

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

from softfeat.imaging.photo import Photo

_LONGEST = 256  # pixels: names need no more
_PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
_COLOURS = {
    "black": [(15, 15, 15), (40, 40, 40)],
    "grey": [(80, 80, 80), (128, 128, 128), (180, 180, 180)],
    "white": [(225, 225, 225), (255, 255, 255)],
    "red": [(180, 30, 35), (110, 20, 25)],
    "orange": [(235, 130, 35)],
    "yellow": [(240, 215, 60)],
    "green": [(60, 120, 50), (150, 185, 110), (40, 65, 35)],
    "turquoise": [(50, 170, 165)],
    "blue": [(40, 80, 170), (120, 165, 215), (30, 45, 85)],
    "purple": [(115, 60, 140)],
    "pink": [(235, 150, 175)],
    "brown": [(120, 75, 45), (160, 115, 80), (70, 45, 30)],
    "beige": [(215, 190, 160)],
}


def layer_names(photo: Photo, alphas: NDArray[np.float32]) -> list[str]:
    """Names layers such as "1 centre, brown".

    Args:
        photo: Photo (H,W).
        alphas: Alphas (K,H,W) in [0,1].

    Returns:
        Number, place of the centre of mass, and mean colour of each layer.
    """
    step = max(1, max(photo.pixels.shape) // _LONGEST)
    small, alphas = photo.srgb[::step, ::step] / 255, alphas[:, ::step, ::step]
    if photo.alpha is not None:  # what is transparent has no place and no colour
        own = photo.alpha[::step, ::step] / np.float32(np.iinfo(photo.alpha.dtype).max)
        alphas = alphas * own.astype(np.float32)
    height, width, _ = small.shape
    names = [name for name, shades in _COLOURS.items() for _ in shades]
    shades = rgb2lab(np.array([s for shades in _COLOURS.values() for s in shades]) / 255)  # (C,3)

    def name(number: int, alpha: NDArray[np.float32]) -> str:
        total = float(alpha.sum())
        if total < 1e-3:
            return f"{number} empty"
        row = int(3 * (alpha.sum(1) @ np.arange(height)) / total / height)
        column = int(3 * (alpha.sum(0) @ np.arange(width)) / total / width)
        colour = rgb2lab((small * alpha[..., None]).sum((0, 1)) / total)  # (3,)
        nearest = int(((shades - colour) ** 2).sum(1).argmin())
        return f"{number} {_PLACES[row][column]}, {names[nearest]}"

    return [name(number, alpha) for number, alpha in enumerate(alphas, 1)]
