"""Compare both sparsifications with assembled systems, and check their effect on layers."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from softfeat.matting.laplacian import matting_laplacian
from softfeat.matting.sparsify import (
    Grams,
    block_jacobi,
    conjugate_gradients,
    constrained_sparsification,
    gradient_magnitude,
    relaxed_sparsification,
    solve_layers,
    solve_layers_dense,
    sparsity_weights,
    weighted_grams,
)
from tests.helpers.photos import drawn_photo

LEAST = 0.3**0.8


def spanned(side: int = 24, count: int = 30) -> tuple[Tensor, Tensor]:
    laplacian = matting_laplacian(drawn_photo(side)).toarray()
    values, vectors = np.linalg.eigh(laplacian)
    return torch.from_numpy(values[:count]), torch.from_numpy(vectors[:, :count].copy())


def halves(side: int = 24, parts: int = 3) -> Tensor:
    return (torch.arange(side) * parts // side).repeat(side, 1).flatten()


def test_weights() -> None:
    alphas = torch.tensor([0.0, 0.25, 1.0, 1.005, -3.0], dtype=torch.float64)
    to_one, to_zero = sparsity_weights(alphas, 0.01)
    torch.testing.assert_close(to_zero[1].item(), LEAST * 0.25**-1.2)
    torch.testing.assert_close(to_one[1].item(), LEAST * 0.75**-1.2)
    torch.testing.assert_close(to_zero[0].item(), LEAST * 0.01**-1.2)  # bounded at the floor
    torch.testing.assert_close(to_one[3].item(), LEAST * 0.01**-1.2)
    torch.testing.assert_close(to_one[4].item(), LEAST)  # and far from 1
    assert (to_one + to_zero).min() >= 2 * LEAST - 1e-12


def test_grams() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, 4, generator=generator, dtype=torch.float64)
    expected = torch.stack([vectors.T @ torch.diag(w) @ vectors for w in weights.T])
    torch.testing.assert_close(weighted_grams(vectors, weights), expected)
    torch.testing.assert_close(Grams(vectors)(weights), expected)


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_block_elimination_is_the_dense_solution(layers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(layers + 1, 6, 6, generator=generator, dtype=torch.float64)
    spd = factors @ factors.mT + torch.eye(6)
    right = torch.randn(layers, 6, generator=generator, dtype=torch.float64)
    system = torch.zeros(layers * 6, layers * 6, dtype=torch.float64)
    for k in range(layers):
        for m in range(layers):
            system[6 * k : 6 * k + 6, 6 * m : 6 * m + 6] = spd[-1] + (spd[k] if k == m else 0)
    expected = torch.linalg.solve(system, right.flatten()).view(layers, 6)
    for solve in (solve_layers, solve_layers_dense):
        torch.testing.assert_close(solve(spd[:-1], spd[-1], right), expected)


def test_one_iteration_minimises_its_quadratic() -> None:
    """Compare with the energy over all pixels and layers, minimised with autograd."""
    values, vectors = spanned()
    labels = halves()
    coefficients, survivors = constrained_sparsification(vectors, values, labels, iterations=1)
    assert survivors.tolist() == [0, 1, 2]
    start = torch.nn.functional.one_hot(labels).double()
    to_one, to_zero = sparsity_weights(start, 1e-2)

    def energy(free: Tensor) -> Tensor:
        alphas = vectors @ free
        alphas = torch.cat([alphas, 1 - alphas.sum(1, keepdim=True)], 1)
        smooth = (free**2 * values[:, None]).sum()
        last = (vectors.T @ torch.ones(len(vectors), dtype=torch.float64)) - free.sum(1)
        smooth = smooth + (last**2 * values).sum()
        return (to_one * (alphas - 1) ** 2 + to_zero * alphas**2).sum() + smooth

    gradient = torch.func.grad(energy)
    found = coefficients[:, :2]
    scale = gradient(torch.zeros_like(found)).norm()
    assert gradient(found).norm() < 1e-8 * scale


def test_layers_add_up_and_become_sharp() -> None:
    values, vectors = spanned()
    first, _ = constrained_sparsification(vectors, values, halves(), iterations=1)
    last, _ = constrained_sparsification(vectors, values, halves(), iterations=12)
    torch.testing.assert_close((vectors @ last).sum(1), torch.ones(576, dtype=torch.float64))

    def distance(coefficients: Tensor) -> float:
        alphas = vectors @ coefficients
        return torch.minimum(alphas.abs(), (alphas - 1).abs()).mean().item()

    assert distance(last) < 0.5 * distance(first)


def test_a_sample_of_the_pixels_is_enough() -> None:
    values, vectors = spanned(40)
    labels = halves(40)
    full, _ = constrained_sparsification(vectors, values, labels, iterations=5)
    sampled, _ = constrained_sparsification(
        vectors[::2], values, labels[::2], vectors.sum(0), 2, iterations=5
    )
    assert (vectors @ (full - sampled)).abs().mean() < 0.03


def test_a_direction_without_sampled_pixels_does_not_run_away() -> None:
    values, vectors = spanned()
    lonely = torch.zeros(576, 1, dtype=torch.float64)
    lonely[0] = 1
    vectors = torch.linalg.qr(torch.cat([vectors, lonely], 1)).Q
    values = torch.cat([values, values.new_tensor([1e-3])])
    coefficients, _ = constrained_sparsification(
        vectors[1::3], values, halves()[1::3], vectors.sum(0), 3, iterations=10
    )  # not pixel 0
    assert (vectors @ coefficients).abs().max() < 3


def test_vanished_layers_are_dropped_and_the_rest_still_adds_up() -> None:
    values, vectors = spanned(count=4)
    labels = halves()
    labels[100] = 3  # a segment of one pixel, which four smooth functions cannot express
    for iterations in (8, 9, 10):
        coefficients, survivors = constrained_sparsification(
            vectors, values, labels, iterations=iterations
        )
        assert survivors.tolist() == [0, 1, 2]
        torch.testing.assert_close(
            (vectors @ coefficients).sum(1), torch.ones(576, dtype=torch.float64)
        )


def test_one_segment_is_one_layer() -> None:
    values, vectors = spanned()
    coefficients, survivors = constrained_sparsification(vectors, values, torch.full((576,), 7))
    assert survivors.tolist() == [7]
    torch.testing.assert_close(vectors @ coefficients, torch.ones(576, 1, dtype=torch.float64))


def test_gradient_of_a_ramp_and_an_edge() -> None:
    y, x = np.mgrid[:40, :50]
    ramp = np.stack([0.01 * x, 0.004 * y, 0 * x], -1)
    # the gain of the filter on a ramp is the sum of k times tap k
    gain = 2 * sum(k * t for k, t in enumerate((0, 0.0878, 0.0963, 0.0509, 0.0142, 0.0019, 0.0001)))
    inner = gradient_magnitude(ramp)[14:-14, 14:-14]
    np.testing.assert_allclose(inner, gain * np.hypot(0.01, 0.004), rtol=0.01)
    edge = gradient_magnitude(np.repeat((x > 25)[..., None], 3, 2).astype(float))
    assert edge[20, 25] > 0.3
    assert edge[20, 5] == 0
    assert (gradient_magnitude(np.full((9, 9, 3), 0.7)) < 1e-3).all()


def test_block_jacobi_inverts_each_pixels_block() -> None:
    diagonal = torch.rand(6, 4, dtype=torch.float64) + 0.1
    residual = torch.randn(6, 4, dtype=torch.float64)
    blocks = torch.diag_embed(diagonal) + 100
    torch.testing.assert_close(
        block_jacobi(diagonal, 100)(residual), torch.linalg.solve(blocks, residual)
    )


@pytest.mark.parametrize("preconditioned", [True, False])
def test_conjugate_gradients(preconditioned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T + torch.diag(torch.logspace(0, 4, 20, dtype=torch.float64))
    right = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    divide = (lambda r: r / matrix.diagonal()[:, None]) if preconditioned else (lambda r: r)
    solution = conjugate_gradients(
        lambda x: matrix @ x, right, torch.zeros_like(right), divide, 1e-10, 500
    )
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-8)
    started = conjugate_gradients(lambda x: matrix @ x, right, solution, divide, 1e-6, 500)
    assert started is solution  # nothing to do


def relaxed_reference(
    laplacian: np.ndarray, alphas: np.ndarray, gradient: np.ndarray, iterations: int
) -> np.ndarray:
    """Compute the relaxed stage with an assembled matrix and a direct solver."""
    given = np.where(alphas < 0.1, 0, np.where(alphas > 0.9, 1, alphas))
    given = given / given.sum(1, keepdims=True)
    pixels, layers = given.shape
    smooth = np.kron(np.eye(layers), laplacian)
    coupling = 100 * np.kron(np.ones((layers, layers)), np.eye(pixels))
    power = np.minimum(0.9 + gradient, 1)[:, None] - 2
    current = given
    for _ in range(iterations):
        u = np.maximum(np.abs(current), 0.01) ** power
        v = np.maximum(np.abs(1 - current), 0.01) ** power
        system = smooth + coupling + np.diag((u + v).T.ravel()) + np.eye(pixels * layers)
        current = np.linalg.solve(system, (v + given + 100).T.ravel()).reshape(layers, pixels).T
    system = smooth + coupling + np.eye(pixels * layers)
    return np.linalg.solve(system, (current + 100).T.ravel()).reshape(layers, pixels).T


@pytest.mark.parametrize("preconditioned", [True, False])
def test_relaxed_stage_against_the_assembled_matrix(preconditioned: bool) -> None:
    image = drawn_photo(12)
    laplacian = matting_laplacian(image)
    alphas = torch.softmax(4 * torch.randn(144, 3, generator=torch.Generator().manual_seed(0)), 1)
    gradient = gradient_magnitude(image).ravel()
    expected = relaxed_reference(laplacian.toarray(), alphas.double().numpy(), gradient, 4)
    found = relaxed_sparsification(
        laplacian,
        alphas.double(),
        torch.from_numpy(gradient),
        4,
        500,
        2000,
        1e-10,
        preconditioned,
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_preconditioner_pays() -> None:
    image = drawn_photo(24)
    laplacian = matting_laplacian(image)
    alphas = torch.rand(576, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = torch.from_numpy(gradient_magnitude(image).ravel())
    exact, near, far = (
        relaxed_sparsification(laplacian, alphas, gradient, 3, steps, 1000, 1e-9, pre)
        for steps, pre in ((1000, True), (4, True), (4, False))
    )
    assert (near - exact).abs().max() < 0.3 * (far - exact).abs().max()


def test_relaxed_layers_of_a_pixel_without_any() -> None:
    laplacian = sparse.csr_array(matting_laplacian(drawn_photo(8)))
    alphas = torch.zeros(64, 2)
    alphas[1:, 0] = 1
    found = relaxed_sparsification(laplacian, alphas, torch.zeros(64))
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(64), atol=0.02, rtol=0)


def test_conjugate_gradients_stop_at_the_tolerance_or_the_limit() -> None:
    matrix = torch.diag(torch.logspace(0, 6, 300, dtype=torch.float64))
    right = torch.ones(300, 1, dtype=torch.float64)
    calls = []

    def operator(x: Tensor) -> Tensor:
        calls.append(x)
        return matrix @ x

    def residual(x: Tensor) -> float:
        return float((right - matrix @ x).norm() / right.norm())

    zeros = torch.zeros_like(right)
    for limit in (0, 1, 7):
        calls.clear()
        conjugate_gradients(operator, right, zeros, max_iterations=limit)
        assert len(calls) == 1 + limit  # the first is for the residual of the guess
    inverse = lambda r: r / (matrix.diagonal()[:, None] + 1)  # noqa: E731
    for tolerance in (1e-2, 1e-4):
        found = conjugate_gradients(operator, right, zeros, inverse, tolerance, 1000)
        assert 1e-3 * tolerance < residual(found) <= tolerance
    assert residual(conjugate_gradients(operator, right, zeros, inverse)) <= 1e-6


def test_block_jacobi_without_coupling_divides() -> None:
    diagonal = torch.rand(6, 4, dtype=torch.float64) + 0.1
    torch.testing.assert_close(block_jacobi(diagonal, 0)(diagonal), torch.ones_like(diagonal))


def test_relaxed_layers_start_from_rounded_alphas() -> None:
    """Without a Laplacian, each pixel keeps what it is closest to: 0, 1, or its own alphas."""
    alphas = torch.tensor([[0.95, 0.05], [0.09, 0.91], [0.5, 0.5]], dtype=torch.float64)
    nothing = sparse.csr_array(np.zeros((3, 3)))
    found = relaxed_sparsification(nothing, alphas, torch.zeros(3), 3, 200, 2000, 1e-12)
    expected = relaxed_reference(np.zeros((3, 3)), alphas.numpy(), np.zeros(3), 3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
    torch.testing.assert_close(found[:2], torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0)
