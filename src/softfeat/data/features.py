"""Outputs of a frozen network, computed once for every photo of a split and read memory-mapped.

A store is a `CacheFolder` named by the hash of everything that decides its content: photos, labels,
how they are resized and augmented, and the network. It is filled in order, with a count of the rows
that are safely on disk.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softfeat.atomic import replaced
from softfeat.data.cache_folder import CacheFolder, reserve
from softfeat.data.dataset import Batch, SegmentationDataset
from softfeat.data.layouts import DataError
from softfeat.data.records import read_classes

_FORMAT = 1
_INDEX, _ROWS, _LABELS = "index.json", "rows.txt", "labels.u8"
_FLUSH_EVERY = 50  # batches


class FrozenNetwork(Protocol):
    """A network that is not trained, called without gradients and in eval mode."""

    @property
    def identity(self) -> str:
        """Hash of everything that decides the outputs."""

    def to(self, device: torch.device) -> "FrozenNetwork":
        """Moves the network to a device."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Computes maps (B,C,h,w) from photos (B,3,H,W) in [0,1]."""


class FeatureStore(Dataset[Batch]):
    """Features and labels of a split, one row for each photo in each augmented version.

    A row holds the maps in half precision, channels last, and the label as uint8.

    Args:
        folder: Folder of all stores.
        dataset: The photos.
        identity: Hash that identifies the network.
    """

    def __init__(self, folder: str | Path, dataset: SegmentationDataset, identity: str) -> None:
        self.dataset = dataset
        key = hashlib.sha256(f"{_FORMAT} {identity} {dataset.identity}".encode()).hexdigest()[:20]
        self.path = Path(folder) / key
        self.num_rows = len(dataset) * (dataset.variants or 1)
        self._arrays: tuple[list[NDArray[np.float16]], NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_arrays": None}  # every worker maps the files itself

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> Batch:
        """Reads a batch in one copy from the file.

        Args:
            keys: Indices, or pairs (index, place in the training stream).

        Returns:
            features, list of (B,C,h,w) float16 in channels-last memory; label (B,H,W) int64; path;
            native_label where the dataset has it.
        """
        if self._arrays is None:
            self._arrays = self._open(self.path, "r")
        maps, labels = self._arrays
        places = [key if isinstance(key, tuple) else (key, 0) for key in keys]
        rows = [self.dataset.variant(place) * len(self) + index for index, place in places]
        records = [self.dataset.records[index] for index, _ in places]
        batch: dict[str, Any] = {
            "features": [torch.from_numpy(m[rows]).permute(0, 3, 1, 2) for m in maps],
            "label": torch.from_numpy(labels[rows]).long(),
            "path": [str(record.image) for record in records],
        }
        if self.dataset.native_labels:
            batch["native_label"] = [torch.from_numpy(read_classes(r)) for r in records]
        return batch

    @staticmethod
    def collate(batch: Any) -> Batch:
        """Returns the batch as it is: `__getitems__` has already made it."""
        return batch

    @property
    def complete(self) -> bool:
        """Whether all features are stored."""
        return CacheFolder(self.path).complete

    def _open(self, folder: Path, mode: Any) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        try:
            shapes = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["shapes"]
            if not all(type(n) is int and 0 < n < 2**20 for h, w, c in shapes for n in (h, w, c)):
                raise ValueError("not sizes")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"feature store {folder / _INDEX} was damaged after it was written ({error}): "
                f"delete the folder {folder}; the next run computes it again"
            ) from error
        size = self.dataset.image_size
        arrays: list[NDArray[Any]] = []
        for name, dtype, shape in [
            *((f"{i}.f16", np.float16, shape) for i, shape in enumerate(shapes)),
            (_LABELS, np.uint8, size),
        ]:
            expected = self.num_rows * math.prod(shape) * np.dtype(dtype).itemsize
            file = folder / name
            if not file.is_file() or file.stat().st_size != expected:
                raise DataError(
                    f"feature store {file} was damaged after it was written: delete the folder "
                    f"{folder}; the next run computes it again"
                )
            arrays.append(np.memmap(file, dtype, mode, shape=(self.num_rows, *shape)))
        return arrays[:-1], arrays[-1]

    @torch.no_grad()
    def prepare(
        self,
        function: Callable[[Tensor], list[Tensor]],
        make_loader: Callable[[Sequence[tuple[int, int]]], DataLoader[Batch]],
        device: torch.device,
        split: str,
    ) -> None:
        """Computes what is missing; waits if another process is already computing it.

        Args:
            function: Computes maps (B,C,h,w) from photos (B,3,H,W).
            make_loader: Makes a loader of `dataset` from keys (index, place).
            device: Device of the function.
            split: Name of the split, for the progress bar.

        Raises:
            DataError: The cache cannot be written or is too small.
            ValueError: The features are too large for half precision.
        """
        if self.complete:
            return
        sample = function(self.dataset[0]["image"][None].to(device))
        shapes = [(m.shape[2], m.shape[3], m.shape[1]) for m in sample]
        pixels = int(np.prod(self.dataset.image_size))
        row_bytes = 2 * sum(int(np.prod(shape)) for shape in shapes) + pixels
        num_bytes = self.num_rows * row_bytes
        with CacheFolder(self.path).filling(num_bytes) as partial:
            if partial:
                description = f"features ({split}), {num_bytes / 1e9:.1f} GB"
                self._compute(partial, function, make_loader, device, description, shapes)

    def _compute(
        self,
        partial: Path,
        function: Callable[[Tensor], list[Tensor]],
        make_loader: Callable[[Sequence[tuple[int, int]]], DataLoader[Batch]],
        device: torch.device,
        description: str,
        shapes: list[tuple[int, int, int]],
    ) -> None:
        rows_file, index_file = partial / _ROWS, partial / _INDEX
        done = int(rows_file.read_text()) if rows_file.is_file() else 0
        if not done:
            sizes = [(f"{i}.f16", 2 * int(np.prod(s))) for i, s in enumerate(shapes)]
            sizes.append((_LABELS, int(np.prod(self.dataset.image_size))))
            for name, row_bytes in sizes:
                with (partial / name).open("wb") as file:
                    reserve(file.fileno(), self.num_rows * row_bytes)
            photos = [str(record.image) for record in self.dataset.records]
            index_file.write_text(json.dumps({"shapes": shapes, "photos": photos}), "utf-8")
        maps, labels = self._open(partial, "r+")

        keys = [(row % len(self), row) for row in range(done, self.num_rows)]
        loader = make_loader(keys)
        for number, batch in enumerate(track(loader, description), 1):
            end = done + len(batch["path"])
            for store, level in zip(maps, function(batch["image"].to(device)), strict=True):
                half = level.permute(0, 2, 3, 1).half()
                if not half.isfinite().all():
                    raise ValueError(
                        "features are too large for half precision: train with "
                        "model.cache_features=false"
                    )
                store[done:end] = half.cpu().numpy()
            labels[done:end] = batch["label"].byte().numpy()
            done = end
            if number % _FLUSH_EVERY == 0 or done == self.num_rows:
                for array in (*maps, labels):
                    array.flush()  # type: ignore[attr-defined]
                with replaced(rows_file) as file:
                    file.write_text(str(done))
