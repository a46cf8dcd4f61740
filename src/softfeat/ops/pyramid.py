"""Superpixel means of a feature pyramid, pooled at the resolution of each level.

The network's features are the levels of a pyramid, upsampled bilinearly to the image and then
concatenated. Upsampling is a matrix product U x. Summing over superpixels is another one: M has a
row for each superpixel and a column for each pixel, with a 1 where the pixel belongs to the
superpixel. So the sums of Eq. 3 are `(M U) x`, where `M U` is a small sparse matrix that depends on
the superpixels only. It is built once per batch, on the CPU. The full-resolution map is needed
neither in the forward nor in the backward pass.

Legend: B images, H W pixels, S superpixels, C_l channels and h_l w_l cells of level l, N entries of
a sparse matrix. A cell is a pixel of a level.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor
from torch.nn import functional as F

from softfeat.ops.superpixels import superpixel_counts


class PoolingWeights(NamedTuple):
    """The sparse matrix M U of one level, and its transpose for the backward pass.

    The entries of the matrix are sorted by row (superpixel), those of the transpose by cell.

    Attributes:
        cells: Cell (N,) int32 of each entry of the matrix, b*h*w + y*w + x.
        weights: Values (N,) of the entries, sums of bilinear weights.
        starts: Index (B*S,) int32 of the first entry of each superpixel.
        superpixels: Superpixel (N,) int32 of each entry of the transpose, b*S + s.
        superpixel_weights: Values (N,) of the entries of the transpose.
        cell_starts: Index (B*h*w,) int32 of the first entry of each cell.
    """

    cells: Tensor
    weights: Tensor
    starts: Tensor
    superpixels: Tensor
    superpixel_weights: Tensor
    cell_starts: Tensor


def _interpolation(size: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the two cells (size,2) and weights (size,2) of each pixel in 1-D linear resizing.

    Positions follow torch's `align_corners=False`.
    """
    position = ((np.arange(size) + 0.5) * level / size - 0.5).clip(min=0)  # (size,), in cells
    first = np.floor(position).astype(np.int32).clip(max=level - 1)
    fraction = position - first
    cells = np.stack([first, (first + 1).clip(max=level - 1)], 1)
    return cells, np.stack([1 - fraction, fraction], 1)


@lru_cache(maxsize=64)
def _upsampling(size: tuple[int, int], level: tuple[int, int], dtype: np.dtype) -> csr_array:
    """Build bilinear upsampling from (h,w) to (H,W) as a sparse matrix U (H*W,h*w)."""
    rows, row_weights = _interpolation(size[0], level[0])  # (H,2)
    columns, column_weights = _interpolation(size[1], level[1])  # (W,2)
    # Each pixel has 2 x 2 cells.
    cells = rows[:, None, :, None] * np.int32(level[1]) + columns[None, :, None, :]  # (H,W,2,2)
    weights = row_weights[:, None, :, None] * column_weights[None, :, None, :]  # (H,W,2,2)
    num_pixels = size[0] * size[1]
    starts = np.arange(0, 4 * num_pixels + 1, 4, dtype=np.int32)  # (H*W+1,)
    arrays = (weights.ravel().astype(dtype), cells.ravel(), starts)
    matrix = csr_array(arrays, (num_pixels, level[0] * level[1]))
    matrix.sum_duplicates()  # at the borders, where both cells of a pixel are the same
    return matrix


def pooling_weights(
    superpixels: Tensor,
    num_superpixels: int,
    level_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
) -> list[PoolingWeights]:
    """Build the pooling matrices of a batch, one for each level of the pyramid.

    Runs on the CPU. Superpixels on a GPU are copied from it, which synchronises, so training calls
    this function in the workers of the data loader.

    Args:
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.
        level_sizes: Height and width (h_l, w_l) of each level.
        dtype: Floating-point type of the weights.
        padded: Whether to add entries of weight 0 up to a number that depends on the sizes only.
            All batches then have the same shapes, as a CUDA graph needs. A matrix with more entries
            than that stays as it is. This happens only if the superpixels are unlike those of SLIC.

    Returns:
        One `PoolingWeights` for each level, on the device of `superpixels`.
    """
    arguments = superpixels, num_superpixels, level_sizes, dtype, padded
    if torch.compiler.is_compiling():
        # SciPy stays outside. As a decorator, this would import the compiler at once, slowly.
        return torch.compiler.disable(_pooling_weights)(*arguments)  # type: ignore[no-any-return]
    return _pooling_weights(*arguments)


def _pooling_weights(
    superpixels: Tensor,
    num_superpixels: int,
    level_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    padded: bool,
) -> list[PoolingWeights]:
    batch, height, width = superpixels.shape
    device = superpixels.device
    precision = torch.empty((), dtype=dtype).numpy().dtype
    membership = _membership(superpixels.cpu().numpy(), num_superpixels, precision)
    levels = []
    for level in level_sizes:
        num_cells = level[0] * level[1]
        upsampling = _upsampling((height, width), tuple(level), precision)
        matrix = _shift_cells(membership @ upsampling, num_superpixels, num_cells)  # (B*S,B*h*w)
        size = 0
        if padded:
            size = _padded_size(batch * num_superpixels, num_superpixels, num_cells)
        cells, weights, starts = _padded_entries(matrix, size)
        superpixel_rows, superpixel_weights, cell_starts = _padded_entries(matrix.tocsc(), size)
        levels.append(
            PoolingWeights(
                cells=torch.from_numpy(cells).to(device),
                weights=torch.from_numpy(weights).to(device),
                starts=torch.from_numpy(starts).to(device),
                superpixels=torch.from_numpy(superpixel_rows).to(device),
                superpixel_weights=torch.from_numpy(superpixel_weights).to(device),
                cell_starts=torch.from_numpy(cell_starts).to(device),
            )
        )
    return levels


def _membership(superpixels: np.ndarray, num_superpixels: int, dtype: np.dtype) -> csr_array:
    """Build M (B*S,H*W) of superpixel maps (B,H,W): each row sums the pixels of a superpixel.

    All images share the columns, so that one upsampling matrix serves the whole batch.
    """
    batch = len(superpixels)
    ids = superpixels.reshape(batch, -1)  # (B,H*W)
    num_pixels = ids.shape[1]
    num_rows = batch * num_superpixels
    first_row = np.arange(batch)[:, None] * num_superpixels  # (B,1)
    inside = (ids >= 0) & (ids < num_superpixels)  # (B,H*W)
    rows = np.where(inside, ids + first_row, num_rows).astype(np.int32).ravel()  # (B*H*W,)

    # One entry for each pixel. Conversion to compressed rows sorts the entries by superpixel. The
    # pixels of no superpixel come last, in an extra row that is cut off.
    columns = np.arange(batch * num_pixels + 1, dtype=np.int32)
    ones = np.ones(batch * num_pixels, dtype)
    every = csc_array((ones, rows, columns), (num_rows + 1, batch * num_pixels)).tocsr()
    starts = every.indptr[:-1]  # (B*S+1,)
    entries = slice(starts[-1])
    pixels = every.indices[entries] % num_pixels
    return csr_array((every.data[entries], pixels, starts), (num_rows, num_pixels))


def _shift_cells(product: csr_array, num_superpixels: int, num_cells: int) -> csr_array:
    """Give each image columns of its own: (B*S,h*w) -> (B*S,B*h*w)."""
    num_rows = product.shape[0]
    batch = num_rows // num_superpixels
    first_cell = np.arange(batch, dtype=np.int32) * np.int32(num_cells)  # (B,)
    entries_of_images = np.diff(product.indptr[::num_superpixels])  # (B,)
    product.indices += first_cell.repeat(entries_of_images)
    arrays = (product.data, product.indices, product.indptr)
    return csr_array(arrays, (num_rows, batch * num_cells))


def _padded_size(num_rows: int, num_superpixels: int, num_cells: int) -> int:
    """Estimate an upper bound of the entries of a matrix with B*S rows and h*w cells per image.

    Upsampled bilinearly, a square with sides of r cells depends on about (r + 2)^2 cells. The
    constants add a margin, because the borders of superpixels in photos are ragged.
    """
    return math.ceil(num_rows * (1.1 * math.sqrt(num_cells / num_superpixels) + 2.5) ** 2)


def _padded_entries(
    matrix: csr_array | csc_array, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices, values and starts of a matrix, padded to at least `size` entries.

    The padding has the value 0. It is spread evenly over the rows (of a csc_array the columns),
    because a GPU takes as long as the longest row.
    """
    starts = matrix.indptr[:-1]
    missing = size - len(matrix.data)
    if missing <= 0:
        return matrix.indices, matrix.data, starts
    # Padding before each row, so that the last row ends with what remains
    shifts = np.arange(len(starts)) * missing // len(starts)  # (rows,)
    places = np.arange(len(matrix.data)) + shifts.repeat(np.diff(matrix.indptr))
    indices = np.zeros(size, np.int32)
    indices[places] = matrix.indices
    weights = np.zeros(size, matrix.data.dtype)
    weights[places] = matrix.data
    return indices, weights, (starts + shifts).astype(np.int32)


class _SparseProduct(torch.autograd.Function):
    """The product (M U) x of a level's features x (B*h*w,C), with the gradient (M U)^T g.

    `embedding_bag` sums weighted rows of a table. Both passes only gather rows, so neither needs
    atomic additions on a GPU, and results are reproducible.
    """

    @staticmethod
    def forward(ctx, values: Tensor, pooling: PoolingWeights) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.pooling = pooling
        return F.embedding_bag(
            pooling.cells,
            values,
            pooling.starts,
            mode="sum",
            per_sample_weights=pooling.weights.to(values.dtype),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        pooling = ctx.pooling
        return F.embedding_bag(
            pooling.superpixels,
            gradient.contiguous(),
            pooling.cell_starts,
            mode="sum",
            per_sample_weights=pooling.superpixel_weights.to(gradient.dtype),
        ), None


def pyramid_superpixel_mean(
    pyramid: Sequence[Tensor],
    superpixels: Tensor,
    num_superpixels: int,
    weights: Sequence[PoolingWeights] | None = None,
) -> tuple[Tensor, Tensor]:
    """Average the features of a pyramid over the pixels of each superpixel (Eq. 3).

    Equals `superpixel_mean` of the concatenation of all levels, upsampled bilinearly to the size of
    the superpixel map, without building that map.

    Args:
        pyramid: Levels (B,C_l,h_l,w_l) of any sizes. Half precision is pooled in float32.
        superpixels: Superpixel maps (B,H,W) of integer ids.
        num_superpixels: Number of superpixels S of each image.
        weights: Result of `pooling_weights` for these superpixels and level sizes. None builds it.

    Returns:
        means: Mean features (B,S,D), where D is the sum of all C_l. Zero where a superpixel has no
            pixels.
        counts: Number of pixels (B,S) int64 of each superpixel.

    >>> means, counts = pyramid_superpixel_mean(
    ...     [torch.tensor([[[[4.0]]]])], torch.tensor([[[0, 1], [1, 1]]]), 2)
    >>> means.flatten().tolist(), counts.flatten().tolist()
    ([4.0, 4.0], [1, 3])
    """
    batch = len(superpixels)
    dtype = torch.promote_types(pyramid[0].dtype, torch.float32)
    if weights is None:
        sizes = [(level.shape[2], level.shape[3]) for level in pyramid]
        weights = pooling_weights(superpixels, num_superpixels, sizes, dtype)
    counts = superpixel_counts(superpixels, num_superpixels)  # (B,S)
    sums = []
    for level, pooling in zip(pyramid, weights, strict=True):
        # No copy is made if the network runs in channels_last.
        cells = level.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)  # (B*h_l*w_l,C_l)
        sums.append(_SparseProduct.apply(cells, pooling))  # (B*S,C_l)
    means = torch.cat(sums, 1).unflatten(0, (batch, num_superpixels))  # (B,S,D)
    return means / counts.clamp(min=1)[..., None], counts
