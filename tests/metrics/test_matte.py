"""Compare matte errors with loops, and check the search for the best union."""

from itertools import combinations

import numpy as np
import pytest

from softfeat.metrics.matte import best_union, matte_errors

RNG = np.random.default_rng(0)


def test_errors_of_known_mattes() -> None:
    truth = np.zeros((50, 40))
    truth[:, 20:] = 1
    truth[:, 19] = 0.5
    perfect = matte_errors(truth, truth)
    assert (perfect.sad, perfect.mse, perfect.gradient, perfect.soft) == (0, 0, 0, 0)
    off = truth.copy()
    off[:10] = 1 - off[:10]
    found = matte_errors(off, truth)
    assert found.sad == pytest.approx(10 * 39 / 1000)
    assert found.mse == pytest.approx(10 * 39 / 2000)
    assert found.soft == 0
    assert found.gradient > 0


def test_errors_of_a_missing_edge() -> None:
    truth = np.zeros((50, 40))
    truth[:, 20:] = 1
    found = matte_errors(np.zeros((50, 40)), truth)
    # The slope of a blurred step is a Gaussian of 1.4 pixels, whose square sums up to this.
    assert found.gradient == pytest.approx(50 / (2 * 1.4 * np.sqrt(np.pi)) / 1000, rel=0.03)
    truth[:, 19] = 0.75
    found = matte_errors(np.zeros((50, 40)), truth)
    assert found.soft == pytest.approx(0.75)
    assert found.mse == pytest.approx((20 + 0.75**2) / 40)


def test_gradient_error_sees_blur_that_moves_no_mean() -> None:
    truth = (RNG.random((40, 40)) > 0.5).astype(float)
    errors = [matte_errors(truth * s + (1 - s) * 0.5, truth).gradient for s in (1.0, 0.7, 0.2)]
    assert errors[0] == 0 < errors[1] < errors[2]


def test_no_soft_pixel() -> None:
    truth = np.eye(4)
    assert np.isnan(matte_errors(truth, truth).soft)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(4, 3\)"):
        matte_errors(np.zeros((3, 3)), np.zeros((4, 3)))


def test_best_union_against_all_subsets() -> None:
    layers = RNG.dirichlet(np.full(5, 0.3), (12, 15)).transpose(2, 0, 1)
    truth = RNG.random((12, 15))
    subsets = [c for r in range(6) for c in combinations(range(5), r)]
    best = min(np.abs(layers[list(c)].sum(0) - truth).sum() for c in subsets)
    assert np.abs(best_union(layers, truth) - truth).sum() == pytest.approx(best, rel=1e-5)


def test_best_union_of_the_layers_it_is_made_of() -> None:
    layers = RNG.dirichlet(np.full(6, 0.3), (12, 15)).transpose(2, 0, 1)
    truth = layers[1] + layers[4]
    np.testing.assert_allclose(best_union(layers, truth), truth, atol=1e-6)


def test_too_many_layers() -> None:
    with pytest.raises(ValueError, match="at most 12"):
        best_union(np.zeros((13, 2, 2)), np.zeros((2, 2)))
