"""One photo through the network and soft segmentation, to files."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from softfeat.imaging.images import read_image, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.matting import files
from softfeat.matting.layers import select, upsample_alphas
from softfeat.matting.soft_segmentation import MOST_LAYERS, soft_segment
from softfeat.models.extractor import Extractor

FEATURES_SIZES = (224, 320, 448)  # small ones see large things whole, large ones see small things
VERSION = 3  # of the files of a photo; files of another version are written again
_LONGEST = 30_000  # pixels, of Photoshop's documents
_SHORTEST = 32  # pixels, of photos and of what they are reduced to
_MOST_STRETCHED = 100  # longer by shorter side


@dataclass(frozen=True)
class Settings:
    """What changes the layers, beside the photo and the network.

    Args:
        layers: how many.
        size: pixels of the long side at which they are found.
        seed: of the eigenvectors' start.
        bits: of the alphas' files.
        point: x, y of what to select.
        box: left, top, right, bottom of what to select.
        backend: of the superpixels.
        features_sizes: pixels of the long side that the network sees, one after the other.

    Raises:
        ValueError: naming the key.
        ImportError: no such backend here, with the remedy.
    """

    layers: int | Literal["auto"]
    size: int
    seed: int
    bits: int
    point: list[int] | None
    box: list[int] | None
    backend: Literal["fast_slic", "skimage"] = "fast_slic"
    features_sizes: Sequence[int] = FEATURES_SIZES

    def __post_init__(self) -> None:
        Superpixels(backend=self.backend).check_backend()
        layers = self.layers
        if layers != "auto" and not (type(layers) is int and 1 <= layers <= MOST_LAYERS):
            raise ValueError(f"layers={layers}: set layers=1..{MOST_LAYERS}, or layers=auto")
        if type(self.size) is not int or self.size < _SHORTEST:
            raise ValueError(f"size={self.size}: set size to {_SHORTEST} pixels or more")
        sizes = self.features_sizes
        if not sizes or any(type(s) is not int or s < _SHORTEST for s in sizes):
            raise ValueError(f"features_sizes={list(sizes)}: set sizes of {_SHORTEST} or more")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed={self.seed}: set seed to a whole number, 0 or more")
        if self.bits not in (8, 16):
            raise ValueError(f"bits={self.bits}: set bits=8 or bits=16")
        if self.point is not None and self.box is not None:
            raise ValueError("select.point and select.box are both set: set one of them")
        for name, value, count in (("point", self.point, 2), ("box", self.box, 4)):
            whole = isinstance(value, list) and all(type(v) is int for v in value)
            if value is not None and not (whole and len(value) == count):
                raise ValueError(f"select.{name}={value}: set {count} whole numbers, in pixels")


def working_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """The size (h, w) at which layers are found: smaller, never larger than the photo's.

    The long side is `long_side`, or more where the short one would fall below 32.

    Raises:
        ValueError: too small a photo, too large, or too stretched.
    """
    short, long = sorted((height, width))
    if short < _SHORTEST:
        raise ValueError(f"{width}x{height} pixels: a photo needs {_SHORTEST} or more each way")
    if long > _LONGEST:
        raise ValueError(f"{width}x{height} pixels: at most {_LONGEST} each way; make it smaller")
    if long > _MOST_STRETCHED * short:
        raise ValueError(
            f"{width}x{height} pixels: more than {_MOST_STRETCHED} times longer one way; crop it"
        )
    scale = min(1.0, max(long_side / long, _SHORTEST / short))
    return round(height * scale), round(width * scale)


@torch.inference_mode()
def features_of(
    extractor: Extractor, photo: NDArray[np.uint8], long_sides: Sequence[int] = FEATURES_SIZES
) -> NDArray[np.float32]:
    """F of a photo: the mean over several sizes of the photo, and over its mirror image.

    Networks are trained on small photos, so that they see a large one best when it is reduced.

    Args:
        extractor: The network, in eval mode.
        photo: (H,W,3) uint8.
        long_sides: Lengths in pixels of the long side to which a larger photo is reduced.

    Returns:
        (H,W,D).
    """
    size = photo.shape[:2]
    scales = sorted({min(1.0, side / max(size)) for side in long_sides}, reverse=True)
    total: Tensor | None = None
    for scale in scales:
        height, width = (max(1, round(side * scale)) for side in size)
        small = resize_image(photo, (height, width))
        image = torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 255  # (1,3,h,w)
        levels = extractor.pyramid(torch.cat([image, image.flip(3)]))  # (2,D_l,h_l,w_l)
        if total is None:  # no level is finer than this one
            total = torch.zeros(1, extractor.dim, *levels[0].shape[2:])
        means = [(level[:1] + level[1:].flip(3)) / 2 for level in levels]
        total += torch.cat([_resized(mean, total.shape[2:]) for mean in means], 1)
    assert total is not None
    return _resized(total / len(scales), size)[0].permute(1, 2, 0).numpy()


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def segment_photo(
    path: Path, folder: Path, extractor: Extractor, settings: Settings
) -> dict[str, Any]:
    """Writes all files of a photo but the summary.

    Returns:
        The summary.

    Raises:
        ValueError, OSError: the photo is bad, or what is to be selected is not on it.
    """
    marks = {"start": perf_counter()}
    photo = read_image(path)
    height, width = photo.shape[:2]
    small = resize_image(photo, working_size(height, width, settings.size))
    chosen = None if settings.point is None and settings.box is None else settings
    if chosen:  # on one layer of ones, for an error before the work
        select(np.broadcast_to(np.float32(1), (1, height, width)), chosen.point, chosen.box)
    marks["reading"] = perf_counter()
    features = features_of(extractor, small, settings.features_sizes)
    marks["network"] = perf_counter()
    found = soft_segment(
        small / 255, features, settings.layers, settings.seed, backend=settings.backend
    )
    marks["layers"] = perf_counter()
    image = photo.astype(np.float32) / np.float32(255)
    with torch.inference_mode():
        guide = torch.from_numpy(image).permute(2, 0, 1)
        alphas = upsample_alphas(torch.from_numpy(found.alphas), guide).numpy()
    marks["enlarging"] = perf_counter()
    layers = [folder / f"layer_{k}.png" for k in range(1, len(alphas) + 1)]
    for k, (alpha, layer) in enumerate(zip(alphas, layers, strict=True), 1):
        files.write_alpha(folder / f"alpha_{k}.png", alpha, settings.bits)
        files.write_cutout(layer, image, alpha)
    if chosen:
        matte = select(alphas, chosen.point, chosen.box)
        files.write_alpha(folder / "selection.png", matte, settings.bits)
        files.write_cutout(folder / "cutout.png", image, matte)
    marks["colours"] = perf_counter()
    picture = Image.fromarray(photo)
    flat = files.flatten(picture, layers)
    files.write_psd(folder / "layers.psd", picture, layers, flat)
    files.write_ora(folder / "layers.ora", picture, layers, flat)
    files.overview(picture, found, layers).save(folder / "overview.png")
    marks["documents"] = perf_counter()
    return {
        "photo": path.name,
        "size": [width, height],
        "working_size": [small.shape[1], small.shape[0]],
        "coverage": [round(float(alpha.mean()), 4) for alpha in alphas],
        "seconds": {b: round(marks[b] - marks[a], 3) for a, b in itertools.pairwise(marks)},
        "seconds_of_layers": {stage: round(s, 3) for stage, s in found.seconds.items()},
    }
