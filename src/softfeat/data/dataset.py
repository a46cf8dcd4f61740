"""Samples and batches: photo, label and superpixels, augmented together."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Sampler, default_collate

from softfeat.checks import number, whole
from softfeat.data.flat_batch import FlatBatch
from softfeat.data.layouts import Record
from softfeat.data.parallel import share_memory
from softfeat.data.records import read_classes, read_record, resize_label
from softfeat.data.store import SampleStore
from softfeat.imaging.images import file_identity, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.ops.labels import IGNORE
from softfeat.ops.pyramid import pooling_weights
from softfeat.ops.superpixel_graph import find_neighbours
from softfeat.ops.superpixels import NO_SUPERPIXEL

Batch = Mapping[str, Any]
SetBalance = Literal["photos", "sqrt", "even"]


@dataclass(frozen=True)
class Augmentation:
    """Random flip, scale and crop, the same for all maps of a photo, and random colours.

    Attributes:
        flip: Probability of a horizontal flip.
        scale: Range of the enlargement. Below 1 the photo is padded, and the padding has the label
            IGNORE.
        colour: Largest deviation of brightness, contrast and saturation from 1, in [0,1). The three
            channels deviate from each other by up to half of it.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0

    def __post_init__(self) -> None:
        number("data.augmentation.flip", self.flip, 0, 1)
        number("data.augmentation.colour", self.colour, 0, below=1)
        scale: Any = self.scale
        if not isinstance(scale, Sequence) or isinstance(scale, str) or len(scale) != 2:
            raise ValueError(f"data.augmentation.scale={scale}: give a range such as [0.8,1.5]")
        for bound in scale:
            number("data.augmentation.scale", bound, 0.01, 100)
        if scale[0] > scale[1]:
            raise ValueError(
                f"data.augmentation.scale={list(scale)}: the first number is above the second"
            )

    def __call__(
        self,
        rng: np.random.Generator,
        image: NDArray[np.uint8],
        label: NDArray[np.uint8],
        superpixels: NDArray[np.signedinteger] | None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.signedinteger] | None]:
        """Augments one sample; sizes stay (H,W)."""
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        place = rng.uniform(size=2)
        flipped = rng.uniform() < self.flip
        if scale != 1:
            size = np.array(label.shape)
            window = size / scale
            start = place * (size - window)
            box = (start[1], start[0], start[1] + window[1], start[0] + window[0])
            picture = Image.fromarray(image).transform(
                (label.shape[1], label.shape[0]),
                Image.Transform.EXTENT,
                box,
                Image.Resampling.BILINEAR,
            )
            image = np.asarray(picture)
            rows, cols = (
                np.floor(start[i] + (np.arange(size[i]) + 0.5) / scale).astype(int) for i in (0, 1)
            )
            label = _take(label, rows, cols, IGNORE)
            if superpixels is not None:
                superpixels = _take(superpixels, rows, cols, NO_SUPERPIXEL)
        if flipped:
            image, label = image[:, ::-1], label[:, ::-1]
            superpixels = None if superpixels is None else superpixels[:, ::-1]
        if self.colour:
            image = self._recolour(rng, image)
        return image, label, superpixels

    def _recolour(self, rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Changes brightness, contrast, saturation and cast by one affine map of the colours."""
        brightness, contrast, saturation = 1 + self.colour * rng.uniform(-1, 1, 3)
        cast = 1 + self.colour / 2 * rng.uniform(-1, 1, 3)
        matrix = brightness * (saturation * np.eye(3) + (1 - saturation) / 3) * cast
        colours = image.reshape(-1, 3).astype(np.float32) @ matrix.astype(np.float32)
        mean = colours.mean()
        colours = mean + contrast * (colours - mean)
        return colours.clip(0, 255).round().astype(np.uint8).reshape(image.shape)


def _take(array: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any], fill: int) -> NDArray[Any]:
    """Returns array[rows, cols], and `fill` outside of the array."""
    taken = array.take(rows, 0, mode="clip").take(cols, 1, mode="clip")
    taken[(rows < 0) | (rows >= array.shape[0])] = fill
    taken[:, (cols < 0) | (cols >= array.shape[1])] = fill
    return taken


class SegmentationDataset(Dataset[Batch]):
    """Photos, labels and superpixel maps of one split at one size.

    The randomness of a sample depends only on the seed and on its place in the training stream, not
    on worker processes or on earlier samples.

    Args:
        records: The files.
        image_size: (H, W) of every sample.
        superpixels: Parameters of the superpixel maps.
        store: Store of these records. Whatever it does not contain is read from the files, and
            superpixels are computed after augmentation.
        augmentation: Augmentation of the samples; None for no augmentation.
        seed: Random seed of the augmentation.
        variants: Number of augmented versions of each photo. Successive passes use them in turn.
            None draws a new version every time.
        native_labels: Also return the label at the size of its file.

    Raises:
        ValueError: `variants` is below 1.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_size: tuple[int, int],
        superpixels: Superpixels,
        store: SampleStore | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        variants: int | None = None,
        native_labels: bool = False,
    ) -> None:
        if variants is not None:
            whole("data.variants", variants, 1)
        self.records, self.image_size = list(records), image_size
        self.superpixels, self.store = superpixels, store
        self.augmentation, self.seed = augmentation, seed
        self.variants, self.native_labels = variants, native_labels

    @property
    def identity(self) -> str:
        """Hash of everything that decides images and labels of the samples."""
        augmented = self.augmentation is not None and (asdict(self.augmentation), self.seed)
        settings = [self.image_size, augmented, self.variants]
        files = [
            [file_identity(r.image), file_identity(r.label), r.label_map.table, r.upright]
            for r in self.records
        ]
        return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Makes one sample.

        Args:
            key: Index, or (index, place in the training stream).

        Returns:
            image (3,H,W) float32 in [0,1]; label (H,W) int64; superpixels (H,W) int64; space, the
            number of the label space; path; with `native_labels` native_label (h,w) uint8.
        """
        index, place = key if isinstance(key, tuple) else (key, 0)
        record = self.records[index]
        stored = {} if self.store is None else self.store[index]
        if "image" in stored:
            image, label = stored["image"], stored["label"]
            native = read_classes(record) if self.native_labels else label
        else:
            image, native = read_record(record)
            image = resize_image(image, self.image_size)
            label = resize_label(native, self.image_size)
        # Signed, because padding is -1. The final type is four times as large and comes last.
        superpixels = stored["superpixels"].astype(np.int16) if "superpixels" in stored else None
        if self.augmentation is not None:
            draw = (place,) if self.variants is None else (index, self.variant(place))
            rng = np.random.default_rng((self.seed, *draw))
            image, label, superpixels = self.augmentation(rng, image, label, superpixels)
        if superpixels is None:
            superpixels = self.superpixels(np.ascontiguousarray(image)).astype(np.int16)
        planes = image.transpose(2, 0, 1).astype(np.float32, order="C")
        sample = {
            "image": torch.from_numpy(planes).div_(255),
            "label": torch.from_numpy(label.astype(np.int64)),
            "superpixels": torch.from_numpy(superpixels.astype(np.int64)),
            "space": record.space,
            "path": str(record.image),
        }
        return sample | {"native_label": torch.tensor(native)} if self.native_labels else sample

    def variant(self, place: int) -> int:
        """Returns the number of the augmented version at a place in the training stream."""
        return place // len(self) % (self.variants or 1)


class StreamSampler(Sampler[tuple[int, int]]):
    """An endless stream of shuffled cycles over the records, cut into epochs of a fixed length.

    Epoch e is always the same part of the stream, so a resumed run continues where it stopped, and
    all batches are full.

    A cycle has as many places as there are records. With `balance="photos"` it holds every record
    once. Otherwise each set of a mixture gets a share of the places, proportional to the square
    root of its number of records ("sqrt") or the same for all sets ("even"). The records of a set
    then come from an endless stream of shuffled passes over this set, which runs on from cycle to
    cycle.

    Args:
        sets: Number of the set that each record belongs to.
        epoch_length: Samples per epoch, over all ranks.
        seed: Random seed of the shuffling.
        rank: Number of this process, which takes every `world_size`-th sample.
        world_size: Number of processes.
        balance: How often each set is drawn.
    """

    def __init__(
        self,
        sets: Sequence[int],
        epoch_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        balance: SetBalance = "photos",
    ) -> None:
        self.num_records, self.epoch_length, self.seed = len(sets), epoch_length, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self._skipped = (0, 0)  # number of an epoch, and of its first samples that are left out
        self.balance = balance
        self.members = [np.flatnonzero(np.equal(sets, number)) for number in np.unique(sets)]
        sizes = np.array([len(members) for members in self.members])
        self.places = shares(self.num_records, sizes**0.5 if balance == "sqrt" else sizes**0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def resume_at(self, epoch: int, samples: int) -> None:
        """Sets the epoch, and leaves out its first samples.

        Args:
            epoch: Number of the epoch that an interrupted training was in.
            samples: Samples of this epoch that it had trained on, over all ranks.
        """
        self.epoch, self._skipped = epoch, (epoch, samples)

    def __len__(self) -> int:
        return self.epoch_length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start = self.epoch * self.epoch_length
        skipped = self._skipped[1] if self.epoch == self._skipped[0] else 0
        order: list[int] = []
        shuffled = -1  # the cycle that `order` holds
        places = range(start + skipped + self.rank, start + self.epoch_length, self.world_size)
        for place in places:
            current = place // self.num_records
            if current != shuffled:
                order, shuffled = self._cycle(current).tolist(), current
            yield order[place % self.num_records], place

    def _cycle(self, cycle: int) -> NDArray[np.int64]:
        """The records of one cycle, in their order in the stream."""
        if self.balance == "photos":
            return np.random.default_rng((self.seed, cycle)).permutation(self.num_records)
        drawn = [
            self._draw(number, cycle * places, places) for number, places in enumerate(self.places)
        ]
        return np.random.default_rng((self.seed, 0, cycle)).permutation(np.concatenate(drawn))

    def _draw(self, number: int, start: int, count: int) -> NDArray[np.int64]:
        """Entries start..start+count-1 of the endless stream of one set."""
        members = self.members[number]
        first, last = start // len(members), (start + count - 1) // len(members)
        passes = [
            np.random.default_rng((self.seed, number + 1, each)).permutation(members)
            for each in range(first, last + 1)
        ]
        return np.concatenate(passes)[start - first * len(members) :][:count]


def shares(total: int, weights: NDArray[Any]) -> list[int]:
    """Splits a number into whole shares in proportion to weights, by the largest remainder.

    >>> shares(10, np.array([1.0, 1.0, 1.0]))
    [4, 3, 3]
    """
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    largest = np.argsort(whole - exact, kind="stable")  # of equal remainders the first
    whole[largest[: total - whole.sum()]] += 1
    return [int(share) for share in whole]


@dataclass(frozen=True)
class Collate:
    """Stacks samples and builds the sparse pooling matrices of the batch, in a worker process.

    Attributes:
        num_superpixels: S, number of rows per image.
        num_levels: Number of levels of the extractor's pyramid; 0 leaves the matrices out.
        flat: Make a `FlatBatch` with padded matrices, so that all batches have the same layout.
        neighbours: Also find the pairs of touching superpixels.
    """

    num_superpixels: int
    num_levels: int = 0
    flat: bool = False
    neighbours: bool = False

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        """Makes a batch.

        Returns:
            image (B,3,H,W); label and superpixels (B,H,W); space (B,); path; pooling, one
            `PoolingWeights` per level; native_label, a list, if the samples have it; neighbours, if
            asked for.
        """
        native = [sample.pop("native_label") for sample in samples if "native_label" in sample]
        batch: dict[str, Any] = default_collate(samples)
        if native:
            batch["native_label"] = native
        if self.num_levels:
            superpixels = batch["superpixels"]
            sizes = level_sizes(superpixels.shape[1:], self.num_levels)
            batch["pooling"] = pooling_weights(
                superpixels, self.num_superpixels, sizes, padded=self.flat
            )
        if self.neighbours:
            batch["neighbours"] = find_neighbours(batch["superpixels"], self.num_superpixels)
        if self.flat:
            flat = FlatBatch.of(batch)
            share_memory(flat.buffer)
            return flat
        share_memory(batch)
        return batch


def level_sizes(image_size: Sequence[int], num_levels: int) -> list[tuple[int, int]]:
    """Sizes (h, w) of the levels of an extractor's pyramid, each half the size before, rounded up.

    Args:
        image_size: (H, W) of the photo.
        num_levels: Number of levels.

    >>> level_sizes((50, 70), 3)
    [(25, 35), (13, 18), (7, 9)]
    """
    height, width = image_size
    scales = [2**level for level in range(1, num_levels + 1)]
    return [(math.ceil(height / scale), math.ceil(width / scale)) for scale in scales]
