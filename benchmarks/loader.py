"""Photos per second of the training loader: decoded for every batch, or packed once."""

import copy
from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.measure import Function, cells, ratio, times_in_turn
from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch, SegmentationDataset
from softfeat.data.records import read_record, resize_label
from softfeat.imaging.images import read_image, resize_image
from softfeat.models.extractor import Extractor

_BASE = "one thread: decode, resize, augment"


def _read(dataset: SegmentationDataset, count: int) -> None:
    """Reads, resizes and augments photos and labels, which every unpacked loader has to do."""
    for number in range(count):
        image, label = read_record(dataset.records[number % len(dataset)])
        image = resize_image(image, dataset.image_size)
        label = resize_label(label, dataset.image_size)
        if dataset.augmentation is not None:
            dataset.augmentation(np.random.default_rng(number), image, label, None)


def _epoch(batches: DataLoader[Batch]) -> None:
    for _ in batches:
        pass


def loader(
    data: SegmentationData, extractor: Extractor, num_workers: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Loads the same training batches, pooling matrices included, in every way.

    Workers stay alive between rounds, as they do between the epochs of a training.

    Args:
        data: Photos; measured both packed and not packed.
        extractor: Network whose levels the pooling matrices are for.
        num_workers: Numbers of loader processes, with two rows each.
        rounds: Number of counted rounds.

    Returns:
        Result with one row per way, in photos per second.
    """
    sides = _loaders(data, extractor, num_workers)
    count = data.steps_per_epoch * data.batch_size
    dataset = data.datasets["train"]
    sides[_BASE] = partial(_read, dataset, count)
    seconds = times_in_turn(sides, rounds)
    pairs = [(_way(False, workers), _way(True, workers)) for workers in num_workers]
    assert dataset.store is not None
    return {
        "title": "Loading of training batches",
        "rows": [
            {"way": name, **cells([count / s for s in times], "photos/s", None)}
            for name, times in seconds.items()
        ],
        "ratios": {
            **{f"{fast} / decoded": ratio(seconds[slow], seconds[fast]) for slow, fast in pairs},
            **{f"{fast} / one thread": ratio(seconds[_BASE], seconds[fast]) for _, fast in pairs},
        },
        "settings": {
            "files": _files(dataset),
            "image": size_text(data.image_size),
            "packed": f"{dataset.store.dtype.itemsize / 1e3:.0f} kB a photo, in the page cache",
            "batch": data.batch_size,
            "superpixels": f"{data.superpixels.count}, {data.superpixels.mode}",
            "photos a round": count,
            "rounds": rounds,
        },
    }


def _loaders(
    data: SegmentationData, extractor: Extractor, num_workers: Sequence[int]
) -> dict[str, Function]:
    """Makes a function for each loader that runs through an epoch."""
    loaders: dict[str, Function] = {}
    for pack in (False, True):
        data.pack = pack
        data.prepare_data()
        data.setup("fit")
        data.num_levels = len(extractor.level_channels)
        for workers in num_workers:
            side = copy.copy(data)
            side.num_workers = workers
            loaders[_way(pack, workers)] = partial(_epoch, side.train_dataloader())
    return loaders


def _way(pack: bool, workers: int) -> str:
    return f"{'packed' if pack else 'decoded'}, num_workers={workers}"


def _files(dataset: SegmentationDataset) -> str:
    """Describes the photos of a data set."""
    files = [record.image for record in dataset.records]
    height, width = read_image(files[0]).shape[:2]
    kilobytes = mean(file.stat().st_size for file in files) / 1e3
    kinds = ", ".join(sorted({file.suffix for file in files}))
    return f"{len(files)} {kinds}, the first {height}x{width}, {kilobytes:.0f} kB on average"
