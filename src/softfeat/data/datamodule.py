"""The LightningDataModule of all trainings and evaluations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from softfeat.checks import flag, one_of, whole, whole_numbers
from softfeat.data.check import check_splits
from softfeat.data.dataset import (
    Augmentation,
    Batch,
    Collate,
    SegmentationDataset,
    SetBalance,
    StreamSampler,
)
from softfeat.data.features import FeatureStore, FrozenNetwork
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import DataError, Layout, Record, label_spaces
from softfeat.data.parallel import check_open_files, map_in_workers, worker_count
from softfeat.data.records import read_classes
from softfeat.data.store import SampleStore
from softfeat.imaging.slic import Superpixels
from softfeat.interrupt import leave_signals_to_parent

SPLITS = ("train", "val", "test")
Exif = Literal["apply", "ignore"]


class _CountClasses:
    """Counts the pixels of each class in the label of a record, in a worker process."""

    def __call__(self, record: Record) -> tuple[int, NDArray[np.int64]]:
        return record.space, np.bincount(read_classes(record).ravel(), minlength=256)


def _report(problems: Mapping[str, Sequence[str]]) -> None:
    """Raises a DataError that counts the problems of each split, if there are any."""
    lines = [line for split in problems for line in problems[split]]
    if lines:
        counts = ", ".join(f"{split}: {len(each)}" for split, each in problems.items())
        raise DataError(
            f"the data set cannot be used. Problems by split: {counts}. python -m src.precompute "
            "lists all of them",
            lines,
        )


class SegmentationData(pl.LightningDataModule):
    """Photos with labels and superpixels, from any layout.

    A batch is a dict: image (B,3,H,W) float32 RGB in [0,1]; label (B,H,W) int64 with classes
    0..K-1, CONTRAST and IGNORE (`ops.labels`); superpixels (B,H,W) int64 with ids 0..S-1, and -1 in
    padding; space (B,) int64, the number of the label space in `label_spaces`; path, a list of B
    names. With `num_levels` it also has pooling, one `PoolingWeights` for each pyramid level. With
    `native_labels` it also has native_label, a list of B label maps (h,w) uint8 at the size of
    their files. With `neighbours` it also has neighbours, the pairs of touching superpixels. With
    `frozen`, batches of training and validation have `features` in place of image
    and superpixels.

    Args:
        layout: Makes the layout; called with `root=`.
        root: Folder of the data set.
        cache_dir: Folder of the stores and of the scenes.
        image_size: (H, W) to which photos are resized.
        batch_size: Photos per batch and process.
        superpixels: Parameters of the superpixel maps.
        augmentation: Augmentation of the train split; None for no augmentation.
        balance: How often each set of a mixture is drawn in training. "photos": every photo equally
            often. "sqrt": each set in proportion to the square root of its number of photos.
            "even": all sets equally often.
        exif: Whether labels were drawn on photos that are turned as their EXIF orientation says
            ("apply") or on photos as they are stored ("ignore").
        hold_back: Validate on a tenth of the train split, chosen by a hash of the file names, and
            train on the rest (`data.held_back`). Recipes are chosen this way, so that the
            validation split stays unseen.
        steps_per_epoch: Optimiser steps between two validations.
        num_workers: Number of processes that load photos and compute maps; None for one per core.
        test_split: Split that a test reads.
        variants: Number of augmented versions of each training photo. Successive passes use them in
            turn. None draws a new version every time.
        native_labels: Validate and test on labels at their own resolution.
        pack: Store resized photos and labels with the maps, so that training decodes no photo.
        seed: Random seed of shuffling and augmentation.
        num_levels: Number of levels of the extractor's pyramid; 0 leaves `pooling` out.
        flat: Make batches that can be replayed from a CUDA graph (`FlatBatch`).
        neighbours: Also find the pairs of touching superpixels (`ops.superpixel_graph`).
        frozen: Network whose outputs are computed once and stored, then read by training and
            validation in place of photos; None to read photos.
        features_dir: Folder of these outputs; None for a folder of the cache.

    Raises:
        ValueError: An argument is out of range, or `frozen` is combined with endless augmentation.
    """

    def __init__(
        self,
        layout: Callable[..., Layout],
        root: str | Path | None,
        cache_dir: str | Path,
        image_size: Sequence[int] = (224, 224),
        batch_size: int = 4,
        superpixels: Superpixels = Superpixels(),  # noqa: B008 - frozen
        augmentation: Augmentation | None = None,
        balance: SetBalance = "photos",
        exif: Exif = "apply",
        hold_back: bool = False,
        steps_per_epoch: int = 250,
        num_workers: int | None = None,
        test_split: str = "test",
        variants: int | None = None,
        native_labels: bool = False,
        pack: bool = False,
        seed: int = 0,
        num_levels: int = 0,
        flat: bool = False,
        neighbours: bool = False,
        frozen: FrozenNetwork | None = None,
        features_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        whole_numbers("data.image_size", image_size, 16, 16384, count=2)
        whole("data.batch_size", batch_size, 1, 65536)
        whole("data.steps_per_epoch", steps_per_epoch, 1)
        if num_workers is not None:
            whole("data.num_workers", num_workers, 0, 256)
        if variants is not None:
            whole("data.variants", variants, 1)
        whole("data.seed", seed, 0)
        one_of("data.balance", balance, get_args(SetBalance))
        one_of("data.exif", exif, get_args(Exif))
        one_of("data.test_split", test_split, SPLITS)
        flag("data.hold_back", hold_back)
        flag("data.native_labels", native_labels)
        flag("data.pack", pack)
        if not callable(layout):
            raise ValueError(f"data.layout={layout}: choose one of the files in conf/data")
        if not isinstance(superpixels, Superpixels):
            raise ValueError(
                f"data.superpixels={superpixels}: set data.superpixels.count and so on"
            )
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise ValueError(
                f"data.augmentation={augmentation}: set data.augmentation.flip and so on, or null"
            )
        if frozen is not None and augmentation is not None and variants is None:
            raise ValueError(
                "model.cache_features=true stores each training photo in data.variants augmented "
                "versions: set data.variants=4, or data.augmentation=null and data.variants=1"
            )
        self.layout, self.hold_back = layout(root=root), hold_back
        self.cache_dir, self.exif = Path(cache_dir), exif
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size, self.seed = batch_size, seed
        self.num_workers = worker_count(num_workers)
        check_open_files(self.num_workers)
        self.superpixels, self.augmentation = superpixels, augmentation
        self.balance, self.steps_per_epoch, self.test_split = balance, steps_per_epoch, test_split
        self.variants, self.native_labels, self.pack = variants, native_labels, pack
        self.num_levels, self.flat, self.neighbours = num_levels, flat, neighbours
        self.frozen = frozen
        self.features_dir = Path(features_dir or self.cache_dir / "features")
        self.datasets: dict[str, SegmentationDataset] = {}
        self.features: dict[str, FeatureStore] = {}

    def records(self, split: str) -> list[Record]:
        """The photos of a split, after `hold_back`."""
        held_back = self.hold_back and split != "test"
        records = self.layout.records("train" if held_back else split)
        if self.exif == "ignore":
            records = [replace(record, upright=False) for record in records]
        if not held_back:
            return records
        chosen = [each for each in records if is_held_back(each.image.stem) == (split == "val")]
        if not chosen:
            raise DataError(
                f"data.hold_back=true leaves no photo for {split}: {len(records)} photos are too "
                "few to hold a tenth of them back; set data.hold_back=false"
            )
        return chosen

    def store(self, split: str) -> SampleStore:
        """The store of a split, whether it is computed or not."""
        records = self.records(split)
        maps = None if self.pack and self.superpixels.mode == "online" else self.superpixels
        return SampleStore(self.cache_dir, records, self.image_size, maps, self.pack)

    @property
    def _stored(self) -> bool:
        return self.pack or self.superpixels.mode == "stored"

    def prepare_data(self, splits: Sequence[str] | None = None) -> None:
        """Makes scenes, checks all files, and makes missing stores, in worker processes.

        Lightning calls this in one process of each node; the others wait.

        Args:
            splits: Splits that will be read. By default a training reads all, a test its own.

        Raises:
            DataError: Files of the data set cannot be used. The message covers all splits.
        """
        if splits is None:
            tests_only = self.trainer is not None and self.trainer.testing
            splits = [self.test_split] if tests_only else ["train", "val", self.test_split]
        self.check(splits)
        if self._stored:
            for _ in self.prepare_stores(splits):
                pass

    def check(self, splits: Sequence[str] = SPLITS) -> None:
        """Makes scenes and checks the files of all splits before anything is computed from them.

        Args:
            splits: Names of the splits.

        Raises:
            DataError: Files of the data set cannot be used. The message covers all splits.
        """
        self.layout.prepare()
        self.superpixels.check_backend()
        records: dict[str, list[Record]] = {}
        missing: dict[str, list[str]] = {}
        for split in dict.fromkeys(splits):
            try:
                found = self.records(split)
            except DataError as error:
                lines = error.problems or [str(error)]
                if lines not in missing.values():
                    missing[split] = lines
                continue
            # The test split may be the validation split.
            if found not in records.values():
                records[split] = found
        needs_pairs = self.num_levels > 0
        check = partial(check_splits, records, self.cache_dir, self.num_workers)
        # Photos are decoded when they are stored, or once more here to report all problems at once.
        problems = check(decode=not self._stored, needs_pairs=needs_pairs)
        if self._stored and (problems or missing):
            problems = check(decode=True, needs_pairs=needs_pairs)
        _report(missing | problems)

    def prepare_stores(self, splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, SampleStore]]:
        """Makes the missing stores.

        Args:
            splits: Names of the splits.

        Yields:
            Name and store of each split without bad files.

        Raises:
            DataError: The cache cannot be written, or photos of any split cannot be decoded.
        """
        problems: dict[str, list[str]] = {}
        for split in dict.fromkeys(splits):
            store = self.store(split)
            try:
                store.prepare(self.num_workers, f"{store.kind} ({split})")
            except DataError as error:
                if not error.problems:  # the cache
                    raise
                problems[split] = error.problems
            else:
                yield split, store
        _report(problems)

    def setup(self, stage: str) -> None:
        """Opens the splits that `stage` needs; for "fit", also computes missing stored features.

        Raises:
            DataError: The features cannot be stored.
        """
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        for split in splits:
            source = self.test_split if split == "test" else split
            store = self.store(source) if self._stored else None
            records = store.records if store else self.records(source)
            self.datasets[split] = SegmentationDataset(
                records,
                self.image_size,
                self.superpixels,
                store,
                self.augmentation if split == "train" else None,
                self.seed,
                self.variants if split == "train" else None,
                self.native_labels and split != "train",
            )
        if stage == "fit" and self.frozen is not None:
            self._store_features(self.frozen)
        elif stage == "fit" and self.variants is not None:
            rank_zero_warn(
                f"data.variants={self.variants} without model.cache_features=true: training sees "
                "each photo in so many versions only. Set data.variants=null to draw a new version "
                "every time"
            )

    def _store_features(self, frozen: FrozenNetwork) -> None:
        """Computes what the frozen network gives for training and, if needed, for validation."""
        validates = self.trainer is None or self.trainer.limit_val_batches != 0
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        for split in ("train", "val") if validates else ("train",):
            dataset = self.datasets[split]
            store = FeatureStore(self.features_dir, dataset, frozen.identity)
            store.prepare(frozen.to(device), partial(self._loader, dataset), device, split)
            self.features[split] = store

    @property
    def label_spaces(self) -> list[tuple[str, ...]]:
        """Class names of each label space; a mixture has several."""
        return label_spaces(self.layout)

    def class_shares(self) -> Tensor:
        """Counts the classes in the label files of the train split.

        Returns:
            (K,) float64, the share of each class among the labelled pixels. The label spaces follow
            one another, and the shares of each add up to 1.
        """
        totals = [np.zeros(256, np.int64) for _ in self.label_spaces]
        records = self.records("train")
        counts = map_in_workers(_CountClasses(), records, self.num_workers, "classes (train)")
        for space, count in counts:
            totals[space] += count
        labelled = [t[: len(names)] for t, names in zip(totals, self.label_spaces, strict=True)]
        return torch.from_numpy(np.concatenate([count / max(1, count.sum()) for count in labelled]))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loads `steps_per_epoch` batches of the endless training stream."""
        dataset = self.datasets["train"]
        rank, world_size = self._rank()
        length = self.steps_per_epoch * self.batch_size * world_size
        sets = [record.space for record in dataset.records]
        sampler = StreamSampler(sets, length, self.seed, rank, world_size, self.balance)
        if self.trainer:  # a resumed run draws its first batches before it sets the epoch
            epoch: Any = self.trainer.fit_loop.epoch_progress.current
            batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            within = epoch.started > epoch.processed  # otherwise the epoch before is complete
            done = batches.processed * self.batch_size * world_size if within else 0
            sampler.resume_at(epoch.processed, done)
        return self._loader(self.features.get("train", dataset), sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Loads every photo once, in order; each of several processes takes its share."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Loads the test split, as `val_dataloader` does."""
        return self._evaluation_loader("test")

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        dataset = self.datasets[split]
        rank, world_size = self._rank()
        if (
            len(dataset) < world_size
        ):  # a process without a photo would make the others wait forever
            raise ValueError(
                f"the {split} split has {len(dataset)} photos for {world_size} processes: "
                f"set trainer.devices={len(dataset)}"
            )
        places = range(rank, len(dataset), world_size)
        stored = self.features.get(split) if split == "val" else None
        return self._loader(stored or dataset, places)

    def _loader(
        self,
        dataset: SegmentationDataset | FeatureStore,
        sampler: StreamSampler | Sequence[int] | Sequence[tuple[int, int]],
    ) -> DataLoader[Batch]:
        collate: Callable[[Any], Any]
        collate = Collate(self.superpixels.count, self.num_levels, self.flat, self.neighbours)
        num_workers = self.num_workers
        if isinstance(dataset, FeatureStore):
            # Read in this process: passing features on from a worker takes as long.
            collate, num_workers = dataset.collate, 0
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # seeds the workers, which draw nothing from it
            worker_init_fn=leave_signals_to_parent,
        )
