"""The one LightningDataModule that all training and evaluation shares."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from softfeat.data.dataset import (
    Augmentation,
    Batch,
    Collate,
    SegmentationDataset,
    SetBalance,
    StreamSampler,
)
from softfeat.data.features import FeatureStore
from softfeat.data.held_back import is_held_back
from softfeat.data.layouts import DataError, Layout, Record, label_spaces
from softfeat.data.parallel import map_in_workers, worker_count
from softfeat.data.records import check_label_exists, read_classes
from softfeat.data.store import SampleStore
from softfeat.imaging.slic import Superpixels

SPLITS = ("train", "val", "test")


class _CountClasses:
    """Pixels of each class in a record's label; what a worker does."""

    def __call__(self, record: Record) -> tuple[int, NDArray[np.int64]]:
        return record.space, np.bincount(read_classes(record).ravel(), minlength=256)


class SegmentationData(pl.LightningDataModule):
    """Photos with labels and superpixels of any layout.

    Batches are dicts: image (B,3,H,W) float32 RGB in [0,1]; label (B,H,W) int64, classes 0..K-1,
    CONTRAST and IGNORE (`ops.labels`); superpixels (B,H,W) int64, ids 0..S-1 and -1 in padding;
    space (B,) int64, which of the `label_spaces` the classes belong to; path, list of B names.
    After `pool_at`, also pooling, one `PoolingWeights` a pyramid level. With `native_labels`, also
    native_label, list of B label maps (h,w) uint8 as large as in their files. After
    `store_features`, batches of training and validation hold `features` in place of image and
    superpixels.

    Args:
        layout: makes the layout, called with `root=`.
        root: folder of the data set.
        cache_dir: where stores (and scenes) are kept.
        image_size: (H, W) that photos are resized to.
        batch_size: photos a batch and process.
        superpixels: parameters of the maps.
        augmentation: of the train split; None for none.
        balance: how often each set of a mixture is drawn in training. "photos": every photo equally
            often. "sqrt": each set in proportion to the square root of its number of photos.
            "even": all sets equally often.
        hold_back: Validate on a tenth of the train split, chosen by a hash of the file names, and
            train on the rest (`data.held_back`). Recipes are chosen this way, so that the
            validation split stays unseen.
        steps_per_epoch: optimiser steps between two validations.
        num_workers: loader processes, and processes that compute maps; None for one a core.
        test_split: the split that a test reads.
        variants: augmented versions of each training photo, of which passes take one after the
            other; None to draw anew each time.
        native_labels: validate and test on labels at their own resolution.
        pack: store resized photos and labels with the maps, so that training decodes no photo.
        seed: of shuffling and augmentation.
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
        hold_back: bool = False,
        steps_per_epoch: int = 250,
        num_workers: int | None = None,
        test_split: str = "test",
        variants: int | None = None,
        native_labels: bool = False,
        pack: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"data.image_size={list(image_size)}: give [height, width]")
        if balance not in get_args(SetBalance):
            raise ValueError(f"data.balance={balance}: choose {', '.join(get_args(SetBalance))}")
        if test_split not in SPLITS:
            raise ValueError(f"split {test_split}: choose {', '.join(SPLITS)}")
        self.layout, self.hold_back = layout(root=root), hold_back
        self.cache_dir = Path(cache_dir)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size, self.seed = batch_size, seed
        self.num_workers = worker_count(num_workers)
        self.superpixels, self.augmentation = superpixels, augmentation
        self.balance, self.steps_per_epoch, self.test_split = balance, steps_per_epoch, test_split
        self.variants, self.native_labels, self.pack = variants, native_labels, pack
        self.collate = Collate(superpixels.count)
        self.datasets: dict[str, SegmentationDataset] = {}
        self.features_dir = self.cache_dir / "features"
        self.features: dict[str, FeatureStore] = {}

    def records(self, split: str) -> list[Record]:
        """The photos of a split, after `hold_back`."""
        if not self.hold_back or split == "test":
            return self.layout.records(split)
        records = self.layout.records("train")
        chosen = [each for each in records if is_held_back(each.image.stem) == (split == "val")]
        if not chosen:
            raise DataError(
                f"data.hold_back=true leaves no photo for {split}: {len(records)} photos are too "
                "few to hold a tenth of them back; set data.hold_back=false"
            )
        return chosen

    def store(self, split: str) -> SampleStore:
        """What is stored of a split, computed or not."""
        records = self.records(split)
        maps = None if self.pack and self.superpixels.mode == "online" else self.superpixels
        return SampleStore(self.cache_dir, records, self.image_size, maps, self.pack)

    @property
    def _stored(self) -> bool:
        return self.pack or self.superpixels.mode == "stored"

    def prepare_data(self, splits: Sequence[str] = SPLITS) -> None:
        """Makes scenes and stores, in worker processes, where they are not made yet.

        Lightning calls it in one process a node; the others wait.

        Args:
            splits: those that will be read; a training reads all.
        """
        self.layout.prepare()
        self.superpixels.check_backend()
        if self._stored:
            for split in splits:
                store = self.store(split)
                store.prepare(self.num_workers, f"{store.kind} ({split})")

    def setup(self, stage: str) -> None:
        """Opens the splits that `stage` needs."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        for split in splits:
            source = self.test_split if split == "test" else split
            store = self.store(source) if self._stored else None
            records = store.records if store else self.records(source)
            if store is None:  # nothing has read the files yet
                for record in records:
                    check_label_exists(record)
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

    @property
    def label_spaces(self) -> list[tuple[str, ...]]:
        """Class names of each label space: one, but in a mixture."""
        return label_spaces(self.layout)

    def class_shares(self) -> Tensor:
        """Shares of the classes among the labelled pixels of the train split's files.

        Returns:
            (K,), those of the label spaces one behind the other, each adding up to 1.
        """
        totals = [np.zeros(256, np.int64) for _ in self.label_spaces]
        records = self.records("train")
        counts = map_in_workers(_CountClasses(), records, self.num_workers, "classes (train)")
        for space, count in counts:
            totals[space] += count
        known = [t[: len(names)] for t, names in zip(totals, self.label_spaces, strict=True)]
        return torch.from_numpy(np.concatenate([count / max(1, count.sum()) for count in known]))

    def pool_at(self, level_sizes: Sequence[tuple[int, int]], flat: bool = False) -> None:
        """Lets the workers build `pooling`.

        Args:
            level_sizes: (h, w) of the pyramid's levels.
            flat: make batches that can be replayed from a CUDA graph (`FlatBatch`).
        """
        self.collate = Collate(self.superpixels.count, level_sizes, flat)

    def store_features(
        self,
        function: Callable[[Tensor], list[Tensor]],
        identity: str,
        device: torch.device,
        splits: Sequence[str] = ("train", "val"),
    ) -> None:
        """Lets training and validation read features in place of photos, computed here once.

        Args:
            function: of photos (B,3,H,W) on `device`, gives maps (B,C,h,w); a network in eval mode.
            identity: of the function; other features are kept apart.
            device: where it runs.
            splits: train, or train and val.

        Raises:
            DataError: the cache cannot be written or is too small.
            ValueError: training photos are augmented anew each time.
        """
        if self.augmentation is not None and self.variants is None:
            raise ValueError(
                "model.cache_features=true stores each training photo in data.variants augmented "
                "versions: set data.variants=4, or data.augmentation=null and data.variants=1"
            )
        for split in splits:
            dataset = self.datasets[split]
            store = FeatureStore(self.features_dir, dataset, identity)
            loader = partial(self._loader, dataset)
            store.prepare(function, loader, device, f"features ({split})")
            self.features[split] = store

    def train_dataloader(self) -> DataLoader[Batch]:
        """A stretch of the endless training stream."""
        dataset = self.datasets["train"]
        rank, world_size = self._rank()
        length = self.steps_per_epoch * self.batch_size * world_size
        sets = [record.space for record in dataset.records]
        sampler = StreamSampler(sets, length, self.seed, rank, world_size, self.balance)
        if self.trainer:  # a resumed run draws its first batches before it sets the epoch
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return self._loader(self.features.get("train", dataset), sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every photo once, in order; of several processes each takes its share."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """As `val_dataloader`."""
        return self._evaluation_loader("test")

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        dataset = self.datasets[split]
        rank, world_size = self._rank()
        if len(dataset) < world_size:  # the others would wait for ever for one without a photo
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
        collate: Callable[[Any], Any] = self.collate
        num_workers = self.num_workers
        if isinstance(dataset, FeatureStore):
            # Read in this process: to hand features over from a worker takes as long.
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
        )
