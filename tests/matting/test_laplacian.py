"""Compare the matting Laplacian with a loop over windows, and check alphas without energy."""

import numpy as np
import pytest

from softfeat.matting.laplacian import matting_laplacian


def reference(image: np.ndarray, epsilon: float = 1e-7) -> np.ndarray:
    height, width = image.shape[:2]
    affinity = np.zeros((height * width, height * width))
    index = np.arange(height * width).reshape(height, width)
    for y in range(height - 2):
        for x in range(width - 2):
            window = image[y : y + 3, x : x + 3].reshape(9, 3)
            at = index[y : y + 3, x : x + 3].ravel()
            centred = window - window.mean(0)
            covariance = centred.T @ centred / 9 + epsilon / 9 * np.eye(3)
            weights = (1 + centred @ np.linalg.inv(covariance) @ centred.T) / 9
            affinity[np.ix_(at, at)] += weights
    return np.diag(affinity.sum(1)) - affinity


@pytest.mark.parametrize("shape", [(3, 3), (3, 9), (8, 5), (12, 11)])
def test_against_a_loop(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*shape, 3))
    laplacian = matting_laplacian(image)
    np.testing.assert_allclose(laplacian.toarray(), reference(image), atol=1e-8)
    # Entries for all pixels at most two rows and two columns apart, and for no others.
    rows, columns = (np.abs(np.subtract.outer(i, i)) for i in np.indices(shape).reshape(2, -1))
    assert laplacian.nnz == ((rows <= 2) & (columns <= 2)).sum()


def test_against_pymatting() -> None:
    pymatting = pytest.importorskip("pymatting")
    image = np.random.default_rng(1).random((20, 30, 3))
    theirs = pymatting.cf_laplacian(image, epsilon=1e-7, radius=1)
    np.testing.assert_allclose(matting_laplacian(image).toarray(), theirs.toarray(), atol=1e-9)


@pytest.mark.parametrize("kind", ["noise", "grey", "constant", "two colours"])
def test_symmetric_positive_and_blind_to_constants(kind: str) -> None:
    image = np.random.default_rng(2).random((10, 12, 3))
    if kind == "grey":
        image = np.repeat(image[..., :1], 3, 2)
    elif kind == "constant":
        image = np.full_like(image, 0.3)
    elif kind == "two colours":
        image = np.where(image[..., :1] > 0.5, [0.9, 0.1, 0.2], [0.1, 0.3, 0.8])
    dense = matting_laplacian(image).toarray()
    assert np.isfinite(dense).all()
    np.testing.assert_allclose(dense, dense.T, atol=1e-9)
    np.testing.assert_allclose(dense.sum(1), 0, atol=1e-9)
    assert np.linalg.eigvalsh(dense).min() > -1e-8


def test_alphas_affine_in_colour_cost_nothing() -> None:
    image = np.random.default_rng(3).random((14, 14, 3))
    alpha = (image @ [0.3, -0.5, 0.1] + 0.2).ravel()
    other = np.random.default_rng(4).random(14 * 14)
    laplacian = matting_laplacian(image)
    assert alpha @ laplacian @ alpha < 1e-5
    assert other @ laplacian @ other > 1


def test_too_small() -> None:
    with pytest.raises(ValueError, match="at least 3x3 pixels, not 2x5"):
        matting_laplacian(np.zeros((2, 5, 3)))


@pytest.mark.parametrize("epsilon", [1e-7, 1e-4])
def test_epsilon_matters_where_colours_hardly_differ(epsilon: float) -> None:
    image = 0.5 + 1e-3 * np.random.default_rng(5).random((6, 7, 3))
    found = matting_laplacian(image, epsilon).toarray()
    np.testing.assert_allclose(found, reference(image, epsilon), atol=1e-8)
    if epsilon == 1e-7:
        np.testing.assert_array_equal(found, matting_laplacian(image).toarray())
    else:
        assert np.abs(found - reference(image)).max() > 1e-3
