"""Work in several threads, for code of NumPy, SciPy and torch that uses only one."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Calls a function for each item, in as many threads as torch computes with.

    Args:
        function: Function that spends its time in code that lets other threads run. Calls must not
            write to the same memory.
        items: Arguments, started in this order.

    Returns:
        Results in the order of the items. If a call raises an error, calls that have not started
        are left out, and the error is raised.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
