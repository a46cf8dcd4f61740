"""The smallest eigenvectors of the Laplacian: exactly, or in a space that superpixels span.

Legend: N pixels, S superpixels, M eigenvectors.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh, splu

from softfeat.matting.affinity import segment_means

Array = NDArray[np.float64]

# Colour directions in which a superpixel spreads less (standard deviation, colours in [0,1]) hold
# nothing but rounding.
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
    """The eigenvectors whose eigenvalues are smallest in magnitude, by shift-invert Lanczos.

    Args:
        laplacian: (N,N) symmetric.
        count: M; fewer come out of a smaller matrix.
        mass: (N,N) symmetric positive definite, of a generalised problem; None for the identity.
        tolerance: of the eigenvalues, relative.
        shift: times the mass is added before factorisation, for L itself is singular.
        seed: of the start.

    Returns:
        eigenvalues (M,), rising, and eigenvectors (N,M), orthonormal (with respect to the mass).
    """
    size = laplacian.shape[0]
    if size < 3 * count:  # too small for Lanczos
        dense_mass = np.eye(size) if mass is None else mass.toarray()
        values, vectors = eigh(laplacian.toarray(), dense_mass)
        nearest = np.sort(np.argsort(np.abs(values), kind="stable")[:count])
        return values[nearest], vectors[:, nearest]
    shifted = laplacian + shift * (sparse.eye_array(size) if mass is None else mass)
    # The default mode, for matrices that are not symmetric, fills in far more.
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
    """Functions that are affine in colour within a superpixel and 0 elsewhere.

    The matting energy of such a function vanishes within the superpixel (Levin et al. 2008).

    Args:
        image: (H,W,3) in [0,1].
        superpixels: (H,W) ids 0..S-1, none without pixels.

    Returns:
        (N,F), S <= F <= 4 S, orthonormal columns.
    """
    ids = superpixels.astype(np.int64).ravel()
    counts = np.bincount(ids)
    pixels = image.reshape(-1, 3)
    centred = pixels - segment_means(ids, pixels)[ids]
    products = centred[:, :, None] * centred[:, None, :]
    variances, axes = np.linalg.eigh(segment_means(ids, products.reshape(-1, 9)).reshape(-1, 3, 3))
    whitening = axes / np.sqrt(variances.clip(min=_LEAST_SPREAD**2))[:, None, :]
    colours = np.einsum("nc,ncd->nd", centred, whitening[ids])
    entries = np.concatenate([np.ones((len(ids), 1)), colours], 1) / np.sqrt(counts)[ids, None]
    columns = 4 * ids[:, None] + np.arange(4)
    basis = sparse.csr_array(
        (entries.ravel(), columns.ravel(), np.arange(0, entries.size + 1, 4)),
        shape=(len(ids), 4 * len(counts)),
    )
    kept = np.concatenate(
        [np.ones((len(counts), 1), bool), variances > _LEAST_SPREAD**2], 1
    ).ravel()
    return basis[:, np.flatnonzero(kept)]


def superpixel_eigenvectors(
    laplacian: sparse.csr_array,
    matting: sparse.csr_array,
    basis: sparse.csr_array,
    count: int,
    smoothing: int = 2,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> tuple[Array, Array]:
    """`smallest_eigenvectors` in the span of a basis (Rayleigh-Ritz).

    Args:
        laplacian: (N,N) symmetric.
        matting: (N,N) the part of it that connects neighbouring pixels.
        basis: (N,F) of `superpixel_basis`.
        count: M; fewer come out of fewer functions.
        smoothing: steps of damped Jacobi on the matting energy, which blend the functions across
            the borders of superpixels.
        tolerance: of the eigenvalues of the projected Laplacian, relative.
        seed: of the start.

    Returns:
        values (M,), rising, and vectors (N,M), orthonormal.
    """
    step = sparse.diags_array(_JACOBI_DAMPING / matting.diagonal()) @ matting
    for _ in range(smoothing):
        basis = basis - step @ basis
    basis = basis.tocsr()
    projected, mass = (basis.T @ (laplacian @ basis)).tocsr(), (basis.T @ basis).tocsr()
    values, coefficients = smallest_eigenvectors(projected, count, mass, tolerance, seed=seed)
    return values, basis @ coefficients
