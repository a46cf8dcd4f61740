"""The smallest eigenvectors of the Laplacian, computed exactly or in a space of superpixels.

Legend: N pixels, S superpixels, F functions of a basis, M eigenvectors, K columns.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, SuperLU, eigsh, splu

from softfeat.matting.affinity import segment_means
from softfeat.ops.sizes import ceil_div
from softfeat.thread_pool import map_in_threads

Array = NDArray[np.float64]

# Standard deviation (of colours in [0,1]) of the colour directions of a superpixel. Below it there
# is only rounding.
_LEAST_SPREAD = 3e-5
_JACOBI_DAMPING = 0.66
_NEGLIGIBLE = 0.005  # part of a typical entry of the basis, below which entries are left out
_SHIFT = 1e-6  # factor of the mass that is added before a factorisation, since L is singular
_BLOCKS = 22  # of the Krylov space, each for a tenth of the eigenvectors


@dataclass(frozen=True)
class Eigenvectors:
    """Eigenvectors as sums of sparse functions, `basis @ coordinates`.

    All of them for all pixels are a large matrix (N,M), which hardly anyone needs.

    Attributes:
        values: Eigenvalues (M,), in increasing order.
        basis: Functions (N,F).
        coordinates: Shares (F,M) of the functions.
    """

    values: Array
    basis: sparse.csr_array
    coordinates: Array

    @property
    def vectors(self) -> Array:
        """The eigenvectors (N,M)."""
        return self.basis @ self.coordinates

    def at(self, pixels: NDArray[np.int64]) -> Array:
        """The rows (n,M) of some pixels (n,)."""
        return self.basis[pixels] @ self.coordinates

    def sums(self) -> Array:
        """The sum (M,) of each eigenvector over all pixels."""
        return self.basis.sum(0) @ self.coordinates

    def combined(self, coefficients: Array) -> Array:
        """The combinations (N,K) of the eigenvectors with coefficients (M,K)."""
        return self.basis @ (self.coordinates @ coefficients)


def smallest_eigenvectors(
    laplacian: sparse.csr_array,
    count: int,
    mass: sparse.csr_array | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Compute the eigenvectors whose eigenvalues are smallest in magnitude.

    Uses Lanczos iterations on the inverse of the shifted matrix, in which these eigenvalues are the
    largest.

    Args:
        laplacian: Symmetric matrix (N,N).
        count: Number of eigenvectors M. A matrix with N < M has only N.
        mass: Symmetric positive definite matrix (N,N) B of a generalised problem L v = lambda B v.
            None stands for the identity.
        tolerance: Relative error of the eigenvalues.
        seed: Random seed of the start vector.

    Returns:
        Eigenvalues (M,) in increasing order, and eigenvectors (N,M), orthonormal with respect to
        the mass.
    """
    size = laplacian.shape[0]
    # Lanczos needs a space that is larger than the number of eigenvectors.
    if size < 3 * count:
        return _dense_eigenvectors(laplacian, mass, count)
    factors = _factors(laplacian, sparse.eye_array(size) if mass is None else mass)
    return eigsh(
        laplacian,
        count,
        M=mass,
        sigma=-_SHIFT,
        OPinv=LinearOperator(laplacian.shape, factors.solve, dtype=np.float64),
        tol=tolerance,
        v0=np.random.default_rng(seed).standard_normal(size),
    )


def _dense_eigenvectors(
    laplacian: sparse.csr_array, mass: sparse.csr_array | None, count: int
) -> tuple[Array, Array]:
    dense_mass = None if mass is None else mass.toarray()
    values, vectors = eigh(laplacian.toarray(), dense_mass)
    return _nearest_to_zero(values, vectors, count)


def _nearest_to_zero(values: Array, vectors: Array, count: int) -> tuple[Array, Array]:
    """Choose the eigenvalues of smallest magnitude."""
    nearest = np.sort(np.argsort(np.abs(values), kind="stable")[:count])
    return values[nearest], vectors[:, nearest]


def _factors(laplacian: sparse.csr_array, mass: sparse.csr_array) -> SuperLU:
    """Factorise the Laplacian, made regular by a small part of the mass."""
    # These options are for symmetric matrices. The defaults give factors with far more entries.
    return splu(
        (laplacian + _SHIFT * mass).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def krylov_eigenvectors(
    laplacian: sparse.csr_array, mass: sparse.csr_array, count: int, seed: int = 0
) -> tuple[Array, Array]:
    """Approximate the smallest eigenvectors in a block Krylov space (Golub and Underwood 1977).

    The space is that of the inverse of the shifted matrix, as in `smallest_eigenvectors`, but built
    from blocks of vectors, which is faster. The last eigenvalues are less exact than there.

    Args:
        laplacian: Symmetric matrix (F,F) L.
        mass: Symmetric positive definite matrix (F,F) B of the problem L v = lambda B v.
        count: Number of eigenvectors M. A matrix with F < M has only F.
        seed: Random seed of the first block.

    Returns:
        Eigenvalues (M,) in increasing order, and eigenvectors (F,M), orthonormal with respect to
        the mass.
    """
    size = laplacian.shape[0]
    width = ceil_div(count, 10)
    if size < 2 * _BLOCKS * width:
        return _dense_eigenvectors(laplacian, mass, count)
    factors = _factors(laplacian, mass)
    space = np.empty((size, _BLOCKS * width), order="F")
    block = np.random.default_rng(seed).standard_normal((size, width))
    for start in range(0, _BLOCKS * width, width):
        block = factors.solve(mass @ block)  # (F,M/10)
        before = space[:, :start]
        for _ in range(2):  # once leaves rounding errors
            block = block - before @ (before.T @ block)
        block = np.linalg.qr(block)[0]
        space[:, start : start + width] = block

    # Rayleigh-Ritz method
    values, shares = eigh(space.T @ (laplacian @ space), space.T @ (mass @ space))
    values, shares = _nearest_to_zero(values, shares, count)
    return values, space @ shares


def superpixel_basis(image: Array, superpixels: NDArray) -> sparse.csr_array:
    """Build functions that are affine in colour within one superpixel and 0 elsewhere.

    The matting energy of such a function is zero inside the superpixel (Levin et al. 2008). So the
    smallest eigenvectors are nearly sums of such functions.

    Args:
        image: Photo (H,W,3) in [0,1], N = H*W.
        superpixels: Superpixel map (H,W) with ids 0..S-1, each of which occurs.

    Returns:
        Matrix (N,F) with orthonormal columns, S <= F <= 4 S: a constant and up to three colour
        directions for each superpixel.
    """
    ids = superpixels.astype(np.int32).ravel()  # (N,)
    counts = np.bincount(ids)  # (S,)
    pixels = image.reshape(-1, 3)  # (N,3)

    # Principal axes of the colours in each superpixel
    centred = pixels - segment_means(ids, pixels)[ids]  # (N,3)
    products = centred[:, :, None] * centred[:, None, :]  # (N,3,3)
    covariance = segment_means(ids, products.reshape(-1, 9)).reshape(-1, 3, 3)  # (S,3,3)
    variances, axes = np.linalg.eigh(covariance)  # (S,3), (S,3,3)

    # Whitened colours are orthonormal to each other and to the constant, up to the pixel count.
    whitening = axes / np.sqrt(variances.clip(min=_LEAST_SPREAD**2))[:, None, :]  # (S,3,3)
    colours = np.einsum("nc,ncd->nd", centred, whitening[ids])  # (N,3)
    constant = np.ones((len(ids), 1))
    entries = np.concatenate([constant, colours], 1) / np.sqrt(counts)[ids, None]  # (N,4)

    # Superpixel s has the columns 4 s .. 4 s + 3.
    columns = 4 * ids[:, None] + np.arange(4, dtype=np.int32)  # (N,4)
    starts = np.arange(0, entries.size + 1, 4, dtype=np.int32)  # (N+1,)
    basis = sparse.csr_array(
        (entries.ravel(), columns.ravel(), starts),
        shape=(len(ids), 4 * len(counts)),
    )

    # Leave out the colour directions in which a superpixel does not vary.
    has_constant = np.ones((len(counts), 1), bool)
    has_spread = variances > _LEAST_SPREAD**2  # (S,3)
    in_use = np.concatenate([has_constant, has_spread], 1).ravel()  # (4*S,)
    return basis[:, np.flatnonzero(in_use)]


def superpixel_eigenvectors(
    laplacian: sparse.csr_array,
    matting: sparse.csr_array,
    basis: sparse.csr_array,
    count: int,
    smoothing: int = 2,
    seed: int = 0,
) -> Eigenvectors:
    """Approximate the smallest eigenvectors in the span of a basis (Rayleigh-Ritz method).

    Args:
        laplacian: Symmetric matrix (N,N).
        matting: Part (N,N) of the Laplacian that connects neighbouring pixels.
        basis: Result (N,F) of `superpixel_basis`.
        count: Number of eigenvectors M. A basis with F < M gives only F.
        smoothing: Number of damped Jacobi steps on the matting energy. They blend the functions
            across the borders of the superpixels.
        seed: Random seed of the iterations.

    Returns:
        Approximate eigenvalues in increasing order, and orthonormal vectors.
    """
    # Jacobi step: basis - damping * diag(matting)^-1 matting basis
    scale = np.repeat(_JACOBI_DAMPING / matting.diagonal(), np.diff(matting.indptr))
    step = sparse.csr_array((-scale * matting.data, matting.indices, matting.indptr), matting.shape)
    step.setdiag(1 - _JACOBI_DAMPING)
    for _ in range(smoothing):
        basis = _product(step, basis)
    if smoothing:
        basis.data[np.abs(basis.data) < _NEGLIGIBLE * (basis.shape[1] / basis.shape[0]) ** 0.5] = 0
        basis.eliminate_zeros()

    # Smoothed functions overlap and are no longer orthonormal, hence the mass matrix.
    transposed = basis.T.tocsr()  # (F,N)
    projected = _product(transposed, _product(laplacian, basis))  # (F,F)
    mass = _product(transposed, basis)  # (F,F)
    values, coordinates = krylov_eigenvectors(projected, mass, count, seed)
    return Eigenvectors(values, basis, coordinates)


def _product(left: sparse.csr_array, right: sparse.csr_array) -> sparse.csr_array:
    """Multiply sparse matrices in as many threads as torch uses; SciPy uses only one."""
    threads = torch.get_num_threads()
    if threads == 1:
        return left @ right
    edges = np.linspace(0, left.shape[0], threads + 1).astype(int).tolist()
    parts = map_in_threads(lambda rows: left[rows[0] : rows[1]] @ right, pairwise(edges))
    return sparse.vstack(parts, format="csr")
