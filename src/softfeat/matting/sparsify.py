"""From eigenvectors to alphas: first in their span, then pixel by pixel (Aksoy et al. 2018).

Both stages push alphas towards 0 and 1 by minimising |alpha|^gamma + |1 - alpha|^gamma, which is
not convex. Iterated reweighting replaces it by weighted squares u alpha^2 + v (1 - alpha)^2, with
weights u and v from the last alphas, so that each iteration solves a linear system.

Legend: N pixels, n sampled pixels, M eigenvectors, K layers.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

from softfeat.ops.sizes import ceil_div

Array = NDArray[np.float64]

# Constrained stage
_SPARSITY = 0.8  # gamma
_LEAST_WEIGHT = 0.3**_SPARSITY  # weight of the sparsity at a distance of 1
_FEW = 20_000  # number of pixels up to which `Grams` is used: at most 800 MB
_PRUNED_AT = 0.1  # layers whose alphas are nowhere greater are dropped

# Relaxed stage
_SUM_WEIGHT = 100.0  # weight of (sum_k alpha_k - 1)^2
_RELAXED_SPARSITY = 0.9  # gamma where the photo has no gradient
LEAST_DISTANCE = 0.01  # distance to 0 and 1 below which the weights stop growing
_ROUND_DOWN_BELOW = 0.1  # alphas that start at 0
_ROUND_UP_ABOVE = 0.9  # alphas that start at 1

# Derivative and prefilter of 13 taps (Farid and Simoncelli 2004): the centre and the right half.
_DERIVATIVE = (0.0, -0.0878, -0.0963, -0.0509, -0.0142, -0.0019, -0.0001)
_PREFILTER = (0.2605, 0.2119, 0.1126, 0.0374, 0.0071, 0.0007, 0.0)


def sparsity_weights(alphas: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Compute the weights of the squares that replace |alpha - 1|^gamma and |alpha|^gamma.

    Args:
        alphas: Alphas of any shape.
        floor: Smallest distance, which bounds the weights. Distances above 1 count as 1, so that
            alphas far outside [0,1] are still pulled back.

    Returns:
        Weights towards 1 and weights towards 0, of the same shape as the alphas.
    """
    to_one = (alphas - 1).abs().clamp(floor, 1) ** (_SPARSITY - 2)
    to_zero = alphas.abs().clamp(floor, 1) ** (_SPARSITY - 2)
    return _LEAST_WEIGHT * to_one, _LEAST_WEIGHT * to_zero


def weighted_grams(eigenvectors: Tensor, weights: Tensor) -> Tensor:
    """Compute the Gram matrix E^T diag(w_k) E of each layer k.

    Args:
        eigenvectors: Eigenvectors (N,M) E.
        weights: Weights (N,K).

    Returns:
        Gram matrices (K,M,M) in double precision.
    """
    return torch.stack([(eigenvectors * w[:, None]).mT @ eigenvectors for w in weights.T]).double()


class Grams:
    """Faster `weighted_grams` for many weights and the same eigenvectors.

    An entry (i,j) of a Gram matrix is the sum over pixels of w E_i E_j. The products E_i E_j do not
    depend on the weights. With all of them in memory (N M^2 / 2 numbers), the Gram matrices are one
    matrix product.

    Args:
        eigenvectors: Eigenvectors (N,M) E.
    """

    def __init__(self, eigenvectors: Tensor) -> None:
        self.size = eigenvectors.shape[1]
        self.rows, self.columns = torch.triu_indices(
            self.size, self.size, device=eigenvectors.device
        )
        # Products of the upper triangle, row after row, (N,M*(M+1)/2). They are written in place,
        # since gathering both factors would need three times the memory.
        self.products = eigenvectors.new_empty(len(eigenvectors), len(self.rows))
        start = 0
        for row in range(self.size):
            end = start + self.size - row
            out = self.products[:, start:end]
            torch.mul(eigenvectors[:, row, None], eigenvectors[:, row:], out=out)
            start = end

    def __call__(self, weights: Tensor) -> Tensor:
        """Compute the Gram matrices (K,M,M) of weights (N,K), in double precision."""
        entries = (weights.mT @ self.products).double()  # (K,M*(M+1)/2)
        grams = entries.new_empty(len(entries), self.size, self.size)
        grams[:, self.rows, self.columns] = entries
        grams[:, self.columns, self.rows] = entries
        return grams


def _gram_function(eigenvectors: Tensor) -> Callable[[Tensor], Tensor]:
    """Choose how to compute Gram matrices: `Grams`, if its products fit into memory."""
    if len(eigenvectors) <= _FEW:
        return Grams(eigenvectors)
    return partial(weighted_grams, eigenvectors)


def solve_layers(grams: Tensor, last: Tensor, right: Tensor) -> Tensor:
    """Solve A_k y_k + B sum_l y_l = r_k for k = 1..K-1 by block elimination.

    The result is exact. It takes K M^3 operations, where the assembled system takes (K M)^3.

    Args:
        grams: Symmetric positive definite matrices (K-1,M,M) A_k.
        last: Matrix (M,M) B.
        right: Right-hand sides (K-1,M) r_k.

    Returns:
        Solutions (K-1,M) y_k.
    """
    # With s = sum_l y_l, each layer gives y_k = A_k^-1 r_k - A_k^-1 B s.
    factors = torch.linalg.cholesky(grams)  # (K-1,M,M)
    right_and_last = torch.cat([right[..., None], last.expand_as(grams)], -1)  # (K-1,M,1+M)
    solved = torch.cholesky_solve(right_and_last, factors)  # (K-1,M,1+M)
    own = solved[..., 0]  # (K-1,M) A_k^-1 r_k
    coupling = solved[..., 1:]  # (K-1,M,M) A_k^-1 B

    # The sum over k is a system for s alone: (Id + sum_k A_k^-1 B) s = sum_k A_k^-1 r_k.
    identity = torch.eye(len(last), dtype=last.dtype, device=last.device)
    total = torch.linalg.solve(identity + coupling.sum(0), own.sum(0))  # (M,)
    return own - coupling @ total


def solve_layers_dense(grams: Tensor, last: Tensor, right: Tensor) -> Tensor:
    """Solve the system of `solve_layers` in one piece, with (K-1) M unknowns, as published.

    Args:
        grams: Symmetric positive definite matrices (K-1,M,M) A_k.
        last: Matrix (M,M) B.
        right: Right-hand sides (K-1,M) r_k.

    Returns:
        Solutions (K-1,M) y_k.
    """
    system = torch.block_diag(*grams) + last.repeat(len(grams), len(grams))
    return torch.linalg.solve(system, right.flatten()).view_as(right)


def constrained_sparsification(
    eigenvectors: Tensor,
    eigenvalues: Tensor,
    labels: Tensor,
    sums: Tensor | None = None,
    share: float = 1.0,
    iterations: int = 40,
    floor: float = 1e-2,
    solve: Callable[[Tensor, Tensor, Tensor], Tensor] = solve_layers,
) -> tuple[Tensor, Tensor]:
    """Find alphas in the span of the eigenvectors that are as close to 0 and 1 as possible.

    Minimises sum |alpha|^0.8 + |1 - alpha|^0.8 + alpha^T L alpha subject to sum_k alpha_k = 1 by
    iterated reweighting (Levin et al. 2008; Aksoy et al. 2018, Eq. 8 f.). Layers without any alpha
    above 0.1 are dropped after each quarter of the iterations.

    Sums over all pixels can be estimated from evenly spread ones. The smallest weight that a pixel
    can have is counted for all pixels. Only the excess is estimated, so that no direction has
    weight 0.

    Args:
        eigenvectors: Rows (n,M) of orthonormal eigenvectors (N,M), of all or some of the pixels.
        eigenvalues: Eigenvalues (M,).
        labels: Initial segment (n,) of each of these pixels.
        sums: Sum (M,) of each eigenvector over all pixels, in double precision. None if all are
            given.
        share: N / n, the number of pixels for which one of them stands.
        iterations: Number of reweighting iterations.
        floor: Smallest distance, see `sparsity_weights`.
        solve: Solver of the linear systems, `solve_layers` or `solve_layers_dense`.

    Returns:
        coefficients: Coefficients (M,K') of the remaining layers. Their alphas are
            `eigenvectors @ coefficients`.
        survivors: Initial segment (K',) of each remaining layer.
    """
    # (M,) E^T 1, coefficients of the constant 1
    one = eigenvectors.sum(0, dtype=torch.float64) if sums is None else sums
    survivors, segments = labels.unique(return_inverse=True)  # (K,), (n,)
    alphas = torch.nn.functional.one_hot(segments).to(eigenvectors)  # (n,K)
    coefficients = one[:, None]  # (M,1)
    # Both terms are diagonal in the span. The smallest weight counts towards 0 and towards 1.
    energy = torch.diag(eigenvalues.double() + 2 * _LEAST_WEIGHT)  # (M,M)
    compute_grams = _gram_function(eigenvectors)
    for iteration in range(1, iterations + 1):
        if alphas.shape[1] == 1:
            return one[:, None], survivors

        # The last layer is 1 minus the sum of the others, so only K - 1 layers are unknown. The
        # squares of the last layer couple all of them.
        to_one, to_zero = sparsity_weights(alphas, floor)  # (n,K) each
        grams = share * compute_grams(to_one + to_zero - 2 * _LEAST_WEIGHT) + energy  # (K,M,M)
        target = to_one[:, :-1] + to_zero[:, -1:] - 2 * _LEAST_WEIGHT  # (n,K-1)
        right = share * (eigenvectors.mT @ target).mT.double() + 2 * _LEAST_WEIGHT * one  # (K-1,M)
        free = solve(grams[:-1], grams[-1], right).mT  # (M,K-1)
        coefficients = torch.cat([free, (one - free.sum(1))[:, None]], 1)  # (M,K)
        alphas = eigenvectors @ coefficients.to(eigenvectors)  # (n,K)
        if 1 < iteration < iterations and iteration % ceil_div(iterations, 4) == 1:
            remaining = alphas.abs().amax(0) > _PRUNED_AT  # (K,)
            alphas = alphas[:, remaining]
            coefficients = coefficients[:, remaining]
            survivors = survivors[remaining]
    return coefficients, survivors


def gradient_magnitude(image: Array) -> Array:
    """Compute the magnitude of the colour gradient (Farid and Simoncelli 2004).

    Args:
        image: Photo (H,W,3) in [0,1].

    Returns:
        Magnitude (H,W), per pixel, over all three colours.
    """
    # Mirror the halves: the derivative is odd, the prefilter even.
    derivative = np.array([*(-np.array(_DERIVATIVE[:0:-1])), *_DERIVATIVE])  # (13,)
    prefilter = np.array([*_PREFILTER[:0:-1], *_PREFILTER])  # (13,)
    squares = np.zeros(image.shape[:2])  # (H,W)
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
    """Solve A x = b for a symmetric positive definite A by conjugate gradients.

    Args:
        operator: Function x -> A x.
        right: Right-hand side b of any shape.
        start: First guess of x, of the same shape.
        precondition: Function r -> approximation of A^-1 r, symmetric positive definite.
        tolerance: Value of ||b - A x|| / ||b|| at which to stop.
        max_iterations: Number of iterations after which to stop without an error.

    Returns:
        Solution x, of the same shape as `right`.
    """
    x = start
    residual = right - operator(x)
    limit = tolerance * right.norm()
    direction = torch.zeros_like(residual)
    last_product = torch.ones((), dtype=right.dtype, device=right.device)
    for _ in range(max_iterations):
        if residual.norm() <= limit:
            break
        # The next direction is conjugate to all before it: direction_i^T A direction_j = 0.
        descent = precondition(residual)
        product = (residual * descent).sum()
        direction = descent + (product / last_product) * direction

        # Minimise the error along the direction.
        image = operator(direction)
        step = product / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        last_product = product
    return x


def block_jacobi(diagonal: Tensor, coupling: float) -> Callable[[Tensor], Tensor]:
    """Invert the K x K block diag(d) + coupling * ones of every pixel in closed form.

    The closed form is the Sherman-Morrison formula.

    Args:
        diagonal: Positive diagonals (N,K) d.
        coupling: Factor of the matrix of ones, at least 0.

    Returns:
        Function that multiplies residuals (N,K) by the inverse blocks.
    """
    inverse = 1 / diagonal  # (N,K)
    share = coupling * inverse / (1 + coupling * inverse.sum(1, keepdim=True))  # (N,K)

    def precondition(residual: Tensor) -> Tensor:
        scaled = inverse * residual  # (N,K)
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
    """Refine layers pixel by pixel, outside the span of the eigenvectors.

    Minimises alpha^T L alpha + sum |alpha|^gamma + |1 - alpha|^gamma + (alpha - target)^2 +
    100 (sum_k alpha_k - 1)^2 by iterated reweighting, with gamma = min(0.9 + |gradient|, 1), and
    then once more without the sparsity (Aksoy et al. 2018, Eq. 11).

    Args:
        laplacian: Laplacian (N,N).
        alphas: Grouped alphas (N,K) of the constrained stage. Their type and device are used for
            the computation.
        gradient: Gradient magnitude (N,) of the photo, for colours in [0,1].
        iterations: Number of reweighting iterations.
        steps: Maximum number of conjugate gradient steps in each iteration.
        final_steps: Maximum number of conjugate gradient steps in the last solve.
        tolerance: Relative residual at which conjugate gradients stop.
        preconditioned: Whether to precondition with the inverse of each pixel's K x K block.

    Returns:
        Alphas (N,K), not clipped. They add up to about 1. Since the weights stop growing, alphas
        up to `LEAST_DISTANCE` mean 0.
    """
    target = _rounded(alphas)  # (N,K)
    power = (_RELAXED_SPARSITY + gradient.to(target)).clamp(max=1)[:, None] - 2  # (N,1) gamma - 2
    matrix = _sparse_tensor(laplacian).to(target)  # (N,N)
    degrees = torch.from_numpy(laplacian.diagonal()).to(target)[:, None]  # (N,1)

    def solve(diagonal: Tensor, right: Tensor, start: Tensor, limit: int) -> Tensor:
        """Solve (L + diag(diagonal) + 100 C) x = right, where C sums over the layers."""

        def operator(x: Tensor) -> Tensor:
            return matrix @ x + diagonal * x + _SUM_WEIGHT * x.sum(1, keepdim=True)

        def identity(x: Tensor) -> Tensor:
            return x

        jacobi = block_jacobi(degrees + diagonal, _SUM_WEIGHT)
        precondition = jacobi if preconditioned else identity
        return conjugate_gradients(operator, right, start, precondition, tolerance, limit)

    current = target
    for _ in range(iterations):
        to_zero = current.abs().clamp(min=LEAST_DISTANCE) ** power  # (N,K)
        to_one = (1 - current).abs().clamp(min=LEAST_DISTANCE) ** power  # (N,K)
        right = to_one + target + _SUM_WEIGHT  # (N,K)
        current = solve(to_zero + to_one + 1, right, current, steps)
    return solve(torch.ones_like(current), current + _SUM_WEIGHT, current, final_steps)


def _rounded(alphas: Tensor) -> Tensor:
    """Round alphas (N,K) near 0 and 1, and divide them by their sum over the layers."""
    rounded = torch.where(alphas > _ROUND_UP_ABOVE, 1.0, alphas)
    rounded = torch.where(alphas < _ROUND_DOWN_BELOW, 0.0, rounded)
    # A pixel may have only small alphas. It then stays 0 in all layers.
    smallest = torch.finfo(rounded.dtype).tiny
    return rounded / rounded.sum(1, keepdim=True).clamp(min=smallest)


def _sparse_tensor(matrix: sparse.csr_array) -> Tensor:
    """Convert a SciPy matrix to torch, in the same format."""
    # torch warns that its support of this format is new.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            matrix.shape,
        )
