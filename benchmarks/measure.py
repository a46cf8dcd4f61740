"""Times and peak memory of functions, and statistics of repeated measurements."""

import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from softfeat.memory import release_memory

T = TypeVar("T")
Function = Callable[[], object]

_SAMPLING_SECONDS = 0.02


def times_in_turn(
    sides: Mapping[str, Function], repeats: int, before: Function = lambda: None
) -> dict[str, list[float]]:
    """Times functions alternately (A B A B ...), so that drift of the machine affects all alike.

    Args:
        sides: Functions by name. Each runs once before the first counted round.
        repeats: Number of counted rounds.
        before: Function that runs before each of them and is not timed.

    Returns:
        Seconds of every counted round, by name.
    """
    for function in sides.values():
        before()
        function()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, function in sides.items():
            before()
            synchronise()
            seconds[name].append(timed(function)[1])
    return seconds


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """Calls a function; returns its result and the seconds it took, GPU work included."""
    started = time.perf_counter()
    result = function()
    synchronise()
    return result, time.perf_counter() - started


def synchronise() -> None:
    """Waits until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(function: Function) -> int:
    """Measures the largest number of bytes that a call allocates at one time.

    On a GPU this is the allocator's own peak. On the CPU it is the sum of two peaks, each from a
    call of its own: that of tensors, from the allocator's events, and that of NumPy and Python.

    Returns:
        Bytes in addition to those allocated before the call.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    changes = [e for e in results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        allocated += change.nbytes()
        peak = max(peak, allocated)
    tracemalloc.start()
    try:
        function()
        return peak + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_peak(function: Callable[[], T]) -> tuple[T, float]:
    """Calls a function and samples the resident memory of the process meanwhile.

    Returns:
        The function's result, and the peak in bytes above the memory before the call (NaN where
        there is no `/proc`).
    """
    status = Path("/proc/self/statm")
    if not status.is_file():
        return function(), float("nan")
    release_memory()  # free memory that malloc keeps would hide what the function allocates

    def resident() -> int:
        return int(status.read_text().split()[1]) * 4096

    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLING_SECONDS):
            peak[0] = max(peak[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return function(), float(peak[0])
    finally:
        done.set()
        watcher.join()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def spread_where_reached(values: Sequence[float | None]) -> dict[str, float | None]:
    """Median, minimum and maximum of factors, some of which may be unknown.

    None stands for a run that did not reach its goal in the time it had. Its factor is unknown but
    lower than the others, so it counts as the lowest. A statistic that depends on such a run is
    None.

    >>> spread_where_reached([None, 5.0, 4.0])
    {'median': 4.0, 'min': None, 'max': 5.0}
    >>> spread_where_reached([None, None, 4.0])
    {'median': None, 'min': None, 'max': 4.0}
    """
    statistics = spread([-math.inf if value is None else value for value in values])
    return {name: value if math.isfinite(value) else None for name, value in statistics.items()}


def cells(values: Sequence[float], unit: str, digits: int | None) -> dict[str, float]:
    """Median, minimum and maximum as the cells of a row.

    >>> cells([3.14, 2, 9], "s", 1)
    {'s (median)': 3.1, 's (min)': 2, 's (max)': 9}

    Args:
        values: Measurements.
        unit: Unit in the names of the cells.
        digits: Decimal places; None for whole numbers.
    """
    return {f"{unit} ({k})": round(value, digits) for k, value in spread(values).items()}


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum in milliseconds as the cells of a row."""
    return cells([1e3 * s for s in seconds], "ms", 2)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of the ratios of paired rounds."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def percent(values: Mapping[str, float]) -> dict[str, float]:
    """Statistics of shares as percentages."""
    return {name: 100 * value for name, value in values.items()}
