"""Photos to soft layers: `Segmenter("general")("photo.jpg").save("layers")`."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from softfeat.imaging.convert import planes_of, to_float
from softfeat.imaging.images import resize_image
from softfeat.imaging.photo import MAX_PIXELS, Photo, PhotoSource, read_photo
from softfeat.imaging.slic import Superpixels
from softfeat.layers import Layers
from softfeat.layers_file import read_layers, write_layers
from softfeat.matting.layers import upsample_alphas
from softfeat.matting.soft_segmentation import (
    MOST_LAYERS,
    Analysis,
    Backend,
    analyse,
    layers_of,
)
from softfeat.memory import trim_heap
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint, sha256
from softfeat.models.click_network import click_network_of
from softfeat.models.extractor import extractor_of
from softfeat.models.photo_features import FEATURES_SIZES, features_of
from softfeat.selection import NO_CLICKS, Cutout, Selector
from softfeat.stopwatch import Stopwatch

LayerCount = int | Literal["auto"]

_LONGEST = 300_000  # pixels, the limit of large Photoshop documents (PSB)
_SHORTEST = 32  # pixels, for photos and the sizes they are reduced to
_MOST_STRETCHED = 100  # ratio of the longer to the shorter side


def working_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Computes the size (h, w) at which layers are computed, never larger than the photo.

    The long side is `long_side`, or more if the short side would fall below 32 pixels.

    Raises:
        ValueError: The photo is too small, too large or too stretched.
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


class Segmenter:
    """Divides photos into soft layers.

    >>> from skimage.data import chelsea
    >>> layers = Segmenter("general", layers=2, size=64)(chelsea())
    >>> layers.alphas.shape
    (2, 300, 451)
    >>> layers.cutout(include=[(225, 150)]).image.size
    (451, 300)
    >>> Segmenter("general").open(chelsea()).select(preview=True).shape  # the subject
    (300, 451)

    Args:
        weights: Name of shipped weights ("general", "road"), a file of weights, or the directory of
            a training run.
        layers: Number of layers, 1 to 40, or "auto". Fewer come out where the features do not
            differ.
        size: Pixels of the long side at which layers are computed, 32 or more. Alphas have the size
            of the photo.
        features_sizes: Pixels of the long side at which the network sees the photo, each 32 or
            more. The features are the mean.
        seed: Random seed of the eigenvectors, 0 or more. Nothing else is random.
        device: Device of the network and the sparsifications, as "cpu" or "cuda".
        backend: Library that computes the superpixels.
        max_pixels: Largest number of pixels of a photo's file. The limit protects from files that
            would fill the memory.

    Raises:
        ValueError: An argument is out of range, the weights are damaged, or there is no such
            device.
        FileNotFoundError: There are no such weights.
        ImportError: The backend is not installed. The message says how to install it.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = "general",
        *,
        layers: LayerCount = 5,
        size: int = 640,
        features_sizes: int | Sequence[int] = FEATURES_SIZES,
        seed: int = 0,
        device: str = "cpu",
        backend: Backend = "fast_slic",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        Superpixels(backend=backend).check_backend()
        _check_layers(layers)
        if type(size) is not int or size < _SHORTEST:
            raise ValueError(f"size={size}: set size to {_SHORTEST} pixels or more")
        sizes = [features_sizes] if isinstance(features_sizes, int) else list(features_sizes)
        if not sizes or any(type(s) is not int or s < _SHORTEST for s in sizes):
            raise ValueError(f"features_sizes={sizes}: set sizes of {_SHORTEST} or more")
        if type(seed) is not int or seed < 0:
            raise ValueError(f"seed={seed}: set seed to a whole number, 0 or more")
        if type(max_pixels) is not int or max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels}: set max_pixels to a whole number of pixels")
        self.layers, self.size, self.features_sizes = layers, size, sizes
        self.max_pixels = max_pixels
        self.seed, self.backend = seed, backend
        self.device = _device(device)
        self.checkpoint = checkpoint_file(os.fspath(weights))
        content = read_checkpoint(self.checkpoint)
        self.extractor = extractor_of(content).eval().to(self.device)
        self.clicks = click_network_of(content)

    def read(self, source: PhotoSource) -> Photo:
        """Reads a photo of up to `max_pixels`; see `read_photo`."""
        return read_photo(source, self.max_pixels)

    def check(
        self,
        photo: Photo,
        include: Sequence[Sequence[int]] = (),
        exclude: Sequence[Sequence[int]] = (),
        box: Sequence[int] | None = None,
    ) -> None:
        """Finds out whether a thing can be cut out of a photo, before its features are computed.

        Raises:
            ValueError: The photo cannot be segmented, clicks or box are not on it, or the weights
                answer no clicks.
        """
        height, width = photo.pixels.shape[:2]
        working_size(height, width, self.size)
        Selector.check(photo, include, exclude, box)
        if self.clicks is None:
            raise ValueError(NO_CLICKS)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes the layers, except the photo and the weights; plain values."""
        return {
            "layers": self.layers,
            "size": self.size,
            "seed": self.seed,
            "backend": self.backend,
            "features_sizes": self.features_sizes,
        }

    @cached_property
    def identity(self) -> str:
        """Hash of the weights and of the sizes at which the network sees photos."""
        digest = hashlib.sha256(sha256(self.checkpoint).encode())
        digest.update(repr(self.features_sizes).encode())
        return digest.hexdigest()

    def dump(self, layers: Layers, file: str | os.PathLike[str]) -> None:
        """Writes layers to one file, from which `load` gets them back, for more clicks.

        Alphas are rounded to 16 bits.

        Args:
            layers: Layers of this segmenter.
            file: File to write, as `photo.npz`.

        Raises:
            OSError: It cannot be written.
        """
        write_layers(file, layers, self.identity)

    def load(self, file: str | os.PathLike[str]) -> Layers:
        """Reads layers from a file of `dump`. Nothing in it is executed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or was made with other weights.
        """
        return read_layers(file, self.clicks, self.identity, self.max_pixels)

    def __call__(self, photo: Photo | PhotoSource, layers: LayerCount | None = None) -> Layers:
        """Divides a photo into soft layers.

        Args:
            photo: Photo, or what `read_photo` reads.
            layers: Number of layers in place of the segmenter's own.

        Raises:
            FileNotFoundError, ValueError: The photo is missing, damaged, too small, too large or
                too stretched; or the number of layers is out of range.
        """
        layers = self.layers if layers is None else layers
        _check_layers(layers)
        return self.open(photo).layers(layers)

    def open(self, photo: Photo | PhotoSource) -> "OpenPhoto":
        """Computes the features of a photo, from which things are cut and layers are made.

        Args:
            photo: Photo, or what `read_photo` reads.

        Raises:
            FileNotFoundError, ValueError: The photo is missing, damaged, too small, too large or
                too stretched.
        """
        watch = Stopwatch()
        with watch("reading"):
            original = photo if isinstance(photo, Photo) else self.read(photo)
            pixels = original.srgb  # (H,W,3)
            height, width, _ = pixels.shape
            small = resize_image(pixels, working_size(height, width, self.size))  # (h,w,3)
        with watch("network"):
            maps = features_of(self.extractor, small, self.features_sizes)
            selector = Selector.of(original, small, maps, self.clicks, self.backend)
        return OpenPhoto(selector, self.seed, self.device, self.backend, maps, watch.seconds)


class OpenPhoto:
    """A photo with its features. Things are cut from it at once, and layers after some seconds.

    Args:
        selector: Cuts things out of the photo by clicks.
        seed: Random seed of the eigenvectors.
        device: Device of the sparsifications.
        backend: Library that computes the superpixels.
        maps: Features of the photo.
        seconds: Seconds per stage so far.
    """

    def __init__(
        self,
        selector: Selector,
        seed: int,
        device: torch.device,
        backend: Backend,
        maps: NDArray[np.float32],
        seconds: Mapping[str, float],
    ) -> None:
        self.selector, self.seed, self.device, self.backend = selector, seed, device, backend
        self._maps: NDArray[np.float32] | None = maps
        self._seconds = dict(seconds)

    def select(self, *marks: Any, **options: Any) -> NDArray[np.float32]:
        """Finds the matte of a thing by clicks; see `Selector.select`."""
        return self.selector.select(*marks, **options)

    def cutout(self, *marks: Any, **options: Any) -> Cutout:
        """Cuts a thing out by clicks; see `Selector.cutout`."""
        return self.selector.cutout(*marks, **options)

    @cached_property
    def analysis(self) -> Analysis:
        """What all numbers of layers have in common, computed at the first access.

        It takes some seconds, and some hundred megabytes as long as this object lives.
        """
        assert self._maps is not None
        image = to_float(self.selector.small, np.float64)
        found = analyse(image, self._maps, self.seed, device=self.device, backend=self.backend)
        self._maps = None
        return found

    def layers(self, layers: LayerCount = 5) -> Layers:
        """Divides the photo into soft layers. Another number of layers re-uses the analysis.

        Args:
            layers: Number of layers, or "auto"; see `Segmenter`.

        Raises:
            ValueError: The number of layers is out of range.
        """
        _check_layers(layers)
        watch, original = Stopwatch(), self.selector.original
        soft = layers_of(self.analysis, layers)
        with watch("enlarging"), torch.inference_mode():
            trim_heap()  # a large photo needs what the analysis has used
            guide = planes_of(original.srgb)  # (3,H,W)
            alphas = upsample_alphas(torch.from_numpy(soft.alphas), guide).numpy()  # (K,H,W)
        seconds = self._seconds | soft.seconds | watch.seconds
        return Layers(original, alphas, soft.features, soft.superpixels, self.selector, seconds)


def _check_layers(layers: LayerCount) -> None:
    if layers != "auto" and not (type(layers) is int and 1 <= layers <= MOST_LAYERS):
        raise ValueError(f"layers={layers}: set layers=1..{MOST_LAYERS}, or layers=auto")


def _device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ValueError: This machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by its build
        raise ValueError(f"device {name} is not available here: choose cpu") from error
    return device
