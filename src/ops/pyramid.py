"""Superpixel means of a feature pyramid, pooled at the levels' own resolutions.

Bilinear upsampling (U) and averaging over a superpixel (M, one row a superpixel, one column a
pixel) are both linear, so Eq. 3 of the upsampled map is `(M U) x` with `M U` a small sparse matrix
that depends on the superpixels alone. It is built once per batch, away from the device; the
full-resolution map exists neither forward nor backward.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from src.ops.superpixels import superpixel_counts

# torch multiplies sparse matrices through CSR and says so once in every process.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


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


def _interpolation(size: int, level: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Source cells (size,2) and weights (size,2) of 1-D linear resizing, align_corners=False."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * level / size - 0.5).clamp(min=0)
    first = position.floor().long().clamp(max=level - 1)
    fraction = position - first
    cells = torch.stack([first, (first + 1).clamp(max=level - 1)], 1)
    return cells, torch.stack([1 - fraction, fraction], 1).to(dtype)


@lru_cache(maxsize=64)
def _upsampling(
    size: tuple[int, int], level: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Bilinear upsampling as a sparse matrix (H*W, h*w), in CSR."""
    (rows, row_weights), (cols, col_weights) = (
        _interpolation(n, m, dtype) for n, m in zip(size, level, strict=True)
    )
    cells = rows[:, None, :, None] * level[1] + cols[None, :, None, :]
    weights = row_weights[:, None, :, None] * col_weights[None, :, None, :]
    pixels = torch.arange(size[0] * size[1]).repeat_interleave(4)
    shape = (size[0] * size[1], level[0] * level[1])
    matrix = torch.sparse_coo_tensor(
        torch.stack([pixels, cells.flatten()]), weights.flatten(), shape, check_invariants=False
    )
    return matrix.to(device).coalesce().to_sparse_csr()


def pooling_weights(
    superpixels: Tensor,
    num_superpixels: int,
    level_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
) -> list[PoolingWeights]:
    """Builds the pooling matrices of a batch, one a pyramid level.

    On a GPU this waits for the device (the number of entries depends on the data), so training
    builds them in the loader's workers.

    Args:
        superpixels: (B,H,W) integer ids.
        num_superpixels: S.
        level_sizes: (h, w) of each level.
        dtype: of the weights.

    Returns:
        One `PoolingWeights` a level.
    """
    batch, height, width = superpixels.shape
    num_pixels, num_rows = height * width, batch * num_superpixels
    # M: the pixels sorted by superpixel; those of no superpixel come last and are cut off.
    ids = superpixels.flatten(1).int()  # sorted in half the time of int64
    first_row = torch.arange(batch, device=ids.device).int()[:, None] * num_superpixels
    inside = (ids >= 0) & (ids < num_superpixels)
    rows, order = torch.where(inside, ids + first_row, num_rows).flatten().sort(stable=True)
    every_row = torch.arange(num_rows + 1, device=rows.device).int()
    starts = torch.searchsorted(rows, every_row)
    pixels = order[: starts[-1]] % num_pixels
    membership = torch.sparse_csr_tensor(
        starts,
        pixels,
        torch.ones(len(pixels), dtype=dtype, device=rows.device),
        (num_rows, num_pixels),
        check_invariants=False,
    )
    levels = []
    for level in level_sizes:
        num_cells = level[0] * level[1]
        upsampling = _upsampling((height, width), tuple(level), dtype, rows.device)
        product = _sparse_matmul(membership, upsampling)
        starts, weight = product.crow_indices(), product.values().clone()
        row = every_row[:-1].repeat_interleave(starts.diff())
        cell = (product.col_indices() + row // num_superpixels * num_cells).int()
        transposed = cell.argsort(stable=True)
        entries = torch.bincount(cell, minlength=batch * num_cells)
        levels.append(
            PoolingWeights(
                cells=cell,
                weights=weight,
                starts=starts[:-1].int(),
                superpixels=row[transposed],
                superpixel_weights=weight[transposed],
                cell_starts=(entries.cumsum(0) - entries).int(),
            )
        )
    return levels


def _sparse_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of two CSR matrices, in CSR.

    On the CPU by SciPy: torch, with MKL, never frees the memory of its product, so that a loader's
    worker would grow with every batch.
    """
    if a.is_cuda:
        return a @ b
    left, right = (
        csr_array((m.values().numpy(), m.col_indices().numpy(), m.crow_indices().numpy()), m.shape)
        for m in (a, b)
    )
    product = left @ right
    return torch.sparse_csr_tensor(
        torch.from_numpy(product.indptr),
        torch.from_numpy(product.indices),
        torch.from_numpy(product.data),
        product.shape,
        check_invariants=False,
    )


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
