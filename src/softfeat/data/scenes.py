"""Procedural scenes: pictures that the project makes itself, with labels and true alpha layers.

A class is a texture, never a colour. All regions of a picture share a small palette, so one class
has several colours and one colour belongs to several classes. Objects, several per class, lie on a
divided background. Their borders are of the kinds that real objects have: sharp, out of focus,
moving, hairy, or half transparent.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

from softfeat.checks import whole
from softfeat.data.cache_folder import CacheFolder
from softfeat.data.labels import LabelMap
from softfeat.data.layouts import DataError, Folder, Record
from softfeat.data.parallel import map_in_workers, worker_count

Array = NDArray[np.float64]
_VERSION = 1  # version of the pictures: raise it when they change
_SPLITS = ("train", "val", "test")


def _noise(rng: np.random.Generator, size: int, scale: float) -> Array:
    """Makes smooth noise in [0,1] with details about `scale` pixels wide."""
    knots = int(np.ceil(size / scale)) + 4
    coarse = Image.fromarray(rng.standard_normal((knots, knots)).astype(np.float32))
    # The crop keeps the picture away from the border of the knots.
    field = coarse.resize((size, size), Image.Resampling.BICUBIC, (1, 1, knots - 1, knots - 1))
    return np.clip(0.5 + 0.3 * np.asarray(field, np.float64), 0, 1)


def _rotated(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Makes pixel coordinates in a randomly turned, shifted and slightly bent frame."""
    y, x = np.mgrid[:size, :size] - rng.uniform(0, size, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    bend = 3 * (_noise(rng, size, size / 3) - 0.5)
    return np.cos(angle) * y + np.sin(angle) * x + bend, np.cos(angle) * x - np.sin(
        angle
    ) * y + bend


def _smooth_step(value: Array, width: float) -> Array:
    return np.clip(0.5 + value / width, 0, 1)


def _nearest_seeds(rng: np.random.Generator, size: int, cell: float) -> tuple[Array, Array]:
    """Computes distances to the nearest and second nearest jittered seed, in units of `cell`."""
    grid = np.stack(np.meshgrid(*[np.arange(-cell, size + cell, cell)] * 2), -1).reshape(-1, 2)
    seeds = grid + rng.uniform(0, 0.8 * cell, grid.shape)
    pixels = np.argwhere(np.ones((size, size), bool))
    near = cKDTree(seeds).query(pixels, k=2)[0].reshape(size, size, 2) / cell
    return near[..., 0], near[..., 1]


def _plain(rng: np.random.Generator, size: int) -> Array:
    return 0.35 + 0.3 * _noise(rng, size, size / 5)


def _stripes(rng: np.random.Generator, size: int) -> Array:
    v, _ = _rotated(rng, size)
    return 0.5 + 0.5 * np.sin(2 * np.pi * v / rng.uniform(6, 10))


def _checker(rng: np.random.Generator, size: int) -> Array:
    v, u = _rotated(rng, size)
    period = rng.uniform(10, 16)
    return _smooth_step(np.sin(2 * np.pi * v / period) * np.sin(2 * np.pi * u / period), 0.5)


def _dots(rng: np.random.Generator, size: int) -> Array:
    near, _ = _nearest_seeds(rng, size, rng.uniform(8, 12))
    return _smooth_step(0.32 - near, 0.15)


def _cells(rng: np.random.Generator, size: int) -> Array:
    near, second = _nearest_seeds(rng, size, rng.uniform(10, 15))
    return _smooth_step(second - near - 0.12, 0.15)


def _fibre(rng: np.random.Generator, size: int) -> Array:
    v, u = _rotated(rng, size)
    field = ndimage.gaussian_filter(
        rng.standard_normal((2 * size, 2 * size)), (0.7, 9), mode="wrap"
    )
    at = np.stack([v, u]) % (2 * size - 1)
    value = ndimage.map_coordinates(field / field.std(), at, order=1)
    return np.clip(0.5 + 0.35 * value, 0, 1)


def _grain(rng: np.random.Generator, size: int) -> Array:
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.7)
    return np.clip(0.5 + 0.3 * field / field.std(), 0, 1)


def _bricks(rng: np.random.Generator, size: int) -> Array:
    v, u = _rotated(rng, size)
    height = rng.uniform(7, 10)
    row = np.floor(v / height)
    across = (u / (2.2 * height) + 0.5 * (row % 2)) % 1
    edge = np.minimum.reduce([v / height - row, (across * 2.2), (1 - across) * 2.2])
    return _smooth_step(edge - 0.13, 0.12)


TEXTURES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
    "cells": _cells,
    "fibre": _fibre,
    "grain": _grain,
    "bricks": _bricks,
}


def _palette(rng: np.random.Generator) -> list[Array]:
    """Draws three pairs of colours, different enough to show a texture."""
    pairs = []
    for _ in range(3):
        dark = rng.uniform(0.05, 0.6, 3)
        pairs.append(np.stack([dark, np.clip(dark + rng.uniform(0.15, 0.4, 3), 0, 1)]))
    return pairs


def _blob(rng: np.random.Generator, size: int) -> Array:
    """Draws a rounded shape as signed distances: pixels, positive inside, exact at the border."""
    centre = rng.uniform(0.1, 0.9, (2, 1, 1)) * size
    y, x = np.mgrid[:size, :size] - centre
    angle = np.arctan2(y, x)
    radius = rng.uniform(0.13, 0.27) * size * np.ones_like(angle)
    for order in range(2, 6):
        wobble = rng.uniform(0, 0.22) / (order - 0.5)
        radius *= 1 + wobble * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return radius - np.hypot(y, x * rng.uniform(0.7, 1.4))


def _sharp(inside: Array) -> Array:
    return _smooth_step(inside, 1.5)


def _defocus(rng: np.random.Generator, inside: Array) -> Array:
    return ndimage.gaussian_filter(_sharp(inside), rng.uniform(2.5, 6), mode="nearest")


def _motion(rng: np.random.Generator, inside: Array) -> Array:
    length, angle = rng.uniform(10, 24), rng.uniform(0, np.pi)
    steps = np.linspace(-length / 2, length / 2, 16)
    alpha = _sharp(inside)
    moved = [
        ndimage.shift(alpha, (s * np.sin(angle), s * np.cos(angle)), order=1, mode="nearest")
        for s in steps
    ]
    return np.mean(moved, 0)


def _hair(rng: np.random.Generator, inside: Array) -> Array:
    """Draws curved strands that grow out of the border, thinner than a pixel at their tips."""
    size, zoom = len(inside), 3
    gradient = -np.stack(np.gradient(ndimage.gaussian_filter(inside, 2)))
    border = np.argwhere(np.abs(inside) < 1.2)
    canvas = Image.new("L", (zoom * size, zoom * size))
    if len(border):
        draw = ImageDraw.Draw(canvas)
        comb = rng.normal(0, 0.5)
        for y, x in border[rng.integers(0, len(border), len(border) // 2 + 20)]:
            out = gradient[:, y, x] / (np.linalg.norm(gradient[:, y, x]) + 1e-9)
            side = np.array([out[1], -out[0]]) * (comb + rng.normal(0, 0.25))
            t = np.linspace(-0.15, 1, 10)[:, None] * rng.uniform(8, 22)
            path = np.array([y, x]) + t * out + 0.04 * t * np.abs(t) * side
            width = int(rng.integers(2, 5))
            draw.line([(zoom * q, zoom * p) for p, q in path], fill=255, width=width)
    strands = np.asarray(canvas.resize((size, size), Image.Resampling.BOX)) / 255.0
    return np.maximum(_sharp(inside), strands)


def _glass(rng: np.random.Generator, inside: Array) -> Array:
    return ndimage.gaussian_filter(_sharp(inside), 1.0) * rng.uniform(0.55, 0.8)


BOUNDARIES: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "sharp": lambda _, inside: _sharp(inside),
    "defocus": _defocus,
    "motion": _motion,
    "hair": _hair,
    "glass": _glass,
}


def make_scene(
    seed: tuple[int, ...], size: int = 256
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Makes one picture.

    Args:
        seed: Random seed; decides everything.
        size: Side in pixels.

    Returns:
        image: (H,W,3) uint8 RGB.
        label: (H,W) uint8, the class that owns most of a pixel.
        alphas: (L,H,W) uint8, visible share of each layer in 255ths; they add up to 255.
        classes: (L,) uint8, class of each layer.
    """
    rng = np.random.default_rng(seed)
    palette = _palette(rng)
    # Few classes per picture, each with several layers.
    cast = rng.choice(len(TEXTURES), int(rng.integers(3, 6)), replace=False)
    masks: list[Array] = []
    for index in range(int(rng.integers(2, 4))):  # background: everything, then slanted parts
        v, _ = _rotated(rng, size)
        wave = 0.12 * size * (_noise(rng, size, size / 2) - 0.5)
        part = v + wave + rng.uniform(-0.2, 0.2) * size
        masks.append(_defocus(rng, part) if index else np.ones((size, size)))
    for _ in range(int(rng.integers(4, 8))):
        boundary = BOUNDARIES[str(rng.choice(list(BOUNDARIES)))]
        masks.append(np.clip(boundary(rng, _blob(rng, size)), 0, 1))
    classes = np.concatenate(
        [rng.permutation(cast), rng.choice(cast, max(0, len(masks) - len(cast)))]
    )
    classes = classes[: len(masks)].astype(np.uint8)

    names = list(TEXTURES)
    image = np.zeros((size, size, 3))
    alphas = np.zeros((len(masks), size, size))
    for layer, (mask, class_id) in enumerate(zip(masks, classes, strict=True)):
        low, high = palette[int(rng.integers(len(palette)))]
        texture = TEXTURES[names[class_id]](rng, size)[..., None]
        light = 0.75 + 0.5 * _noise(rng, size, size / 1.5)[..., None]
        colour = (low + (high - low) * texture) * light
        image = image * (1 - mask[..., None]) + colour * mask[..., None]
        alphas[:layer] *= 1 - mask
        alphas[layer] = mask

    y, x = np.mgrid[:size, :size] / size - 0.5
    slope = rng.uniform(-0.5, 0.5, 2)
    image *= (1 + slope[0] * y + slope[1] * x)[..., None]
    image += rng.normal(0, 0.012, image.shape)
    image8 = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)

    alphas8 = np.round(alphas * 255).astype(np.int16)
    top = alphas8.argmax(0)[None]
    rest = 255 - alphas8.sum(0, keepdims=True)  # rounding error, added to the largest layer
    np.put_along_axis(alphas8, top, np.take_along_axis(alphas8, top, 0) + rest, 0)
    membership = classes == np.arange(len(TEXTURES))[:, None]
    owned = np.einsum("kl,lhw->khw", membership.astype(np.int32), alphas8.astype(np.int32))
    return image8, owned.argmax(0).astype(np.uint8), alphas8.astype(np.uint8), classes


class Scenes:
    """The embedded data set, made on first use in a folder of the cache.

    The files follow the plain folder layout. In addition `alphas/<split>/<stem>.npz` has the arrays
    `alphas` and `classes` of `make_scene`.

    Args:
        root: Folder of all sets; each set has its own folder, named by its content.
        seed: Random seed of the set.
        counts: Number of pictures of each split.
        size: Side in pixels.
        num_workers: Number of processes that make pictures; None for one per core.

    Raises:
        DataError: There is no such split.
    """

    def __init__(
        self,
        root: str | Path,
        seed: int = 0,
        counts: Mapping[str, int] | None = None,
        size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        whole("data.layout.seed", seed, 0)
        whole("data.layout.size", size, 16, 4096)
        if num_workers is not None:
            whole("data.num_workers", num_workers, 0, 256)
        for split, count in (counts or {}).items():
            whole(f"data.layout.counts.{split}", count, 1, 10**6)
        self.seed, self.size, self.num_workers = seed, size, worker_count(num_workers)
        self.counts = dict(counts or {"train": 320, "val": 40, "test": 60})
        if unknown := set(self.counts) - set(_SPLITS):
            raise DataError(f"scenes: unknown splits {sorted(unknown)}; they are {_SPLITS}")
        content = [_VERSION, seed, size, sorted(self.counts.items())]
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
        self.root = Path(root) / f"scenes-{key}"
        self.class_names = tuple(TEXTURES)
        self.contrast: tuple[str | int, ...] = ()
        self.label_map = LabelMap.identity(self.class_names)

    def prepare(self) -> None:
        """Makes the pictures once; waits if another process is already making them."""
        if CacheFolder(self.root).complete:
            return
        counts = self.counts.items()
        with CacheFolder(self.root).filling(sum(self.counts.values()) * self.size**2) as partial:
            if partial is None:
                return
            for kind in ("images", "labels", "alphas"):
                for split in self.counts:
                    (partial / kind / split).mkdir(parents=True, exist_ok=True)
            names = "\n".join(TEXTURES)
            (partial / "classes.txt").write_text(f"{names}\n", encoding="utf-8")
            items = [(partial, split, index) for split, n in counts for index in range(n)]
            for _ in map_in_workers(self._write, items, self.num_workers, "making scenes"):
                pass

    def _write(self, item: tuple[Path, str, int]) -> None:
        folder, split, index = item
        seed = (self.seed, _SPLITS.index(split), index)
        image, label, alphas, classes = make_scene(seed, self.size)
        name = f"{index:05d}"
        photo = folder / "images" / split / f"{name}.jpg"
        Image.fromarray(image).save(photo, quality=95, subsampling=0)
        Image.fromarray(label).save(folder / "labels" / split / f"{name}.png")
        np.savez_compressed(
            folder / "alphas" / split / f"{name}.npz", alphas=alphas, classes=classes
        )

    def records(self, split: str) -> list[Record]:
        return Folder(self.root, test=None).records(split)
