"""Eigenvectors against a dense solver; what the superpixels' functions can and cannot express."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.linalg import eigh

from softfeat.imaging.slic import Superpixels
from softfeat.matting.affinity import soft_segmentation_laplacian, superpixel_graph
from softfeat.matting.eigen import (
    Eigenvectors,
    _product,
    krylov_eigenvectors,
    smallest_eigenvectors,
    superpixel_basis,
    superpixel_eigenvectors,
)
from softfeat.matting.laplacian import matting_laplacian
from tests.helpers.photos import drawn_photo


def whole_laplacian(image: np.ndarray) -> tuple[sparse.csr_array, sparse.csr_array]:
    ids = Superpixels(60)((image * 255).astype(np.uint8))
    matting = matting_laplacian(image)
    return soft_segmentation_laplacian(matting, superpixel_graph(ids, image, image)), matting


def projector_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sine of the largest angle between the spans of orthonormal columns."""
    return float(np.linalg.norm(a - b @ (b.T @ a), 2))


def test_against_a_dense_solver() -> None:
    laplacian, _ = whole_laplacian(drawn_photo())
    values, vectors = smallest_eigenvectors(laplacian, 30)
    every, basis = np.linalg.eigh(laplacian.toarray())
    nearest = np.sort(np.argsort(np.abs(every))[:30])
    np.testing.assert_allclose(values, every[nearest], atol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(30), atol=1e-8)
    # the last one may share its eigenvalue with the first that is left out
    assert projector_distance(vectors[:, :28], basis[:, nearest]) < 1e-3


def test_generalised() -> None:
    laplacian, _ = whole_laplacian(drawn_photo())
    size = laplacian.shape[0]
    mass = sparse.diags_array(np.random.default_rng(0).uniform(0.5, 2, size)).tocsr()
    values, vectors = smallest_eigenvectors(laplacian, 20, mass)
    every = eigh(laplacian.toarray(), mass.toarray(), eigvals_only=True)
    np.testing.assert_allclose(values, np.sort(every[np.argsort(np.abs(every))[:20]]), atol=1e-9)
    np.testing.assert_allclose(vectors.T @ (mass @ vectors), np.eye(20), atol=1e-7)


def test_a_matrix_smaller_than_asked_for() -> None:
    laplacian = matting_laplacian(drawn_photo(5))
    values, vectors = smallest_eigenvectors(laplacian, 100)
    assert vectors.shape == (25, 25)
    np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-9)


def test_the_same_every_time() -> None:
    laplacian, _ = whole_laplacian(drawn_photo())
    first, second = (smallest_eigenvectors(laplacian, 20)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_is_another_start() -> None:
    """The vectors of both seeds are the same up to the tolerance."""
    image = drawn_photo()
    laplacian, matting = whole_laplacian(image)
    basis = superpixel_basis(image, Superpixels(60)((image * 255).astype(np.uint8)))
    (values, first), (others, second) = (
        smallest_eigenvectors(laplacian, 20, seed=seed) for seed in (1, 2)
    )
    np.testing.assert_allclose(values, others, atol=1e-6)
    assert not np.array_equal(first, second)
    one, two = (superpixel_eigenvectors(laplacian, matting, basis, 20, seed=s) for s in (1, 2))
    np.testing.assert_allclose(one.values, two.values, rtol=0.02, atol=1e-6)
    assert not np.array_equal(one.vectors, two.vectors)


def test_the_basis_is_orthonormal_and_affine_in_colour() -> None:
    image = drawn_photo()
    ids = Superpixels(20)((image * 255).astype(np.uint8))
    basis = superpixel_basis(image, ids)
    np.testing.assert_allclose((basis.T @ basis).toarray(), np.eye(basis.shape[1]), atol=1e-6)
    affine = np.where(
        (ids % 2 == 0)[..., None], image * [0.2, -0.4, 1.0], image * [0.5, 0.5, 0.5]
    ).sum(-1).ravel() + (ids.ravel() % 3)  # fmt: skip
    np.testing.assert_allclose(basis @ (basis.T @ affine), affine, atol=1e-6)


def test_a_flat_superpixel_has_its_constant_only() -> None:
    image = np.full((8, 8, 3), 0.4)
    image[:, 4:] = np.random.default_rng(0).random((8, 4, 3))
    ids = np.repeat([[0, 1]], 4, 1).repeat(8, 0)
    assert superpixel_basis(image, ids).shape == (64, 1 + 4)


def test_every_pixel_a_superpixel_is_exact() -> None:
    image = drawn_photo(20)
    laplacian, matting = whole_laplacian(image)
    basis = superpixel_basis(image, np.arange(400).reshape(20, 20))
    found = superpixel_eigenvectors(laplacian, matting, basis, 20, smoothing=0)
    exact, _ = smallest_eigenvectors(laplacian, 20)
    np.testing.assert_allclose(found.values, exact, rtol=0.01, atol=1e-6)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(20), atol=1e-6)


def test_smoothing_brings_the_span_nearer_to_the_exact_one() -> None:
    image = drawn_photo(64)
    laplacian, matting = whole_laplacian(image)
    _, exact = smallest_eigenvectors(laplacian, 40)
    basis = superpixel_basis(image, Superpixels(150)((image * 255).astype(np.uint8)))
    held = []
    for smoothing in (0, 2):
        vectors = superpixel_eigenvectors(laplacian, matting, basis, 40, smoothing).vectors
        held.append((np.linalg.norm(vectors.T @ exact, axis=0) ** 2).mean())
    assert held[1] > held[0] + 0.02
    assert held[1] > 0.75
    assert held[1] <= 1 + 1e-6


def test_a_krylov_space_against_a_dense_solver() -> None:
    laplacian, _ = whole_laplacian(drawn_photo(32))
    mass = sparse.diags_array(np.random.default_rng(0).uniform(0.5, 2, 32 * 32)).tocsr()
    every, basis = eigh(laplacian.toarray(), mass.toarray())
    for count in (100, 30):
        values, vectors = krylov_eigenvectors(laplacian, mass, count)
        nearest = np.sort(np.argsort(np.abs(every))[:count])
        np.testing.assert_allclose(values, every[nearest], rtol=0.02, atol=1e-8)
        np.testing.assert_allclose(vectors.T @ (mass @ vectors), np.eye(count), atol=1e-8)
        few = count * 3 // 4
        outside = vectors[:, :few] - basis[:, nearest] @ (
            basis[:, nearest].T @ mass @ vectors[:, :few]
        )
        assert np.linalg.norm(outside, axis=0).max() < 0.05


def test_a_krylov_space_of_a_small_matrix_is_exact() -> None:
    laplacian = matting_laplacian(drawn_photo(5))
    values, vectors = krylov_eigenvectors(laplacian, sparse.eye_array(25, format="csr"), 100)
    assert vectors.shape == (25, 25)
    np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-9)


def test_parts_of_eigenvectors_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    basis = sparse.random_array((30, 7), density=0.4, rng=rng, format="csr")
    found = Eigenvectors(np.arange(4.0), basis, rng.standard_normal((7, 4)))
    whole = basis.toarray() @ found.coordinates
    np.testing.assert_allclose(found.vectors, whole)
    np.testing.assert_allclose(found.at(np.array([3, 29, 0])), whole[[3, 29, 0]])
    np.testing.assert_allclose(found.sums(), whole.sum(0))
    weights = rng.standard_normal((4, 2))
    np.testing.assert_allclose(found.combined(weights), whole @ weights)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_in_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(0)
    left, right = (
        sparse.random_array(shape, density=0.3, rng=rng, format="csr") for shape in ((7, 5), (5, 9))
    )
    found = _product(left, right)
    assert found.format == "csr"
    np.testing.assert_allclose(found.toarray(), left.toarray() @ right.toarray())
