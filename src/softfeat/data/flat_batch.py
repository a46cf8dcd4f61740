"""Batches in one piece of memory."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softfeat.ops.sizes import ceil_div

_ALIGNMENT = 256  # bytes, as of the allocators' own tensors


class Place(NamedTuple):
    """The place of a tensor in the buffer: first byte, shape and type."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """Byte after its last one."""
        return self.start + prod(self.shape) * self.dtype.itemsize


class FlatBatch(Mapping[str, Any]):
    """A batch whose tensors are views of one buffer.

    A batch with pooling matrices has about thirty tensors. Each tensor that a worker sends to the
    training costs a file descriptor, a piece of pinned memory and a copy to the GPU; the buffer
    costs them once.

    Args:
        buffer: (bytes,) uint8.
        layout: The entries with a `Place` for every tensor; lists and named tuples are kept.
        others: The entries without tensors.

    >>> batch = FlatBatch.of({"label": torch.arange(6).view(2, 3), "path": ["a", "b"]})
    >>> batch["label"].tolist(), batch["path"]
    ([[0, 1, 2], [3, 4, 5]], ['a', 'b'])
    """

    def __init__(self, buffer: Tensor, layout: dict[str, Any], others: dict[str, Any]) -> None:
        self.buffer, self.layout, self.others = buffer, layout, others

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "FlatBatch":
        """Copies the tensors of a batch on the CPU into one buffer."""
        tensors: list[tuple[Place, Tensor]] = []

        def place(value: Any) -> Any:
            if isinstance(value, Tensor):
                end = tensors[-1][0].end if tensors else 0
                start = ceil_div(end, _ALIGNMENT) * _ALIGNMENT
                tensors.append((Place(start, tuple(value.shape), value.dtype), value))
                return tensors[-1][0]
            return _mapped(place, value)

        layout = {key: place(value) for key, value in batch.items() if _holds_tensors(value)}
        others = {key: value for key, value in batch.items() if key not in layout}
        buffer = torch.empty(tensors[-1][0].end if tensors else 0, dtype=torch.uint8)
        for where, tensor in tensors:
            _view(buffer, where).copy_(tensor)
        return cls(buffer, layout, others)

    @cached_property
    def _views(self) -> dict[str, Any]:
        def view(value: Any) -> Any:
            if isinstance(value, Place):
                return _view(self.buffer, value)
            return _mapped(view, value)

        return {key: view(value) for key, value in self.layout.items()}

    def __getitem__(self, key: str) -> Any:
        return self.others[key] if key in self.others else self._views[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.layout, **self.others})

    def __len__(self) -> int:
        return len(self.layout) + len(self.others)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.buffer, self.layout, self.others)  # without the views

    def pin_memory(self) -> "FlatBatch":
        """Copies the batch to pinned memory; called by a loader with `pin_memory=True`."""
        return FlatBatch(self.buffer.pin_memory(), self.layout, self.others)

    def to(self, device: torch.device | str) -> "FlatBatch":
        """Copies the batch to a device; from pinned memory the host does not wait for it."""
        on_cpu = self.buffer.device.type == "cpu"  # a copy to the CPU would be read too early
        buffer = self.buffer.to(device, non_blocking=on_cpu)
        return FlatBatch(buffer, self.layout, self.others)


def _view(buffer: Tensor, place: Place) -> Tensor:
    return buffer[place.start : place.end].view(place.dtype).view(place.shape)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensors(entry) for entry in value)
    return isinstance(value, Tensor)


def _mapped(function: Any, value: Any) -> Any:
    """Applies a function to the entries of lists and tuples; returns other values unchanged."""
    if isinstance(value, tuple):
        entries = map(function, value)
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    return [function(entry) for entry in value] if isinstance(value, list) else value
