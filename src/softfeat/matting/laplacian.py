"""The matting Laplacian of Levin et al. (2008), for alphas that are locally affine in colour.

Legend: H W pixels, N = H*W. A window is a 3x3 block of pixels. There are (H-2)*(W-2) of them.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]

# Row and column of the pixels of a window, and the steps from one of its pixels to another
_WINDOW = [(y, x) for y in range(3) for x in range(3)]
_OFFSETS = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]


def _whitened(image: Array, epsilon: float) -> Array:
    """Whiten the colours of the nine pixels of each window.

    With C the covariance of a window plus epsilon/9 Id, and C = R R^T its Cholesky factors, the
    result is z = R^-1 (I - mu). Then z_i . z_j = (I_i - mu)^T C^-1 (I_j - mu). A closed formula for
    C^-1 would lose all digits where a window is grey.

    Returns:
        Whitened colours (9,3,H-2,W-2).
    """
    height, width = image.shape[0] - 2, image.shape[1] - 2
    colours = np.stack(
        [image[y : y + height, x : x + width].transpose(2, 0, 1) for y, x in _WINDOW]
    )  # (9,3,H-2,W-2)
    r, g, b = (colours - colours.mean(0)).transpose(1, 0, 2, 3)  # (9,H-2,W-2) each

    # Cholesky factors of the 3x3 matrices, (H-2,W-2) each
    shift = epsilon / 9
    rr = np.sqrt((r * r).mean(0) + shift)
    rg = (r * g).mean(0) / rr
    rb = (r * b).mean(0) / rr
    gg = np.sqrt((g * g).mean(0) + shift - rg**2)
    gb = ((g * b).mean(0) - rg * rb) / gg
    bb = np.sqrt((b * b).mean(0) + shift - rb**2 - gb**2)

    # Forward substitution
    r = r / rr
    g = (g - rg * r) / gg
    b = (b - rb * r - gb * g) / bb
    return np.stack([r, g, b], 1)


def matting_laplacian(image: Array, epsilon: float = 1e-7) -> sparse.csr_array:
    """Build the matting Laplacian L = D - W (Levin et al. 2008, Eq. 12).

    The energy alpha^T L alpha is zero for alphas that are affine in colour in every window. W_ij
    is the sum over the windows k that contain both pixels of
    (1 + (I_i - mu_k)^T (Sigma_k + epsilon/9 Id)^-1 (I_j - mu_k)) / 9.

    Args:
        image: Photo (H,W,3) RGB in [0,1]. H and W are at least 3.
        epsilon: Regularisation of the colour covariances of the windows.

    Returns:
        Symmetric positive semi-definite matrix (N,N) whose rows add up to 0, with at most 25
        entries in a row.

    Raises:
        ValueError: If the photo is smaller than a window.
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        raise ValueError(f"the matting Laplacian needs at least 3x3 pixels, not {height}x{width}")
    colours = _whitened(np.asarray(image, np.float64), epsilon)  # (9,3,H-2,W-2)

    # values[o, y, x] connects pixel (y, x) with the pixel at offset o from it. Each pair (i, j) of
    # positions in a window adds its weight for all windows at once.
    values = np.zeros((len(_OFFSETS), height, width))  # (25,H,W)
    rows, columns = height - 2, width - 2
    for (i, (y, x)), (j, (v, u)) in combinations(enumerate(_WINDOW), 2):
        weight = (1 + np.einsum("cyx,cyx->yx", colours[i], colours[j])) / 9  # (H-2,W-2)
        forward = _OFFSETS.index((v - y, u - x))
        backward = _OFFSETS.index((y - v, x - u))
        values[forward, y : y + rows, x : x + columns] -= weight
        values[backward, v : v + rows, u : u + columns] -= weight
    # Rows add up to 0. The offset (0, 0) is in the middle of the list.
    values[len(_OFFSETS) // 2] = -values.sum(0)

    # Which offsets stay inside the photo, for each row and each column of pixels
    dy, dx = np.array(_OFFSETS, np.int32).T  # (25,) each
    down = np.arange(height)[:, None] + dy  # (H,25)
    right = np.arange(width)[:, None] + dx  # (W,25)
    inside_rows = (down >= 0) & (down < height)
    inside_columns = (right >= 0) & (right < width)
    inside = inside_rows[:, None] & inside_columns[None]  # (H,W,25)

    # Compressed rows: offsets are in increasing order, so the columns of a row are sorted.
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width, 1)
    neighbours = pixels + dy * np.int32(width) + dx  # (H,W,25)
    ends = inside.sum(2, dtype=np.int32).ravel().cumsum(dtype=np.int32)  # (N,)
    starts = np.concatenate([ends[:1] * 0, ends])  # (N+1,), int32
    return sparse.csr_array(
        (values.transpose(1, 2, 0)[inside], neighbours[inside], starts),
        shape=(height * width, height * width),
    )
