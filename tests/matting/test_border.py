import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from softfeat.matting.border import refine_border, unknown_band
from softfeat.matting.laplacian import matting_laplacian


def blurred_edge(noise: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A red thing on blue with a border of six pixels, and its alpha."""
    alpha = ((np.arange(40) - 17) / 6).clip(0, 1)[None].repeat(30, 0)
    red, blue = np.array([220.0, 40, 30]), np.array([20.0, 60, 200])
    image = alpha[..., None] * red + (1 - alpha[..., None]) * blue
    image += np.random.default_rng(0).normal(scale=noise, size=image.shape)
    return image.round().clip(0, 255).astype(np.uint8), alpha


def test_a_blurred_border_comes_out_as_it_is() -> None:
    image, alpha = blurred_edge()
    laplacian, selected = matting_laplacian(image / 255), alpha > 0.5
    error = np.abs(refine_border(image, laplacian, selected, 9) - alpha)
    assert error.mean() < 0.4 * np.abs(selected - alpha).mean()
    longer = refine_border(image, laplacian, selected, 9, trust=1e-4, iterations=500, tolerance=0)
    assert np.abs(longer - alpha).max() < 0.02


def test_it_approaches_the_exact_solution() -> None:
    image, alpha = blurred_edge(noise=3)
    laplacian, selected = matting_laplacian(image / 255), alpha > 0.5
    unknown = unknown_band(selected, 6).ravel()
    known = selected.astype(float).ravel() * ~unknown
    trust = 0.01 * sparse.eye_array(unknown.sum())
    system = laplacian[unknown][:, unknown] + trust
    right = 0.01 * selected.ravel()[unknown] - (laplacian @ known)[unknown]
    expected = known.copy()
    expected[unknown] = spsolve(system.tocsc(), right).clip(0, 1)
    refined = refine_border(image, laplacian, selected, 6, iterations=400, tolerance=1e-7)
    np.testing.assert_allclose(refined.ravel(), expected, atol=1e-4)


def test_away_from_the_border_nothing_changes() -> None:
    image, alpha = blurred_edge(noise=20)
    selected = alpha > 0.5
    refined = refine_border(image, matting_laplacian(image / 255), selected, 5)
    outside = ~unknown_band(selected, 5)
    np.testing.assert_array_equal(refined[outside], selected[outside])
    assert 0 <= refined.min() <= refined.max() <= 1


@pytest.mark.parametrize("value", [False, True])
def test_all_or_nothing_has_no_border(value: bool) -> None:
    image, _ = blurred_edge()
    selected = np.full((30, 40), value)
    assert not unknown_band(selected, 9).any()
    refined = refine_border(image, matting_laplacian(image / 255), selected, 9)
    np.testing.assert_array_equal(refined, selected)


def test_the_band_is_as_wide_as_asked_for() -> None:
    selected = np.zeros((21, 21), bool)
    selected[:, 10:] = True
    band = unknown_band(selected, 3)
    assert band[10].nonzero()[0].tolist() == [7, 8, 9, 10, 11, 12]
