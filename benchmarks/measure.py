"""Time and peak memory of functions, and how results are written down."""

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from softfeat.tables import markdown_table

Function = Callable[[], object]


def times_in_turn(
    sides: Mapping[str, Function], repeats: int, before: Function = lambda: None
) -> dict[str, list[float]]:
    """Times functions in turn (A B A B ...), so that a drift of the machine hits all alike.

    Args:
        sides: functions by name; each runs once before, uncounted.
        repeats: counted rounds.
        before: called before each of them, not timed.

    Returns:
        Seconds of every round, by name.
    """
    for function in sides.values():
        before()
        function()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, function in sides.items():
            before()
            _synchronise()
            started = time.perf_counter()
            function()
            _synchronise()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(function: Function) -> int:
    """Most bytes of tensors alive at one time during a call, over those alive before it.

    Counted from the allocator's own events, so it neither misses what is freed again nor counts
    what the process holds besides. On the CPU the most that NumPy and Python held at one time, in
    a call of its own, is added, be it at the same time or not.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = function()
    del kept
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    changes = [e for e in results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        alive += change.nbytes()
        peak = max(peak, alive)
    tracemalloc.start()
    try:
        function()
        return peak + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest time, as the cells of a row."""
    return {
        f"ms ({name})": round(1e3 * function(seconds), 2)
        for name, function in (("median", median), ("min", min), ("max", max))
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Ratios of paired rounds: median, least and greatest."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def markdown(result: dict[str, Any]) -> str:
    """The result as a Markdown section.

    Args:
        result: `title`; `rows`, of equal keys; `tables`, further rows by title, where there are
            any; `ratios`; `settings` and `machine`.
    """
    lines = [f"### {result['title']}", "", markdown_table(result["rows"])]
    for title, rows in result.get("tables", {}).items():
        lines += ["", f"{title}:", "", markdown_table(rows)]
    if result["ratios"]:
        lines += ["", "| ratio | median | min | max |", "| --- | --- | --- | --- |"]
    for name, ratio in result["ratios"].items():
        cells = [f"{ratio[k]:.1f}" if k in ratio else "" for k in ("median", "min", "max")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = {**result["settings"], **result["machine"]}
    lines += ["", "; ".join(f"{k}: {v}" for k, v in about.items()) + "."]
    return "\n".join(lines) + "\n"
