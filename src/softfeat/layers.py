"""Soft layers of a photo, and the files that they are written to."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softfeat.imaging import documents
from softfeat.imaging.naming import layer_names
from softfeat.imaging.photo import Photo
from softfeat.imaging.raster import Depth
from softfeat.imaging.stacking import fit_colours, stacking_alphas
from softfeat.matting.colours import layer_colours
from softfeat.matting.layers import select
from softfeat.matting.soft_segmentation import STAGES
from softfeat.memory import trim_heap
from softfeat.results import replacing, write_summary
from softfeat.selection import Cutout, Selector, cut_out, part_of
from softfeat.stopwatch import Stopwatch
from softfeat.thread_pool import map_in_threads


def check_bits(bits: int) -> None:
    """Raises ValueError if alphas cannot be written with this number of bits."""
    if bits not in (8, 16):
        raise ValueError(f"bits={bits}: set bits=8 or bits=16")


def check_join(
    photo: Photo,
    include: Sequence[Sequence[int]] | None = None,
    box: Sequence[int] | None = None,
) -> None:
    """Raises ValueError if `Layers.join` of a photo would, before it is segmented."""
    _check_one_of(include, box)
    select(np.broadcast_to(np.float32(1), (1, *photo.pixels.shape[:2])), include or None, box)


def _check_one_of(include: Sequence[Sequence[int]] | None, box: Sequence[int] | None) -> None:
    if bool(include) == (box is not None):
        raise ValueError("join layers by include=[(x, y), ...] or box=(left, top, right, bottom)")


@dataclass(frozen=True, eq=False)
class Layers:
    """Soft layers of a photo.

    Attributes:
        original: The photo.
        alphas: (K,H,W) in [0,1], adding up to 1 at every pixel, largest layer first.
        features: (h,w,3) in [0,1], the features that the layers follow, at the working size.
        superpixels: (h,w) ids 0..S-1, at the working size.
        selector: Cuts things out of the photo by clicks.
        seconds: Seconds per stage: "reading", "network", the stages of
            `softfeat.matting.soft_segmentation`, and "enlarging".
    """

    original: Photo
    alphas: NDArray[np.float32]
    features: NDArray[np.float64]
    superpixels: NDArray[np.uint16]
    selector: Selector
    seconds: dict[str, float]

    @property
    def photo(self) -> NDArray[np.uint8]:
        """(H,W,3) sRGB, the photo as the method sees it."""
        return self.original.srgb

    @cached_property
    def colours(self) -> NDArray[Depth]:
        """Each layer's own colours (K,H,W,3), which differ from the photo's where layers blend.

        They have the bits and the colour space of the photo. They are computed at the first access,
        in some seconds for a large photo.
        """
        return self._colours_for(stacking_alphas(self.original, self.alphas))

    def _colours_for(self, stack: NDArray[Depth]) -> NDArray[Depth]:
        """The colours (K,H,W,3) with which a stack of the layers shows the photo."""
        colours = layer_colours(self.original, self.alphas)
        fit_colours(self.original, colours, stack)
        return colours

    def stacked(self, names: Sequence[str] | None = None) -> list[documents.DocumentLayer]:
        """The layers as documents stack them, lowest first.

        Args:
            names: Names of the layers; None for names by place and colour.
        """
        stack = stacking_alphas(self.original, self.alphas)
        colours = self.colours if "colours" in vars(self) else self._colours_for(stack)
        names = layer_names(self.original, self.alphas) if names is None else names
        return [documents.DocumentLayer(*of) for of in zip(names, colours, stack, strict=True)]

    def select(self, *marks: Any, **options: Any) -> NDArray[np.float32]:
        """Finds the matte of a thing by clicks; see `Selector.select`."""
        return self.selector.select(*marks, **options)

    def cutout(self, *marks: Any, **options: Any) -> Cutout:
        """Cuts a thing out by clicks; see `Selector.cutout`."""
        return self.selector.cutout(*marks, **options)

    def join(
        self,
        include: Sequence[Sequence[int]] | None = None,
        box: Sequence[int] | None = None,
    ) -> Cutout:
        """Joins the layers that points or a box belong to.

        A point belongs to the layers that hold a fifth or more of it. A box holds the layers that
        have more of their coverage inside it than outside, or else the layer that covers most of
        it.

        Args:
            include: Points (x, y) in pixels of the photo.
            box: Left, top, right and bottom in pixels of the photo, the last two exclusive.

        Raises:
            ValueError: Neither or both are given, or they are not on the photo.
        """
        _check_one_of(include, box)
        return cut_out(self.original, select(self.alphas, include or None, box))

    def save(
        self,
        folder: str | os.PathLike[str],
        bits: int = 8,
        cutout: Cutout | None = None,
        entries: Mapping[str, Any] | None = None,
        masks: bool = True,
    ) -> dict[str, Any]:
        """Writes the layers to a folder, in place of those of an earlier call.

        The files are `alpha_<k>.png`; `layer_<k>.png`, with the layer's own colours; all layers as
        `layers.psd` (`layers.psb` for more than 30,000 pixels a side or 2 GB) and `layers.ora`;
        `overview.png`; and `summary.json`. After an error the folder is as it was. Colours are not
        kept.

        Args:
            folder: Folder to write to; it is made if it does not exist.
            bits: 8 or 16, bits of the `alpha_<k>.png`.
            cutout: Result of `cutout` or `join`, written as `selection.png` and `cutout.png`.
            entries: Further entries of the summary.
            masks: Whether layers of the Photoshop document have masks that can be edited, instead
                of transparent colours.

        Returns:
            The summary.

        Raises:
            ValueError: There are no PNGs with this number of bits.
            OSError: The folder cannot be written.
        """
        check_bits(bits)
        with replacing(Path(folder).resolve()) as unfinished:
            summary = {**(entries or {}), **self._write(unfinished, bits, cutout, masks)}
            write_summary(unfinished, summary)
        return summary

    def _write(self, folder: Path, bits: int, cutout: Cutout | None, masks: bool) -> dict[str, Any]:
        """Writes all files except the summary, and returns the summary."""
        watch = Stopwatch()
        with watch("colours"):
            trim_heap()  # a large photo needs what its enlargement has used
            layers = self.stacked()
        with watch("documents"):
            trim_heap()
            # The largest file first and alone: together with another one it would need more memory.
            documents.write_photoshop(folder / "layers", self.original, layers, masks)
            trim_heap()
            map_in_threads(lambda write: write(), self._writers(folder, layers, bits, cutout))
        of_layers = {stage: s for stage, s in self.seconds.items() if stage in STAGES}
        own = {
            "reading": self.seconds["reading"],
            "network": self.seconds["network"],
            "layers": sum(of_layers.values()),
            "enlarging": self.seconds["enlarging"],
        }
        return {
            "size": [self.original.pixels.shape[1], self.original.pixels.shape[0]],
            "working_size": [self.features.shape[1], self.features.shape[0]],
            "coverage": self._coverage,
            "seconds": {stage: round(s, 3) for stage, s in (own | watch.seconds).items()},
            "seconds_of_layers": {stage: round(s, 3) for stage, s in of_layers.items()},
        }

    @cached_property
    def _coverage(self) -> list[float]:
        return [round(float(alpha.mean()), 4) for alpha in self.alphas]

    def _writers(
        self,
        folder: Path,
        layers: Sequence[documents.DocumentLayer],
        bits: int,
        cutout: Cutout | None,
    ) -> Iterator[Callable[[], object]]:
        """Functions that each write a file, those that take longest first."""
        yield partial(documents.write_ora, folder / "layers.ora", self.original, layers)
        yield partial(self._write_overview, folder / "overview.png", layers)
        if cutout is not None:
            yield partial(cutout.save, folder / "cutout.png")
            yield partial(documents.write_alpha, folder / "selection.png", cutout.matte, bits)
        for k, (alpha, layer) in enumerate(zip(self.alphas, layers, strict=True), 1):
            yield partial(self._write_layer, folder / f"layer_{k}.png", layer.colours, alpha)
            yield partial(documents.write_alpha, folder / f"alpha_{k}.png", alpha, bits)

    def _write_overview(self, file: Path, layers: Sequence[documents.DocumentLayer]) -> None:
        colours = [layer.colours for layer in layers]
        sheet = documents.overview(
            self.original, self.features, self.superpixels, colours, self.alphas, self._coverage
        )
        documents.save_png(file, Photo(np.asarray(sheet)))

    def _write_layer(self, file: Path, colours: NDArray[Depth], alpha: NDArray[np.float32]) -> None:
        documents.save_png(file, part_of(self.original, colours, alpha))
