"""Times, peak memory, and statistics of repeated measurements."""

import numpy as np
import pytest
import torch

from benchmarks.measure import (
    milliseconds,
    peak_memory,
    ratio,
    resident_peak,
    spread_where_reached,
    times_in_turn,
)


def test_peak_memory_counts_tensors_alive_at_one_time() -> None:
    def function() -> torch.Tensor:
        a = torch.zeros(250_000)  # 1 MB
        b = a + 1
        del a
        return b.sum()

    assert 1.99e6 < peak_memory(function) < 2.1e6


@pytest.mark.skipif(torch.cuda.is_available(), reason="only tensors are counted on a GPU")
def test_peak_memory_counts_arrays_too() -> None:
    assert 2.99e6 < peak_memory(lambda: torch.zeros(250_000).add_(np.ones(250_000).sum())) < 3.1e6


def test_times_are_taken_in_turn() -> None:
    calls: list[str] = []
    ways = {n: lambda n=n: calls.append(n) for n in "ab"}  # type: ignore[misc]
    seconds = times_in_turn(ways, 2, before=lambda: calls.append("-"))
    assert calls == list("-a-b" * 3)
    assert [len(s) for s in seconds.values()] == [2, 2]


def test_ratios_are_of_paired_rounds() -> None:
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_the_cells_of_a_row_are_median_least_and_greatest() -> None:
    cells = {"ms (median)": 2.0, "ms (min)": 1.0, "ms (max)": 9.0}
    assert milliseconds([0.009, 0.001, 0.002]) == cells


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([None, 4.0, 5.0], (4.0, None, 5.0)),  # one run of three does not change the median
        ([None, 4.0], (None, None, 4.0)),  # half of the runs is too many
        ([None, None, 4.0], (None, None, 4.0)),
        ([None, 3.0, 4.0, 6.0], (3.5, None, 6.0)),
        ([None, None], (None, None, None)),
        ([2.0, 6.0, 4.0], (4.0, 2.0, 6.0)),
    ],
)
def test_a_run_that_did_not_reach_its_goal_is_no_zero(
    factors: list[float | None], expected: tuple[float | None, ...]
) -> None:
    assert tuple(spread_where_reached(factors).values()) == expected


def test_resident_peak_sees_what_is_freed_again() -> None:
    def work() -> int:
        values = np.ones(40_000_000 // 8)
        for _ in range(20):
            values += 1
        return int(values[0])

    result, peak = resident_peak(work)
    assert result == 21
    assert np.isnan(peak) or 35e6 < peak < 80e6
