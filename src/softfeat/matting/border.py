"""Soft borders of a coarse selection: the matting equation, solved in a band around its border.

Legend: H W pixels, N = H*W, U unknown pixels.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import LinearOperator, cg

from softfeat.imaging.convert import to_float

_WINDOW, _EPS = 11, 1e-4  # guided filter


def unknown_band(selected: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Finds the pixels whose alpha is not certain.

    Args:
        selected: (H,W).
        radius: Distance in pixels from the border of the selection.

    Returns:
        (H,W). Nothing, if all pixels or none are selected.
    """
    border = np.zeros_like(selected)
    for axis in (0, 1):
        changes = np.diff(selected, axis=axis)
        border |= np.pad(changes, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
        border |= np.pad(changes, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
    if not border.any():
        return border
    return ndimage.distance_transform_edt(~border) < radius


class Guide:
    """A photo as the guide of many guided filters: what depends on the photo alone is kept.

    The result is that of `softfeat.ops.guided_filter`, for one mask, in a fifth of its time.

    Args:
        image: (H,W,3) RGB.
        window: Side of the window in pixels, odd. Reduced for photos smaller than the window.
        eps: Regularisation, see `guided_filter`.
    """

    def __init__(self, image: NDArray[np.uint8], window: int = _WINDOW, eps: float = _EPS) -> None:
        self.window = min(window, 2 * min(image.shape[:2]) - 1)
        self.colours = to_float(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3,H,W)
        self.means = self._mean(self.colours)
        products = self.colours[:, None] * self.colours  # (3,3,H,W)
        covariance = self._mean(products) - self.means[:, None] * self.means
        matrices = np.moveaxis(covariance, (0, 1), (2, 3)) + eps * np.eye(3, dtype=np.float32)
        inverse = np.moveaxis(np.linalg.inv(matrices), (2, 3), (0, 1))
        self.inverse = np.ascontiguousarray(inverse)  # (3,3,H,W)

    def _mean(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Averages maps (...,H,W) over the window around each pixel."""
        rows = ndimage.uniform_filter1d(maps, self.window, axis=-1, mode="mirror")
        return ndimage.uniform_filter1d(rows, self.window, axis=-2, mode="mirror")

    def __call__(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filters a mask (H,W)."""
        mean = self._mean(mask)
        shared = self._mean(self.colours * mask) - self.means * mean  # (3,H,W)
        slopes = np.einsum("ijyx,jyx->iyx", self.inverse, shared)  # (3,H,W)
        offset = mean - np.einsum("iyx,iyx->yx", slopes, self.means)
        return self._mean(offset) + np.einsum("iyx,iyx->yx", self._mean(slopes), self.colours)


def refine_border(
    guide: Guide,
    laplacian: sparse.csr_array,
    selected: NDArray[np.bool_],
    radius: float,
    certain: NDArray[np.bool_] | None = None,
    trust: float = 0.01,
    iterations: int = 25,
    tolerance: float = 1e-2,
) -> NDArray[np.float32]:
    """Makes the border of a selection as soft as the photo is there.

    In the band of unknown pixels it minimises alpha^T L alpha + trust |alpha - selected|^2. It
    starts from the selection after a guided filter. Other pixels stay 0 or 1.

    Args:
        guide: The photo.
        laplacian: (N,N) matting Laplacian of the photo.
        selected: (H,W) the selected pixels.
        radius: Half the width of the band, in pixels.
        certain: (H,W) pixels that stay as they are, even near the border.
        trust: Weight of the selection.
        iterations: Largest number of conjugate-gradient steps. A few are enough to follow hair; the
            solution itself leaks where the photo has no edge.
        tolerance: Relative residual at which they stop.

    Returns:
        (H,W) in [0,1].
    """
    alpha = selected.astype(np.float64).ravel()  # (N,)
    band = unknown_band(selected, radius)
    if certain is not None:
        band &= ~certain
    unknown = np.flatnonzero(band)  # (U,)
    if not len(unknown):
        return alpha.reshape(selected.shape).astype(np.float32)
    start = guide(selected.astype(np.float32))
    prior, alpha[unknown] = alpha[unknown], 0
    rows = laplacian[unknown]  # (U,N)
    wanted = trust * prior - rows @ alpha  # (U,)

    # The part of the rows that joins unknown pixels with each other.
    position = np.full(selected.size, -1, np.int32)
    position[unknown] = np.arange(len(unknown), dtype=np.int32)
    columns = position[rows.indices]
    inner = columns >= 0
    starts = np.concatenate([[0], np.cumsum(inner)])[rows.indptr]
    shape = (len(unknown), len(unknown))
    system = sparse.csr_array((rows.data[inner], columns[inner], starts), shape)
    system.setdiag(system.diagonal() + trust)
    diagonal = system.diagonal()
    solved, _ = cg(
        system,
        wanted,
        start.ravel()[unknown].astype(np.float64),
        rtol=tolerance,
        maxiter=iterations,
        M=LinearOperator(shape, lambda x: x.ravel() / diagonal, dtype=np.float64),
    )
    alpha[unknown] = solved.clip(0, 1)
    return alpha.reshape(selected.shape).astype(np.float32)
