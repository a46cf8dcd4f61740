"""Superpixel means of a feature pyramid, pooled at the levels' own resolutions.

Bilinear upsampling (U) and averaging over a superpixel (M, one row a superpixel, one column a
pixel) are both linear, so Eq. 3 of the upsampled map is `(M U) x` with `M U` a small sparse matrix
that depends on the superpixels alone. It is built once per batch, away from the device; the
full-resolution map exists neither forward nor backward.
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
    """The sparse matrix M U of one level in compressed rows, and its transpose for the backward.

    Attributes:
        cells: (N,) int32, columns: native pixels of the batch, b*h*w + y*w + x.
        weights: (N,) entries, the summed bilinear weights.
        starts: (B*S,) int32, first entry of each superpixel.
        superpixels: (N,) int32, rows of the transpose's entries, b*S + s.
        superpixel_weights: (N,) entries of the transpose.
        cell_starts: (B*h*w,) int32, first entry of each native pixel.
    """

    cells: Tensor
    weights: Tensor
    starts: Tensor
    superpixels: Tensor
    superpixel_weights: Tensor
    cell_starts: Tensor


def _interpolation(size: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Source cells (size,2) and weights (size,2) of 1-D linear resizing, align_corners=False."""
    position = ((np.arange(size) + 0.5) * level / size - 0.5).clip(min=0)
    first = np.floor(position).astype(np.int32).clip(max=level - 1)
    fraction = position - first
    cells = np.stack([first, (first + 1).clip(max=level - 1)], 1)
    return cells, np.stack([1 - fraction, fraction], 1)


@lru_cache(maxsize=64)
def _upsampling(size: tuple[int, int], level: tuple[int, int], dtype: np.dtype) -> csr_array:
    """Bilinear upsampling as a sparse matrix (H*W, h*w)."""
    (rows, row_weights), (cols, col_weights) = (
        _interpolation(n, m) for n, m in zip(size, level, strict=True)
    )
    cells = rows[:, None, :, None] * np.int32(level[1]) + cols[None, :, None, :]
    weights = row_weights[:, None, :, None] * col_weights[None, :, None, :]
    num_pixels = size[0] * size[1]
    starts = np.arange(0, 4 * num_pixels + 1, 4, dtype=np.int32)
    entries = (weights.ravel().astype(dtype), cells.ravel(), starts)
    matrix = csr_array(entries, (num_pixels, level[0] * level[1]))
    matrix.sum_duplicates()  # at the borders
    return matrix


@torch.compiler.disable  # type: ignore[untyped-decorator]  # SciPy
def pooling_weights(
    superpixels: Tensor,
    num_superpixels: int,
    level_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
) -> list[PoolingWeights]:
    """Builds the pooling matrices of a batch, one a pyramid level, on the CPU.

    From a GPU the superpixels are fetched for it, so training builds them in the loader's workers.

    Args:
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.
        level_sizes: (h, w) of each level.
        dtype: of the weights.
        padded: with entries of weight 0, to a number that hangs on the sizes alone, so that all
            batches are alike to what is recorded for one (a CUDA graph). Matrices that have more
            entries than that, of superpixels unlike those of SLIC, stay as they are.

    Returns:
        One `PoolingWeights` a level, where the superpixels are.
    """
    batch, height, width = superpixels.shape
    num_pixels, num_rows = height * width, batch * num_superpixels
    precision = torch.empty((), dtype=dtype).numpy().dtype
    ids = superpixels.flatten(1).cpu().numpy()
    first_row = np.arange(batch)[:, None] * num_superpixels
    inside = (ids >= 0) & (ids < num_superpixels)
    rows = np.where(inside, ids + first_row, num_rows).astype(np.int32).ravel()
    # M: one entry a pixel, sorted by superpixel; those of no superpixel come last and are cut off.
    columns = np.arange(batch * num_pixels + 1, dtype=np.int32)
    ones = np.ones(batch * num_pixels, precision)
    every = csc_array((ones, rows, columns), (num_rows + 1, batch * num_pixels)).tocsr()
    starts = every.indptr[:-1]
    entries = slice(starts[-1])
    pixels = every.indices[entries] % num_pixels
    membership = csr_array((every.data[entries], pixels, starts), (num_rows, num_pixels))
    levels = []
    for level in level_sizes:
        num_cells = level[0] * level[1]
        product = membership @ _upsampling((height, width), tuple(level), precision)
        first_cell = np.arange(batch, dtype=np.int32) * np.int32(num_cells)
        product.indices += first_cell.repeat(np.diff(product.indptr[::num_superpixels]))
        matrix = csr_array(
            (product.data, product.indices, product.indptr), (num_rows, batch * num_cells)
        )
        transposed = matrix.tocsc()
        size = _padded_size(num_rows, num_superpixels, num_cells) if padded else 0
        arrays = [*_entries(matrix, size), *_entries(transposed, size)]
        tensors = (torch.from_numpy(array).to(superpixels.device) for array in arrays)
        levels.append(PoolingWeights(*tensors))
    return levels


def _padded_size(num_rows: int, num_superpixels: int, num_cells: int) -> int:
    """Entries that a level's matrix has room for: of B*S superpixels, S of which fill h*w cells.

    Upsampled bilinearly, a square of side r cells draws on about (r + 2)^2 of them. Superpixels of
    photos have ragged borders, hence the margin.
    """
    return math.ceil(num_rows * (1.1 * math.sqrt(num_cells / num_superpixels) + 2.5) ** 2)


def _entries(matrix: csr_array | csc_array, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, weights and starts of the rows (or columns), with `size` entries if they are fewer.

    Those of weight 0 are spread evenly over the rows: a GPU is as slow as the longest of them.
    """
    starts = matrix.indptr[:-1]
    missing = size - len(matrix.data)
    if missing <= 0:
        return matrix.indices, matrix.data, starts
    shifts = np.arange(len(starts)) * missing // len(starts)
    places = np.arange(len(matrix.data)) + shifts.repeat(np.diff(matrix.indptr))
    indices, weights = np.zeros(size, np.int32), np.zeros(size, matrix.data.dtype)
    indices[places], weights[places] = matrix.indices, matrix.data
    return indices, weights, (starts + shifts).astype(np.int32)


class _SparseProduct(torch.autograd.Function):
    """(M U) x; its gradient is (M U)^T g. Both gather rows, so neither needs atomics."""

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
    """`superpixel_mean` of the concatenated bilinear upsamplings, without building them (Eq. 3).

    Args:
        pyramid: levels (B,C_l,h_l,w_l) of any sizes; half precision is pooled in float32.
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.
        weights: of these superpixels and level sizes, from `pooling_weights`; built here if absent.

    Returns:
        means: (B,S,sum of C_l), zero where a superpixel has no pixel.
        counts: (B,S) int64.

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
    counts = superpixel_counts(superpixels, num_superpixels)
    sums = [
        # (B,C,h,w) -> (B*h*w, C): free of copies where the network runs in channels_last
        _SparseProduct.apply(level.to(dtype).permute(0, 2, 3, 1).flatten(0, 2), pooling)
        for level, pooling in zip(pyramid, weights, strict=True)
    ]
    means = torch.cat(sums, 1).unflatten(0, (batch, num_superpixels))
    return means / counts.clamp(min=1)[..., None], counts
