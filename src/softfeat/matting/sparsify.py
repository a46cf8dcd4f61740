"""Eigenvectors to alphas: sparsification in their span, then pixel by pixel (Aksoy et al. 2018).

Legend: N pixels, M eigenvectors, K layers.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

Array = NDArray[np.float64]

_SPARSITY = 0.8  # gamma of the constrained stage
_LEAST_WEIGHT = 0.3**_SPARSITY  # of the sparsity, at a distance of 1
_FEW = 20_000  # rows whose products fit into memory: 800 MB at most
_PRUNED_AT = 0.1  # layers that are nowhere greater vanish
_SUM_WEIGHT = 100.0  # of the relaxed sum constraint
_RELAXED_SPARSITY = 0.9  # gamma where the photo is flat

# Farid and Simoncelli (2004): derivative and prefilter of 13 taps, right half with the centre.
_DERIVATIVE = (0.0, -0.0878, -0.0963, -0.0509, -0.0142, -0.0019, -0.0001)
_PREFILTER = (0.2605, 0.2119, 0.1126, 0.0374, 0.0071, 0.0007, 0.0)


def sparsity_weights(alphas: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Weights of the squares that stand for |alpha - 1|^gamma and |alpha|^gamma at these alphas.

    Args:
        alphas: any shape.
        floor: least distance, which bounds the weights. Beyond a distance of 1 they stay what they
            are there, so that alphas far outside of [0,1] are not let go.

    Returns:
        Weights towards 1 and towards 0, shaped as the alphas.
    """
    to_one = (alphas - 1).abs().clamp(floor, 1) ** (_SPARSITY - 2)
    to_zero = alphas.abs().clamp(floor, 1) ** (_SPARSITY - 2)
    return _LEAST_WEIGHT * to_one, _LEAST_WEIGHT * to_zero


def weighted_grams(eigenvectors: Tensor, weights: Tensor) -> Tensor:
    """E^T diag(w_k) E for each of several weights.

    Args:
        eigenvectors: (N,M) E.
        weights: (N,K).

    Returns:
        (K,M,M) in double precision.
    """
    return torch.stack([(eigenvectors * w[:, None]).mT @ eigenvectors for w in weights.T]).double()


class Grams:
    """`weighted_grams` for one E and ever new weights; takes memory for N M^2 / 2 products.

    Args:
        eigenvectors: (N,M) E.
    """

    def __init__(self, eigenvectors: Tensor) -> None:
        self.size = eigenvectors.shape[1]
        self.rows, self.columns = torch.triu_indices(
            self.size, self.size, device=eigenvectors.device
        )
        # The products do not change from one iteration to the next: a matrix product is left over.
        self.products = eigenvectors.new_empty(len(eigenvectors), len(self.rows))
        start = 0
        for row in range(self.size):  # in place: both factors at once would take as much again
            part = slice(start, start := start + self.size - row)
            torch.mul(eigenvectors[:, row, None], eigenvectors[:, row:], out=self.products[:, part])

    def __call__(self, weights: Tensor) -> Tensor:
        """Of weights (N,K): (K,M,M) in double precision."""
        entries = (weights.mT @ self.products).double()
        grams = entries.new_empty(len(entries), self.size, self.size)
        grams[:, self.rows, self.columns] = entries
        grams[:, self.columns, self.rows] = entries
        return grams


def solve_layers(grams: Tensor, last: Tensor, right: Tensor) -> Tensor:
    """Solves A_k y_k + B sum_l y_l = r_k for k = 1..K-1 by block elimination.

    Exact, at K M^3 operations in place of the (K M)^3 of the assembled system.

    Args:
        grams: (K-1,M,M) A_k, symmetric positive definite.
        last: (M,M) B.
        right: (K-1,M) r_k.

    Returns:
        (K-1,M).
    """
    factors = torch.linalg.cholesky(grams)
    right_and_last = torch.cat([right[..., None], last.expand_as(grams)], -1)
    solved = torch.cholesky_solve(right_and_last, factors)
    own, of_sum = solved[..., 0], solved[..., 1:]
    identity = torch.eye(len(last), dtype=last.dtype, device=last.device)
    total = torch.linalg.solve(identity + of_sum.sum(0), own.sum(0))
    return own - of_sum @ total


def solve_layers_dense(grams: Tensor, last: Tensor, right: Tensor) -> Tensor:
    """`solve_layers` by one dense system of (K-1) M unknowns, as published."""
    system = torch.block_diag(*grams) + last.repeat(len(grams), len(grams))
    return torch.linalg.solve(system, right.flatten()).view_as(right)


def constrained_sparsification(
    eigenvectors: Tensor,
    eigenvalues: Tensor,
    labels: Tensor,
    pixels: Tensor | None = None,
    iterations: int = 40,
    floor: float = 1e-2,
    solve: Callable[[Tensor, Tensor, Tensor], Tensor] = solve_layers,
) -> tuple[Tensor, Tensor]:
    """Finds alphas in the span of the eigenvectors that are as close to 0 and 1 as can be.

    Minimises sum |alpha|^0.8 + |1 - alpha|^0.8 + alpha^T L alpha subject to sum_k alpha_k = 1 by
    iterated reweighting (Levin et al. 2008; Aksoy et al. 2018, Eq. 8 f.). After each quarter of the
    iterations (rounded up) layers that vanished are dropped.

    Args:
        eigenvectors: (N,M), orthonormal.
        eigenvalues: (M,).
        labels: (N,) initial segments.
        pixels: (n,) the pixels that the sums are estimated from, spread evenly; all by default.
            The least weight that any pixel can have is counted for all pixels, and only what
            exceeds it is estimated, so that no direction is left without weight.
        iterations: of the reweighting.
        floor: see `sparsity_weights`.
        solve: `solve_layers`, or `solve_layers_dense`.

    Returns:
        coefficients: (M,K') of the surviving layers: alphas = eigenvectors @ coefficients.
        survivors: (K',) the initial segments that they grew from.
    """
    size = len(eigenvectors)
    # E^T 1: the coefficients of the function 1, which is in the span
    one = eigenvectors.sum(0, dtype=torch.float64)
    rows = eigenvectors if pixels is None else eigenvectors[pixels]
    share = size / len(rows)
    segments = labels if pixels is None else labels[pixels]
    survivors, segments = segments.unique(return_inverse=True)
    alphas = torch.nn.functional.one_hot(segments).to(rows)
    coefficients = one[:, None]
    energy = torch.diag(eigenvalues.double() + 2 * _LEAST_WEIGHT)
    grams_of: Callable[[Tensor], Tensor] = (
        Grams(rows) if len(rows) <= _FEW else partial(weighted_grams, rows)
    )
    for iteration in range(1, iterations + 1):
        if alphas.shape[1] == 1:
            return one[:, None], survivors
        to_one, to_zero = sparsity_weights(alphas, floor)
        grams = share * grams_of(to_one + to_zero - 2 * _LEAST_WEIGHT) + energy
        wanted = to_one[:, :-1] + to_zero[:, -1:] - 2 * _LEAST_WEIGHT
        right = share * (rows.mT @ wanted).mT.double() + 2 * _LEAST_WEIGHT * one
        free = solve(grams[:-1], grams[-1], right).mT
        coefficients = torch.cat([free, (one - free.sum(1))[:, None]], 1)
        alphas = rows @ coefficients.to(rows)
        if 1 < iteration < iterations and iteration % -(-iterations // 4) == 1:
            kept = alphas.abs().amax(0) > _PRUNED_AT
            alphas, coefficients = alphas[:, kept], coefficients[:, kept]
            survivors = survivors[kept]
    return coefficients, survivors


def gradient_magnitude(image: Array) -> Array:
    """Length of the colour gradient, (H,W,3) in [0,1] -> (H,W) (Farid and Simoncelli 2004)."""
    derivative = np.array([*(-np.array(_DERIVATIVE[:0:-1])), *_DERIVATIVE])
    prefilter = np.array([*_PREFILTER[:0:-1], *_PREFILTER])
    squares = np.zeros(image.shape[:2])
    for first, second in ((derivative, prefilter), (prefilter, derivative)):
        along_y = ndimage.convolve1d(image, first, axis=0, mode="nearest")
        squares += (ndimage.convolve1d(along_y, second, axis=1, mode="nearest") ** 2).sum(-1)
    return np.sqrt(squares)


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda x: x,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Tensor:
    """Solves A x = b for symmetric positive definite A, or stops at the limit without complaint.

    Args:
        operator: x -> A x.
        right: b, any shape.
        start: x to start from.
        precondition: r -> approximation of A^-1 r, symmetric positive definite.
        tolerance: of ||b - A x|| / ||b||.
        max_iterations: the limit.
    """
    x = start
    residual = right - operator(x)
    limit = tolerance * right.norm()
    direction = torch.zeros_like(residual)
    before = torch.ones((), dtype=right.dtype, device=right.device)
    for _ in range(max_iterations):
        if residual.norm() <= limit:
            break
        towards = precondition(residual)
        now = (residual * towards).sum()
        direction = towards + (now / before) * direction
        image = operator(direction)
        step = now / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        before = now
    return x


def block_jacobi(diagonal: Tensor, coupling: float) -> Callable[[Tensor], Tensor]:
    """Inverse of every pixel's K x K block diag(d) + coupling * ones, in closed form.

    Args:
        diagonal: (N,K) d, positive.
        coupling: not negative.
    """
    inverse = 1 / diagonal
    share = coupling * inverse / (1 + coupling * inverse.sum(1, keepdim=True))

    def precondition(residual: Tensor) -> Tensor:
        scaled = inverse * residual
        return scaled - share * scaled.sum(1, keepdim=True)

    return precondition


def relaxed_sparsification(
    laplacian: sparse.csr_array,
    alphas: Tensor,
    gradient: Tensor,
    iterations: int = 20,
    steps: int = 100,
    final_steps: int = 1000,
    tolerance: float = 1e-6,
    preconditioned: bool = True,
) -> Tensor:
    """Refines layers pixel by pixel, outside of the span of the eigenvectors.

    Minimises alpha^T L alpha + sum |alpha|^gamma + |1 - alpha|^gamma + (alpha - given)^2 +
    100 (sum_k alpha_k - 1)^2 by iterated reweighting, gamma = min(0.9 + |gradient|, 1), and then
    once without the sparsity (Aksoy et al. 2018, Eq. 11).

    Args:
        laplacian: (N,N).
        alphas: (N,K) of the constrained stage, grouped; their precision and device are the
            computation's.
        gradient: (N,) of the photo, in [0,1] a pixel.
        iterations: of the reweighting.
        steps: of conjugate gradients in each, at most.
        final_steps: of the last solve, at most.
        tolerance: of the residual, relative.
        preconditioned: by the pixels' blocks.

    Returns:
        (N,K), not clipped; sums are near 1.
    """
    given = torch.where(alphas < 0.1, 0.0, torch.where(alphas > 0.9, 1.0, alphas))
    given = given / given.sum(1, keepdim=True).clamp(min=torch.finfo(given.dtype).tiny)
    power = (_RELAXED_SPARSITY + gradient.to(given)).clamp(max=1)[:, None] - 2
    with warnings.catch_warnings():  # of torch, which calls its sparse tensors new
        warnings.simplefilter("ignore", UserWarning)
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(laplacian.indptr),
            torch.from_numpy(laplacian.indices),
            torch.from_numpy(laplacian.data),
            laplacian.shape,
        ).to(given)
    degrees = torch.from_numpy(laplacian.diagonal()).to(given)[:, None]

    def solve(diagonal: Tensor, right: Tensor, start: Tensor, limit: int) -> Tensor:
        def operator(x: Tensor) -> Tensor:
            return matrix @ x + diagonal * x + _SUM_WEIGHT * x.sum(1, keepdim=True)

        def identity(x: Tensor) -> Tensor:
            return x

        jacobi = block_jacobi(degrees + diagonal, _SUM_WEIGHT)
        chosen = jacobi if preconditioned else identity
        return conjugate_gradients(operator, right, start, chosen, tolerance, limit)

    current = given
    for _ in range(iterations):
        to_zero = current.abs().clamp(min=0.01) ** power
        to_one = (1 - current).abs().clamp(min=0.01) ** power
        right = to_one + given + _SUM_WEIGHT
        current = solve(to_zero + to_one + 1, right, current, steps)
    return solve(torch.ones_like(current), current + _SUM_WEIGHT, current, final_steps)
