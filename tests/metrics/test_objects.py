"""Compare scores of objects and coverings with slow loops, and check degenerate cases."""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest

from softfeat.metrics.objects import (
    best_layer_iou,
    best_union_iou,
    layers_holding,
    segmentation_covering,
    soft_iou,
)

RNG = np.random.default_rng(0)
H, W = 9, 11


def slow_iou(alpha: np.ndarray, mask: np.ndarray, valid: np.ndarray) -> float:
    both = either = 0.0
    for y, x in product(range(H), range(W)):
        if valid[y, x]:
            both += min(alpha[y, x], float(mask[y, x]))
            either += max(alpha[y, x], float(mask[y, x]))
    return both / either


def slow_union(alphas: np.ndarray, mask: np.ndarray, valid: np.ndarray) -> float:
    subsets = [c for r in range(1, len(alphas) + 1) for c in combinations(range(len(alphas)), r)]
    return max(slow_iou(alphas[list(c)].sum(0), mask, valid) for c in subsets)


def slow_holding(alphas: np.ndarray, mask: np.ndarray, valid: np.ndarray) -> int:
    number = 0
    for alpha in alphas:
        held = sum(alpha[y, x] for y, x in product(range(H), range(W)) if (mask & valid)[y, x])
        number += held / (mask & valid).sum() >= 0.1
    return number


def slow_covering(segments: np.ndarray, regions: np.ndarray, ignore: int | None) -> float:
    pixels = [p for p in product(range(H), range(W)) if ignore is None or regions[p] != ignore]
    covering = 0.0
    for region in {regions[p] for p in pixels}:
        own = {p for p in pixels if regions[p] == region}
        overlaps = []
        for segment in {segments[p] for p in pixels}:
            others = {p for p in pixels if segments[p] == segment}
            overlaps.append(len(own & others) / len(own | others))
        covering += len(own) / len(pixels) * max(overlaps)
    return covering


def case(seed: int, layers: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Create layers that add up to 1, an object and valid pixels."""
    rng = np.random.default_rng(seed)
    alphas = rng.dirichlet(np.full(layers, 0.2), (H, W)).transpose(2, 0, 1)
    return alphas, rng.random((H, W)) < 0.3, rng.random((H, W)) < 0.8


@pytest.mark.parametrize("seed", range(5))
def test_scores_against_loops(seed: int) -> None:
    alphas, mask, valid = case(seed)
    expected = [slow_iou(alpha, mask, valid) for alpha in alphas]
    np.testing.assert_allclose(soft_iou(alphas, mask, valid), expected)
    assert soft_iou(alphas[2], mask, valid) == pytest.approx(expected[2])
    assert best_layer_iou(alphas, mask, valid) == pytest.approx(max(expected))
    assert best_union_iou(alphas, mask, valid) == pytest.approx(slow_union(alphas, mask, valid))
    assert layers_holding(alphas, mask, valid) == slow_holding(alphas, mask, valid)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_union_is_exact_where_layers_follow_the_object(seed: int) -> None:
    alphas, mask, valid = case(seed, layers=7)
    weights = np.where(mask, np.arange(7)[:, None, None], 6 - np.arange(7)[:, None, None]) ** 2
    alphas = alphas * weights + 1e-3
    alphas /= alphas.sum(0)
    union = best_union_iou(alphas, mask, valid)
    assert union == pytest.approx(slow_union(alphas, mask, valid))
    assert union > best_layer_iou(alphas, mask, valid)


@pytest.mark.parametrize("ignore", [None, 0, 255])
@pytest.mark.parametrize("seed", range(3))
def test_covering_against_loops(seed: int, ignore: int | None) -> None:
    rng = np.random.default_rng(seed)
    regions = rng.choice([0, 3, 17, 255], (H, W)).astype(np.uint8)
    segments = rng.integers(0, 5, (H, W)) * 7
    expected = slow_covering(segments, regions, ignore)
    assert segmentation_covering(segments, regions, ignore) == pytest.approx(expected)


def test_a_layer_that_is_the_object() -> None:
    mask = np.zeros((H, W), bool)
    mask[2:5, 3:8] = True
    alphas = np.stack([mask, ~mask]).astype(np.float32)
    assert best_layer_iou(alphas, mask) == best_union_iou(alphas, mask) == 1
    assert layers_holding(alphas, mask) == 1


def test_one_layer_of_everything_holds_every_object() -> None:
    mask = np.zeros((H, W), bool)
    mask[0, :9] = True
    alphas = np.ones((1, H, W))
    assert best_layer_iou(alphas, mask) == best_union_iou(alphas, mask) == pytest.approx(1 / 11)
    assert layers_holding(alphas, mask) == 1


def test_ignored_pixels_change_nothing() -> None:
    alphas, mask, valid = case(0)
    changed = np.where(valid, alphas, RNG.random(alphas.shape))
    other = np.where(valid, mask, ~mask)
    for score in (best_layer_iou, best_union_iou, layers_holding):
        assert score(alphas, mask, valid) == score(changed, other, valid)


def test_an_empty_layer_adds_nothing() -> None:
    alphas, mask, valid = case(1)
    more = np.concatenate([alphas, np.zeros((1, H, W))])
    with np.errstate(all="raise"):  # such as a division of 0 by 0
        for score in (best_layer_iou, best_union_iou, layers_holding):
            assert score(more, mask, valid) == score(alphas, mask, valid)


def test_an_object_that_no_layer_touches() -> None:
    mask = np.eye(H, W, dtype=bool)
    alphas = np.where(mask, 0.0, 1.0)[None]
    assert best_layer_iou(alphas, mask) == best_union_iou(alphas, mask) == 0
    assert layers_holding(alphas, mask) == 0


def test_coverings_of_partitions() -> None:
    regions = np.repeat([0, 1], [4, 8])[None]
    assert segmentation_covering(regions + 3, regions) == 1
    assert segmentation_covering(np.zeros_like(regions), regions) == pytest.approx(
        4 / 12 * 4 / 12 + 8 / 12 * 8 / 12
    )
    pixels = np.arange(12)[None]  # each pixel is a segment
    assert segmentation_covering(pixels, regions) == pytest.approx(4 / 12 / 4 + 8 / 12 / 8)


@pytest.mark.parametrize("score", [soft_iou, best_layer_iou, best_union_iou, layers_holding])
def test_bad_objects(score: Callable) -> None:
    alphas, mask, _ = case(0)
    with pytest.raises(ValueError, match="no valid pixel"):
        score(alphas, np.zeros_like(mask))
    with pytest.raises(ValueError, match="no valid pixel"):
        score(alphas, mask, ~mask)
    with pytest.raises(ValueError, match=r"mask \(9, 10\)"):
        score(alphas, mask[:, :-1])


def test_bad_regions() -> None:
    with pytest.raises(ValueError, match="no pixel that is counted"):
        segmentation_covering(np.zeros((2, 2), int), np.full((2, 2), 255), 255)
    with pytest.raises(ValueError, match="differ in size"):
        segmentation_covering(np.zeros((2, 2), int), np.zeros((2, 3), int))
