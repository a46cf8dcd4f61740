"""Compare the affinities of superpixels with loops over pairs."""

from math import dist, erf

import numpy as np
import pytest

from softfeat.matting.affinity import (
    SuperpixelGraph,
    colour_affinity,
    semantic_affinity,
    soft_segmentation_laplacian,
    superpixel_graph,
)
from softfeat.matting.laplacian import matting_laplacian

RNG = np.random.default_rng(0)
IMAGE = 0.3 * RNG.random((18, 24, 3)) + np.where(np.arange(24) < 12, 0.0, 0.6)[None, :, None]
FEATURES = np.stack([np.where(np.arange(24) < 12, 0.2, 0.9)] * 18)[..., None] * [1, 0.5, 0.1]
IDS = (np.arange(18)[:, None] // 6 * 4 + np.arange(24) // 6).astype(np.uint16)


@pytest.fixture
def graph() -> SuperpixelGraph:
    return superpixel_graph(IDS, IMAGE, FEATURES)


def test_descriptions(graph: SuperpixelGraph) -> None:
    for s in range(12):
        inside = s == IDS
        np.testing.assert_allclose(graph.colour[s], IMAGE[inside].mean(0))
        np.testing.assert_allclose(graph.feature[s], FEATURES[inside].mean(0))
        y, x = (v.mean() for v in np.nonzero(inside))
        np.testing.assert_allclose(graph.position[s], (y / 18, x / 24))
        assert graph.centroid[s] == round(y) * 24 + round(x)


def test_neighbours_touch_also_at_corners(graph: SuperpixelGraph) -> None:
    pairs = {tuple(p) for p in graph.adjacent.tolist()}
    expected = {
        (s, t)
        for s in range(12)
        for t in range(s + 1, 12)
        if max(abs(s // 4 - t // 4), abs(s % 4 - t % 4)) == 1
    }
    assert pairs == expected
    assert len(graph.adjacent) == len(pairs)


def test_semantic_affinity(graph: SuperpixelGraph) -> None:
    expected = np.zeros((12, 12))
    for s, t in graph.adjacent:
        weight = erf(20 * (0.15 - dist(graph.feature[s], graph.feature[t])))
        expected[s, t] = expected[t, s] = weight
    found = semantic_affinity(graph).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.min() < -0.99 < 0.99 < found.max()  # attraction and repulsion


def test_colour_affinity() -> None:
    rng = np.random.default_rng(1)
    count = 40
    graph = SuperpixelGraph(
        adjacent=np.zeros((0, 2), np.int64),
        position=rng.random((count, 2)),
        centroid=np.arange(count),
        colour=0.5 + 0.1 * rng.random((count, 3)),
        feature=np.zeros((count, 1)),
    )
    expected = np.zeros((count, count))
    for s in range(count):
        for t in range(count):
            if s != t and dist(graph.position[s], graph.position[t]) <= 0.2:
                expected[s, t] = (erf(50 * (0.05 - dist(graph.colour[s], graph.colour[t]))) + 1) / 2
    found = colour_affinity(graph).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert 0 < (found > 0).sum() < (expected >= 0).sum() / 2


def test_the_whole_laplacian(graph: SuperpixelGraph) -> None:
    matting = matting_laplacian(IMAGE)
    whole = soft_segmentation_laplacian(matting, graph).toarray()
    affinity = np.zeros_like(whole)
    at = graph.centroid
    affinity[np.ix_(at, at)] += 0.01 * semantic_affinity(graph).toarray()
    affinity[np.ix_(at, at)] += 0.01 * colour_affinity(graph).toarray()
    expected = matting.toarray() + np.diag(affinity.sum(1)) - affinity
    np.testing.assert_allclose(whole, expected, atol=1e-12)
    np.testing.assert_allclose(whole.sum(1), 0, atol=1e-9)


def test_shared_centroids_add_up() -> None:
    graph = SuperpixelGraph(
        adjacent=np.array([[0, 1], [0, 2]]),
        position=np.zeros((3, 2)),
        centroid=np.array([5, 7, 7]),
        colour=np.array([[0.0] * 3, [1.0] * 3, [0.5] * 3]),
        feature=np.zeros((3, 1)),
    )
    matting = matting_laplacian(np.random.default_rng(0).random((4, 4, 3)))
    difference = (soft_segmentation_laplacian(matting, graph) - matting).toarray()
    assert difference[5, 7] == pytest.approx(-2 * 0.01 * erf(3), rel=1e-3)


@pytest.mark.parametrize("ids", [np.zeros((5, 6)), np.arange(30).reshape(5, 6)])
def test_one_superpixel_and_one_a_pixel(ids: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    graph = superpixel_graph(ids.astype(np.uint16), rng.random((5, 6, 3)), rng.random((5, 6, 2)))
    for affinity in (semantic_affinity(graph), colour_affinity(graph)):
        assert affinity.shape == (len(graph.centroid),) * 2
        assert np.isfinite(affinity.toarray()).all()
