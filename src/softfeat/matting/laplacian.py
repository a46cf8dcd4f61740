"""The matting Laplacian of Levin et al. (2008): alpha is locally an affine function of colour."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
_WINDOW = [(y, x) for y in range(3) for x in range(3)]
_OFFSETS = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]


def _whitened(image: Array, epsilon: float) -> Array:
    """Colours of each window's pixels, centred and divided by the window's covariance.

    Cholesky factors, for a closed inverse loses all digits where a window is grey.

    Returns:
        (9,3,H-2,W-2).
    """
    height, width = image.shape[0] - 2, image.shape[1] - 2
    colours = np.stack(
        [image[y : y + height, x : x + width].transpose(2, 0, 1) for y, x in _WINDOW]
    )
    r, g, b = (colours - colours.mean(0)).transpose(1, 0, 2, 3)
    shift = epsilon / 9
    rr = np.sqrt((r * r).mean(0) + shift)
    rg, rb = (r * g).mean(0) / rr, (r * b).mean(0) / rr
    gg = np.sqrt((g * g).mean(0) + shift - rg**2)
    gb = ((g * b).mean(0) - rg * rb) / gg
    bb = np.sqrt((b * b).mean(0) + shift - rb**2 - gb**2)
    r = r / rr
    g = (g - rg * r) / gg
    b = (b - rb * r - gb * g) / bb
    return np.stack([r, g, b], 1)


def matting_laplacian(image: Array, epsilon: float = 1e-7) -> sparse.csr_array:
    """L = D - W, whose energy vanishes for alphas that are affine in colour (Levin et al. 2008).

    W_ij is the sum over the 3x3 windows k that hold both pixels of
    (1 + (I_i - mu_k)^T (Sigma_k + epsilon/9 Id)^-1 (I_j - mu_k)) / 9 (Eq. 12).

    Args:
        image: (H,W,3) RGB in [0,1], H and W at least 3.
        epsilon: regularises the windows' colour covariances.

    Returns:
        (H*W,H*W), symmetric, positive semi-definite, rows add up to 0, at most 25 entries a row.

    Raises:
        ValueError: image smaller than a window.
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        raise ValueError(f"the matting Laplacian needs at least 3x3 pixels, not {height}x{width}")
    colours = _whitened(np.asarray(image, np.float64), epsilon)
    # entries[y, x, o]: pixel (y, x) with the pixel at _OFFSETS[o] from it
    entries = np.zeros((len(_OFFSETS), height, width))
    rows, columns = height - 2, width - 2
    for (i, (y, x)), (j, (v, u)) in combinations(enumerate(_WINDOW), 2):
        weight = (1 + np.einsum("cyx,cyx->yx", colours[i], colours[j])) / 9
        forward, backward = _OFFSETS.index((v - y, u - x)), _OFFSETS.index((y - v, x - u))
        entries[forward, y : y + rows, x : x + columns] -= weight
        entries[backward, v : v + rows, u : u + columns] -= weight
    entries[len(_OFFSETS) // 2] = -entries.sum(0)

    dy, dx = np.array(_OFFSETS, np.int32).T
    down, right = np.arange(height)[:, None] + dy, np.arange(width)[:, None] + dx
    inside = ((down >= 0) & (down < height))[:, None] & ((right >= 0) & (right < width))[None]
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width, 1)
    starts = np.concatenate([[0], inside.sum(2, dtype=np.int32).ravel().cumsum(dtype=np.int32)])
    return sparse.csr_array(
        (entries.transpose(1, 2, 0)[inside], (pixels + dy * np.int32(width) + dx)[inside], starts),
        shape=(height * width, height * width),
    )
