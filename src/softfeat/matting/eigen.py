"""The smallest eigenvectors of the Laplacian, computed exactly or in a space of superpixels.

Legend: N pixels, S superpixels, F functions of a basis, M eigenvectors.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh, splu

from softfeat.matting.affinity import segment_means

Array = NDArray[np.float64]

# Standard deviation (of colours in [0,1]) of the colour directions of a superpixel. Below it there
# is only rounding.
_LEAST_SPREAD = 3e-5
_JACOBI_DAMPING = 0.66


def smallest_eigenvectors(
    laplacian: sparse.csr_array,
    count: int,
    mass: sparse.csr_array | None = None,
    tolerance: float = 1e-6,
    shift: float = 1e-6,
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
        shift: Factor of the mass that is added before the factorisation, since L is singular.
        seed: Random seed of the start vector.

    Returns:
        Eigenvalues (M,) in increasing order, and eigenvectors (N,M), orthonormal with respect to
        the mass.
    """
    size = laplacian.shape[0]
    # Lanczos needs a space that is larger than the number of eigenvectors.
    if size < 3 * count:
        dense_mass = np.eye(size) if mass is None else mass.toarray()
        values, vectors = eigh(laplacian.toarray(), dense_mass)
        nearest = np.sort(np.argsort(np.abs(values), kind="stable")[:count])
        return values[nearest], vectors[:, nearest]

    # These options are for symmetric matrices. The defaults give factors with far more entries.
    shifted = laplacian + shift * (sparse.eye_array(size) if mass is None else mass)
    factors = splu(
        shifted.tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return eigsh(
        laplacian,
        count,
        M=mass,
        sigma=-shift,
        OPinv=LinearOperator(laplacian.shape, factors.solve, dtype=np.float64),
        tol=tolerance,
        v0=np.random.default_rng(seed).standard_normal(size),
    )


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
    ids = superpixels.astype(np.int64).ravel()  # (N,)
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
    columns = 4 * ids[:, None] + np.arange(4)  # (N,4)
    starts = np.arange(0, entries.size + 1, 4)  # (N+1,)
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
    tolerance: float = 1e-2,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Approximate the smallest eigenvectors in the span of a basis (Rayleigh-Ritz method).

    Args:
        laplacian: Symmetric matrix (N,N).
        matting: Part (N,N) of the Laplacian that connects neighbouring pixels.
        basis: Result (N,F) of `superpixel_basis`.
        count: Number of eigenvectors M. A basis with F < M gives only F.
        smoothing: Number of damped Jacobi steps on the matting energy. They blend the functions
            across the borders of the superpixels.
        tolerance: Relative error of the eigenvalues of the projected Laplacian.
        seed: Random seed of the start vector.

    Returns:
        Approximate eigenvalues (M,) in increasing order, and orthonormal vectors (N,M).
    """
    # Jacobi step: basis - damping * diag(matting)^-1 matting basis
    step = sparse.diags_array(_JACOBI_DAMPING / matting.diagonal()) @ matting  # (N,N)
    for _ in range(smoothing):
        basis = basis - step @ basis
    basis = basis.tocsr()

    # Smoothed functions overlap and are no longer orthonormal, hence the mass matrix.
    projected = (basis.T @ (laplacian @ basis)).tocsr()  # (F,F)
    mass = (basis.T @ basis).tocsr()  # (F,F)
    values, coefficients = smallest_eigenvectors(projected, count, mass, tolerance, seed=seed)
    return values, basis @ coefficients  # (M,), (N,M)
