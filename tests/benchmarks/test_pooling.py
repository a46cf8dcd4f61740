import torch

from benchmarks.pooling import index_add_mean, pooling, scatter_add_mean, segment_reduce_mean
from benchmarks.tables import markdown


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
