"""Photos a second of the training loader: decoded for every batch, or packed once."""

import copy
from collections.abc import Sequence
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.measure import Function, ratio, times_in_turn
from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch, SegmentationDataset
from softfeat.data.records import read_record, resize_label
from softfeat.imaging.images import read_image, resize_image
from softfeat.models.extractor import Extractor

_BASE = "one thread: decode, resize, augment"


def _read(dataset: SegmentationDataset, count: int) -> None:
    """What no loader can do without where nothing is packed: photos and labels alone."""
    for place in range(count):
        image, label = read_record(dataset.records[place % len(dataset)])
        image = resize_image(image, dataset.image_size)
        label = resize_label(label, dataset.image_size)
        if dataset.augmentation is not None:
            dataset.augmentation(np.random.default_rng(place), image, label, None)


def _epoch(batches: DataLoader[Batch]) -> None:
    for _ in batches:
        pass


def loader(
    data: SegmentationData, extractor: Extractor, num_workers: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Draws the same training batches, pooling matrices included, in every way.

    Workers stay between the rounds, as between the epochs of a training.

    Args:
        data: photos; packed and not packed here, whatever it says.
        extractor: whose levels the matrices are for.
        num_workers: loader processes, one pair of rows each.
        rounds: counted ones.

    Returns:
        Title, settings, rows (photos a second) and ratios.
    """
    count = data.steps_per_epoch * data.batch_size
    sides: dict[str, Function] = {}
    for name, pack in (("decoded", False), ("packed", True)):
        data.pack = pack
        data.prepare_data()
        data.setup("fit")
        data.num_levels = len(extractor.level_channels)
        for workers in num_workers:
            ready = copy.copy(data)
            ready.num_workers = workers
            sides[f"{name}, num_workers={workers}"] = partial(_epoch, ready.train_dataloader())
    dataset = data.datasets["train"]
    sides[_BASE] = partial(_read, dataset, count)

    seconds = times_in_turn(sides, rounds)
    pairs = [(f"decoded, num_workers={n}", f"packed, num_workers={n}") for n in num_workers]
    files = [record.image for record in dataset.records]
    first = read_image(files[0])
    kilobytes = mean(file.stat().st_size for file in files) / 1e3
    kinds = ", ".join(sorted({file.suffix for file in files}))
    assert dataset.store is not None
    return {
        "title": "Loading of training batches",
        "rows": [
            {
                "way": name,
                "photos/s (median)": round(count / median(times)),
                "photos/s (min)": round(count / max(times)),
                "photos/s (max)": round(count / min(times)),
            }
            for name, times in seconds.items()
        ],
        "ratios": {
            **{f"{fast} / decoded": ratio(seconds[slow], seconds[fast]) for slow, fast in pairs},
            **{f"{fast} / one thread": ratio(seconds[_BASE], seconds[fast]) for _, fast in pairs},
        },
        "settings": {
            "files": f"{len(files)} {kinds}, the first {first.shape[0]}x{first.shape[1]}, "
            f"{kilobytes:.0f} kB on average",
            "image": "x".join(map(str, data.image_size)),
            "packed": f"{dataset.store.dtype.itemsize / 1e3:.0f} kB a photo, in the page cache",
            "batch": data.batch_size,
            "superpixels": f"{data.superpixels.count}, {data.superpixels.mode}",
            "photos a round": count,
            "rounds": rounds,
        },
    }
