"""Calls a function for many items in worker processes, with a progress bar."""

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, Dataset, get_worker_info

from softfeat.interrupt import leave_signals_to_parent
from softfeat.threads import usable_cores

_MOST_WORKERS = 12  # each takes memory
_FILES = 64  # of a worker: two batches of thirty tensors; as many for everything else
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Dataset[Any], Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.function(self.items[index])


def _as_is(batch: list[Any]) -> list[Any]:
    return batch


def worker_count(num_workers: int | None) -> int:
    """Returns the given number; for None one per core that this process may use, at most 12."""
    return min(_MOST_WORKERS, usable_cores()) if num_workers is None else num_workers


def check_open_files(num_workers: int) -> None:
    """Checks that as many files may be open as workers need to send batches.

    Each tensor of a waiting batch is an open file. Without files a worker would not send its batch,
    and the training would wait for it forever.

    Args:
        num_workers: Number of processes that load batches.

    Raises:
        ValueError: Too few files may be open.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES + _FILES * num_workers
    if num_workers and allowed != resource.RLIM_INFINITY and allowed < needed:
        raise ValueError(
            f"{allowed} files may be open at a time, and {num_workers} worker processes need "
            f"{needed}: raise the limit with ulimit -n 4096, or set data.num_workers=0"
        )


def share_memory(value: Any) -> None:
    """Moves the tensors of a batch to the memory that processes share, if this is a worker.

    torch would do so in a thread of the worker. If that memory is full, its error is lost there,
    and the training waits for the batch forever. Here it is raised.

    Args:
        value: A tensor, or a dictionary or list with tensors.
    """
    if get_worker_info() is None:
        return
    if isinstance(value, torch.Tensor):
        if value.numel():
            value.share_memory_()
    elif isinstance(value, Mapping):
        for each in value.values():
            share_memory(each)
    elif isinstance(value, list | tuple):
        for each in value:
            share_memory(each)


def map_in_workers(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    description: str,
) -> Iterator[Result]:
    """Yields `function(item)` in the order of the items.

    The workers are those of a DataLoader, with its start method, its propagation of errors and one
    thread each.

    Args:
        function: Picklable function; its exceptions are raised here.
        items: Arguments of the calls; may be empty.
        num_workers: Number of processes; 0 runs in this process.
        description: Text of the progress bar.
    """
    # Items per request of a worker. Large chunks amortise the cost of requests in this process, and
    # they are small enough that no worker is left with a long tail.
    chunk = min(32, max(1, len(items) // (64 * max(1, num_workers))))
    loader = DataLoader(
        _Call(function, items),
        batch_size=chunk,
        num_workers=min(num_workers, len(items)),
        collate_fn=_as_is,
        # A separate generator: the loader would draw from the global one, and a run that finds its
        # maps ready would train with other random numbers than the run that made them.
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_parent,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(description, total=len(items))
        for results in loader:
            yield from results
            progress.advance(task, len(results))
