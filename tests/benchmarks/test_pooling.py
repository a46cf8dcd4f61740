import numpy as np
import pytest
import torch

from benchmarks.measure import markdown, peak_memory, ratio, times_in_turn
from benchmarks.pooling import index_add_mean, pooling, scatter_add_mean, segment_reduce_mean


def test_peak_memory_counts_what_lives_at_once() -> None:
    def function() -> torch.Tensor:
        a = torch.zeros(250_000)  # 1 MB
        b = a + 1
        del a
        return b.sum()

    assert 1.99e6 < peak_memory(function) < 2.1e6


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts tensors on the GPU alone")
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


def test_the_pooling_suite_reports_all_ways_and_they_agree() -> None:
    result = pooling(1, (32, 32), 20, (2, 4), 4, repeats=1) | {"machine": {"torch": "x"}}
    assert [row["way"] for row in result["rows"]] == [
        "upsample, then pool",
        "upsample, scatter_add",
        "upsample, sort, segment_reduce",
        "native, weights included",
        "native, weights at hand",
        "the weights alone",
    ]
    assert float(result["settings"]["largest relative difference of means and gradients"]) < 1e-5
    assert "| upsample, then pool |" in markdown(result)


def test_superpixels_without_pixels_and_pixels_without_superpixels() -> None:
    superpixels = torch.tensor([[[0, 0, 3], [-1, 3, 3]], [[2, 2, 2], [2, 2, -1]]])
    features = torch.rand(2, 5, 2, 3)
    expected = index_add_mean(features, superpixels, 4)
    for mean in (scatter_add_mean, segment_reduce_mean):
        torch.testing.assert_close(mean(features, superpixels, 4), expected)
