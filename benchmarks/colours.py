"""How well the colours of layers are found, compared with other ways to estimate them."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import data

from benchmarks.blends import Known, blend_of_known_layers, blend_of_photos
from benchmarks.measure import ratio, times_in_turn
from softfeat.imaging.images import resize_image
from softfeat.imaging.photo import Photo
from softfeat.matting.colours import layer_colours

_OURS = "ours"
_SOFT = 0.1  # alphas between this and one minus this are soft

Colours = NDArray[Any]  # whole numbers or floats
Way = Callable[[Photo, NDArray[np.float32]], Colours]


def copied(photo: Photo, alphas: NDArray[np.float32]) -> Colours:
    """Gives every layer the colours of the photo (K,H,W,3)."""
    return np.broadcast_to(photo.pixels, (*alphas.shape, 3))


def pymatting_colours(photo: Photo, alphas: NDArray[np.float32]) -> Colours:
    """Estimates the colours (K,H,W,3) of each layer alone with pymatting (Germer et al. 2020)."""
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    from pymatting import estimate_foreground_ml

    most = float(np.iinfo(photo.pixels.dtype).max)
    image = photo.pixels.astype(np.float32) / most
    return most * np.stack([estimate_foreground_ml(image, alpha) for alpha in alphas])


WAYS: Mapping[str, Way] = {
    "the photo's own": copied,
    "pymatting, layer by layer": pymatting_colours,
    _OURS: layer_colours,
}


def errors(colours: Colours, known: Known, backgrounds: Sequence[Sequence[int]]) -> list[float]:
    """Mean errors in levels of 255 where a layer is soft.

    Args:
        colours: (K,H,W,3) in the numbers of the photo.
        known: Photo, alphas and true colours.
        backgrounds: Colours (R, G, B) of 8 bits.

    Returns:
        The error of the colours themselves, and that of layers over the new backgrounds, against
        the true layers over them.
    """
    photo, alphas, truth = known
    most = np.iinfo(photo.pixels.dtype).max
    soft = (alphas > _SOFT) & (alphas < 1 - _SOFT)  # (K,H,W)
    alpha = alphas[soft][:, None]  # (n,1)
    ours, theirs = (255 / most * values[soft] for values in (colours, truth))  # (n,3)
    over = [
        np.abs(_over(ours, alpha, new) - _over(theirs, alpha, new)).mean()
        for new in np.array(backgrounds)
    ]
    return [float(np.abs(ours - theirs).mean()), float(np.mean(over))]


def _over(colours: Colours, alpha: NDArray, background: NDArray) -> Colours:
    """Whole levels of colours (n,3) laid over a background (3,)."""
    return np.rint(alpha * colours + (1 - alpha) * background)


def colours(
    counts: Sequence[int],
    size: Sequence[int],
    backgrounds: Sequence[Sequence[int]],
    repeats: int,
) -> dict[str, Any]:
    """Scores the colours of layers on blends of known layers.

    Args:
        counts: Numbers of layers K.
        size: (H, W) of the blends.
        backgrounds: Colours (R, G, B) that the layers are laid over.
        repeats: Number of rounds for the seconds.

    Returns:
        Result with one row per way, kind of layers and K.
    """
    height, width = size
    readers = (data.astronaut, data.coffee, data.chelsea, data.rocket)
    pictures = np.stack([resize_image(read(), (height, width)) for read in readers])
    rows, ratios = [], {}
    for count in counts:
        kinds = {
            "smooth": [blend_of_known_layers(np.uint16, count, (height, width))],
            "photos": [
                blend_of_photos(pictures[list(chosen)], seed)
                for seed, chosen in enumerate(combinations(range(len(pictures)), count))
            ],
        }
        for kind, blends in kinds.items():
            for name, way in WAYS.items():
                measured = [errors(way(*known[:2]), known, backgrounds) for known in blends]
                of_colours, over = np.mean(measured, 0)
                rows.append(
                    {
                        "layers": f"{count}, {kind}",
                        "colours": name,
                        "error of the colours": f"{of_colours:.1f}",
                        "error over new backgrounds": f"{over:.1f}",
                    }
                )
        photo, alphas, _ = kinds["smooth"][0]
        sides = {name: partial(way, photo, alphas) for name, way in WAYS.items()}
        seconds = times_in_turn(sides, repeats)
        ratios[f"seconds, pymatting / ours, {count} layers"] = ratio(
            seconds["pymatting, layer by layer"], seconds[_OURS]
        )
    return {
        "title": "Colours of known layers",
        "rows": rows,
        "ratios": ratios,
        "settings": {
            "size": f"{height}x{width}",
            "smooth": "one blend of smooth layers with a little texture",
            "photos": "blends of all choices of four photos",
            "errors": "mean, in levels of 255, where an alpha is between 0.1 and 0.9",
        },
    }
