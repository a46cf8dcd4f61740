import numpy as np
import pytest

from faults.intervals import slope, wilson


def test_wilson_solves_its_quadratic_equation() -> None:
    for successes, count in ((0, 7), (7, 7), (340, 400)):
        for bound in wilson(successes, count):
            distance = abs(successes / count - bound)
            error = np.sqrt(bound * (1 - bound) / count)
            assert distance == pytest.approx(1.959964 * error, abs=1e-9)


def test_a_slope_ignores_outliers_and_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    places = np.arange(200)
    values = 3 + 0.5 * places + rng.standard_normal(200)
    values[50] = 1e6
    fit = slope(places.tolist(), values.tolist())
    assert fit.low <= 0.5 <= fit.high
    assert fit.value == pytest.approx(0.5, abs=0.01)
    level = slope(places.tolist(), rng.standard_normal(200).tolist())
    assert level.low <= 0 <= level.high
