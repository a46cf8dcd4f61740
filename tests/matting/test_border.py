import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from softfeat.imaging.convert import to_tensor
from softfeat.matting.border import Guide, refine_border, unknown_band
from softfeat.matting.laplacian import matting_laplacian
from softfeat.ops.guided_filter import guided_filter


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
    error = np.abs(refine_border(Guide(image), laplacian, selected, 9) - alpha)
    assert error.mean() < 0.4 * np.abs(selected - alpha).mean()
    longer = refine_border(
        Guide(image), laplacian, selected, 9, trust=1e-4, iterations=500, tolerance=0
    )
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
    refined = refine_border(Guide(image), laplacian, selected, 6, iterations=400, tolerance=1e-7)
    np.testing.assert_allclose(refined.ravel(), expected, atol=1e-4)


def test_away_from_the_border_nothing_changes() -> None:
    image, alpha = blurred_edge(noise=20)
    selected = alpha > 0.5
    refined = refine_border(Guide(image), matting_laplacian(image / 255), selected, 5)
    outside = ~unknown_band(selected, 5)
    np.testing.assert_array_equal(refined[outside], selected[outside])
    assert 0 <= refined.min() <= refined.max() <= 1


@pytest.mark.parametrize("value", [False, True])
def test_all_or_nothing_has_no_border(value: bool) -> None:
    image, _ = blurred_edge()
    selected = np.full((30, 40), value)
    assert not unknown_band(selected, 9).any()
    refined = refine_border(Guide(image), matting_laplacian(image / 255), selected, 9)
    np.testing.assert_array_equal(refined, selected)


def test_the_band_is_as_wide_as_asked_for() -> None:
    selected = np.zeros((21, 21), bool)
    selected[:, 10:] = True
    band = unknown_band(selected, 3)
    assert band[10].nonzero()[0].tolist() == [7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(("size", "window"), [((30, 41), 11), ((12, 9), 5), ((7, 30), 13)])
def test_a_guide_that_is_kept_filters_alike(size: tuple[int, int], window: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    guide = Guide(image, window, 1e-2)
    for mask in rng.uniform(size=(2, *size)).astype(np.float32):
        expected = guided_filter(torch.from_numpy(mask)[None, None], to_tensor(image), window, 1e-2)
        np.testing.assert_allclose(guide(mask), expected[0, 0], atol=2e-4)


def test_a_guide_of_one_colour_blurs() -> None:
    guide = Guide(np.full((20, 20, 3), 90, np.uint8), 5)
    edge = np.repeat((np.arange(20) >= 10)[None].astype(np.float32), 20, 0)
    blurred = guide(edge)[10]
    np.testing.assert_allclose(blurred[[5, 14]], [0, 1], atol=1e-4)
    assert (np.diff(blurred) > -1e-4).all()


def test_pixels_that_are_certain_stay() -> None:
    image, alpha = blurred_edge(noise=3)
    selected, certain = alpha > 0.5, np.zeros((30, 40), bool)
    certain[10:12, 18:23] = True
    laplacian = matting_laplacian(image / 255)
    refined = refine_border(Guide(image), laplacian, selected, 8, certain)
    np.testing.assert_array_equal(refined[certain], selected[certain])
    free = refine_border(Guide(image), laplacian, selected, 8)
    assert np.abs(free - selected)[certain].max() > 0.1
