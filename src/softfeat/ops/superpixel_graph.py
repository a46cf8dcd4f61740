"""Superpixels that touch each other, as a graph.

Nodes of all photos of a batch are numbered one after the other: superpixel s of photo b is node
b*S + s.

Legend: B photos, S superpixels of each, E pairs of neighbours in both directions, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Neighbours(NamedTuple):
    """Pairs of superpixels that touch, in both directions, sorted by the first one.

    Attributes:
        rows: First superpixel (E,) int64 of each pair, as a node.
        columns: Second superpixel (E,) int64 of each pair, as a node.
        starts: Index (B*S,) int64 of the first pair of each node.
    """

    rows: Tensor
    columns: Tensor
    starts: Tensor


def find_neighbours(superpixels: Tensor, num_superpixels: int) -> Neighbours:
    """Find all pairs of superpixels that share a side of a pixel.

    Waits for a GPU, because the number of pairs is not known before. Loaders call it in their
    worker processes.

    Args:
        superpixels: Superpixel maps (B,H,W) of integer ids. Other ids than 0..S-1 are no
            superpixel.
        num_superpixels: Number of superpixels S of each image.

    Returns:
        The pairs. Each occurs once in each direction.

    >>> find_neighbours(torch.tensor([[[0, 0, 2, -1, 1]]]), 3).columns.tolist()
    [2, 0]
    """
    batch = len(superpixels)
    nodes = batch * num_superpixels
    first = torch.arange(batch, device=superpixels.device)[:, None, None] * num_superpixels
    known = (superpixels >= 0) & (superpixels < num_superpixels)
    node = torch.where(known, superpixels.long() + first, -1)  # (B,H,W)
    sides = ((node[:, :, :-1], node[:, :, 1:]), (node[:, :-1], node[:, 1:]))
    codes = []
    for one, other in sides:
        touching = (one != other) & (one >= 0) & (other >= 0)
        one, other = one[touching], other[touching]
        codes += [one * nodes + other, other * nodes + one]
    pairs = torch.cat(codes).unique()  # sorted
    rows, columns = pairs // max(1, nodes), pairs % max(1, nodes)
    starts = torch.searchsorted(rows, torch.arange(nodes, device=rows.device))
    return Neighbours(rows, columns, starts)


class NeighbourWeights(NamedTuple):
    """Weights of the pairs of a graph, for many means.

    Attributes:
        values: Weights (E,), the same for both directions of a pair.
        totals: Sums (B*S,1) over the pairs of each node, above 0.
    """

    values: Tensor
    totals: Tensor


def neighbour_weights(values: Tensor, neighbours: Neighbours) -> NeighbourWeights:
    """Prepare the weights of `neighbour_mean`.

    Args:
        values: Weights (E,), the same for both directions of a pair.
        neighbours: Pairs of touching superpixels.
    """
    totals = values.new_zeros(len(neighbours.starts)).index_add_(0, neighbours.rows, values)
    return NeighbourWeights(values, totals.clamp(min=torch.finfo(totals.dtype).tiny)[:, None])


class _WeightedSum(torch.autograd.Function):
    """The product W x of symmetric weights of the pairs with the nodes' values x (B*S,C).

    W is symmetric, so the gradient is W g: both passes only gather rows.
    """

    @staticmethod
    def forward(ctx, values: Tensor, weights: Tensor, pairs: Neighbours) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.pairs = pairs
        ctx.save_for_backward(weights)
        return _sum_of_neighbours(values, weights, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (weights,) = ctx.saved_tensors
        return _sum_of_neighbours(gradient.contiguous(), weights, ctx.pairs), None, None


def _sum_of_neighbours(values: Tensor, weights: Tensor, pairs: Neighbours) -> Tensor:
    return F.embedding_bag(
        pairs.columns,
        values,
        pairs.starts,
        mode="sum",
        per_sample_weights=weights.to(values.dtype),
    )


def neighbour_mean(values: Tensor, neighbours: Neighbours, weights: NeighbourWeights) -> Tensor:
    """Average the values of the neighbours of each superpixel.

    Args:
        values: Values (B,S,C).
        neighbours: Pairs of touching superpixels.
        weights: Weights of these pairs. They get no gradient.

    Returns:
        Means (B,S,C), zero where a superpixel has no neighbour or only weights of 0.

    >>> pairs = find_neighbours(torch.tensor([[[0, 1, 2]]]), 3)
    >>> values = torch.tensor([[[1.0], [5.0], [3.0]]])
    >>> neighbour_mean(values, pairs, neighbour_weights(torch.ones(4), pairs)).flatten().tolist()
    [5.0, 2.0, 5.0]
    """
    sums = _WeightedSum.apply(values.flatten(0, 1), weights.values, neighbours)  # (B*S,C)
    return (sums / weights.totals.to(sums.dtype)).view_as(values)


def connected_components(labels: Tensor, neighbours: Neighbours, steps: int = 12) -> Tensor:
    """Number the connected regions of superpixels with equal labels.

    Does not synchronise with the GPU: the number of steps is fixed. Each step joins every region
    with the largest region that touches it, and halves the way to it. So winding regions need few
    steps, too.

    Args:
        labels: Labels (B,S) of integers.
        neighbours: Pairs of touching superpixels.
        steps: Number of steps.

    Returns:
        Largest node (B,S) int64 of each superpixel's region.

    >>> pairs = find_neighbours(torch.tensor([[[0, 1, 2, 3]]]), 4)
    >>> connected_components(torch.tensor([[7, 7, 9, 7]]), pairs).tolist()
    [[1, 1, 2, 3]]
    """
    flat = labels.flatten()
    alike = flat[neighbours.rows] == flat[neighbours.columns]  # (E,)
    own = torch.arange(len(flat), device=flat.device)
    region = own
    for _ in range(steps):
        seen = torch.where(alike, region[neighbours.columns], -1)  # (E,)
        joined = own.scatter_reduce(0, region[neighbours.rows], seen, "amax")  # by region
        region = joined[region]
        region = region[region]
    return region.view_as(labels)


def depth_in_region(labels: Tensor, neighbours: Neighbours, most: int = 8) -> Tensor:
    """Count the steps from each superpixel to the nearest one with another label.

    The border of the photo is no border of a region.

    Args:
        labels: Labels (B,S) of integers.
        neighbours: Pairs of touching superpixels.
        most: Largest depth that is told apart.

    Returns:
        Depths (B,S) int64 in 1..most.

    >>> pairs = find_neighbours(torch.tensor([[[0, 1, 2, 3]]]), 4)
    >>> depth_in_region(torch.tensor([[7, 7, 7, 9]]), pairs).tolist()
    [[3, 2, 1, 1]]
    """
    flat = labels.flatten()
    alike = flat[neighbours.rows] == flat[neighbours.columns]  # (E,)
    depth = torch.full_like(flat, most, dtype=torch.int64)
    around = torch.where(alike, most, 0)  # (E,)
    for _ in range(most - 1):
        depth = depth.scatter_reduce(0, neighbours.rows, around + 1, "amin")
        around = torch.where(alike, depth[neighbours.columns], 0)
    return depth.view_as(labels)
