from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from softfeat.imaging.slic import Superpixels
from softfeat.ops.superpixel_graph import (
    Neighbours,
    connected_components,
    depth_in_region,
    find_neighbours,
    neighbour_mean,
    neighbour_weights,
)


def maps(*, batch: int = 2, size: tuple[int, int] = (40, 60), count: int = 30) -> Tensor:
    """Superpixels of smooth noise, which are as ragged as those of photos."""
    rng = np.random.default_rng(3)
    pictures = []
    for _ in range(batch):
        noise = ndimage.gaussian_filter(rng.uniform(size=(*size, 3)), (2, 2, 0))
        noise = (noise - noise.min()) / np.ptp(noise) * 255
        pictures.append(Superpixels(count, backend="skimage")(noise.astype(np.uint8)))
    return torch.from_numpy(np.stack(pictures).astype(np.int64))


def pairs_by_loop(superpixels: Tensor, count: int) -> set[tuple[int, int]]:
    found = set()
    for b, ids in enumerate(superpixels.tolist()):
        for y, row in enumerate(ids):
            for x, one in enumerate(row):
                for v, u in ((y, x + 1), (y + 1, x)):
                    if v < len(ids) and u < len(row):
                        other = ids[v][u]
                        if one != other and all(0 <= each < count for each in (one, other)):
                            found |= {(b * count + one, b * count + other)}
                            found |= {(b * count + other, b * count + one)}
    return found


def listed(pairs: Neighbours) -> list[tuple[int, int]]:
    return list(zip(pairs.rows.tolist(), pairs.columns.tolist(), strict=True))


def test_neighbours_are_those_of_a_loop() -> None:
    superpixels = maps()
    superpixels[0, :5] = -1  # padding
    superpixels[1, -3:] = 99  # no superpixel either
    pairs = find_neighbours(superpixels, 30)
    assert listed(pairs) == sorted(pairs_by_loop(superpixels, 30))
    ends = [*pairs.starts[1:].tolist(), len(pairs.rows)]
    for node, (start, end) in enumerate(zip(pairs.starts.tolist(), ends, strict=True)):
        assert set(pairs.rows[start:end].tolist()) <= {node}


@pytest.mark.parametrize("ids", [[[[0]]], [[[-1, -1]]], [[[0, 0], [0, 0]]], [[[0, -1, 1]]]])
def test_without_touching_superpixels_there_are_no_pairs(ids: list[list[list[int]]]) -> None:
    pairs = find_neighbours(torch.tensor(ids), 3)
    assert listed(pairs) == []
    assert pairs.starts.tolist() == [0, 0, 0]
    values = torch.rand(1, 3, 2)
    assert not neighbour_mean(values, pairs, neighbour_weights(torch.ones(0), pairs)).any()
    labels = torch.zeros(1, 3, dtype=torch.int64)
    assert connected_components(labels, pairs).tolist() == [[0, 1, 2]]
    assert depth_in_region(labels, pairs, 4).tolist() == [[4, 4, 4]]


def dense(pairs: Neighbours, weights: Tensor) -> Tensor:
    nodes = len(pairs.starts)
    matrix = torch.zeros(nodes, nodes, dtype=weights.dtype)
    for (row, column), weight in zip(listed(pairs), weights, strict=True):
        matrix[row, column] = weight
    return matrix


def symmetric_weights(pairs: Neighbours) -> Tensor:
    return 0.1 + torch.sin(1.0 + pairs.rows * pairs.columns + pairs.rows + pairs.columns) ** 2


def test_means_are_those_of_the_dense_matrix_with_gradients() -> None:
    pairs = find_neighbours(maps(count=20), 24)
    weights = symmetric_weights(pairs).double()
    values = torch.randn(2, 24, 3, dtype=torch.float64, requires_grad=True)
    matrix = dense(pairs, weights)
    total = matrix.sum(1, keepdim=True)
    expected = torch.where(total > 0, matrix @ values.flatten(0, 1) / total.clamp(min=1e-9), 0)
    means = neighbour_mean(values, pairs, neighbour_weights(weights, pairs))
    torch.testing.assert_close(means.flatten(0, 1), expected)
    weigh = torch.randn_like(expected)
    (own,) = torch.autograd.grad((means.flatten(0, 1) * weigh).sum(), values, retain_graph=True)
    (loop,) = torch.autograd.grad((expected * weigh).sum(), values)
    torch.testing.assert_close(own, loop)


def test_gradcheck() -> None:
    pairs = find_neighbours(torch.tensor([[[0, 1, 1], [2, 2, 3]]]), 5)
    prepared = neighbour_weights(symmetric_weights(pairs).double(), pairs)
    values = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: neighbour_mean(x, pairs, prepared), values)


def graph(pairs: Neighbours, labels: Tensor) -> coo_array:
    flat = labels.flatten()
    alike = (flat[pairs.rows] == flat[pairs.columns]).numpy()
    ends = (pairs.rows.numpy()[alike], pairs.columns.numpy()[alike])
    return coo_array((np.ones(alike.sum()), ends), (len(flat), len(flat)))


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_components_are_those_of_scipy(classes: int) -> None:
    superpixels = maps(size=(90, 120), count=300)
    count = int(superpixels.max()) + 1
    pairs = find_neighbours(superpixels, count)
    labels = torch.randint(classes, (2, count), generator=torch.Generator().manual_seed(classes))
    own = connected_components(labels, pairs).flatten().numpy()
    _, expected = scipy_components(graph(pairs, labels), directed=False)
    largest = {part: np.flatnonzero(expected == part).max() for part in np.unique(expected)}
    assert own.tolist() == [largest[part] for part in expected.tolist()]


def test_a_winding_region_is_one_component() -> None:
    # A spiral of 400 superpixels: the longest region that fits into 20x40 places.
    grid = torch.arange(800).view(20, 40)
    labels = torch.zeros(20, 40, dtype=torch.int64)
    labels[::2] = 1
    for row, column in enumerate([-1, 0] * 5):
        labels[2 * row + 1, column] = 1
    pairs = find_neighbours(grid[None], 800)
    region = connected_components(labels.view(1, -1), pairs).view(20, 40)
    assert len(region[labels == 1].unique()) == 1


def test_depths_are_shortest_paths_to_another_label() -> None:
    superpixels = maps(size=(60, 80), count=150)
    count = int(superpixels.max()) + 1
    pairs = find_neighbours(superpixels, count)
    y = torch.arange(60)[:, None].expand(60, 80)
    labels = torch.zeros(2, count, dtype=torch.int64)
    for b in range(2):
        for s in range(count):
            inside = superpixels[b] == s
            labels[b, s] = int(inside.any() and y[inside].float().mean() > 25)
    every = graph(pairs, torch.zeros_like(labels))
    lengths = shortest_path(every, unweighted=True)
    flat = labels.flatten().numpy()
    expected = []
    for node, label in enumerate(flat):
        reach = lengths[node][flat != label]
        expected.append(min(reach.min(initial=np.inf), 4))
    assert depth_in_region(labels, pairs, 4).flatten().tolist() == expected


def test_order_of_photos_does_not_matter() -> None:
    superpixels = maps()
    values = torch.randn(2, 40, 3)

    def means(order: Sequence[int]) -> Tensor:
        pairs = find_neighbours(superpixels[order], 40)
        ones = torch.ones(len(pairs.rows))
        return neighbour_mean(values[order], pairs, neighbour_weights(ones, pairs))

    torch.testing.assert_close(means([1, 0])[[1, 0]], means([0, 1]))
