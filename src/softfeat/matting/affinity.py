"""Affinities between superpixels, and the Laplacian of all affinities (Aksoy et al. 2018, Sec. 3).

A superpixel stands in the graph of pixels at its centroid, with its mean colour and mean feature.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import pdist
from scipy.special import erf

Array = NDArray[np.float64]

# The constants of the released program, where its paper prints others.
_SEMANTIC_STEEPNESS, _SEMANTIC_DISTANCE = 20.0, 0.15
_WEIGHT = 0.01  # of both, beside the matting affinity
_COLOUR_STEEPNESS, _COLOUR_DISTANCE, _COLOUR_RADIUS = 50.0, 0.05, 0.2


@dataclass(frozen=True)
class SuperpixelGraph:
    """What the affinities ask of S superpixels.

    Attributes:
        adjacent: (P,2) pairs of superpixels that touch, 8-connected, each once, lower id first.
        position: (S,2) mean row and column, each divided by the photo's size.
        centroid: (S,) the pixel nearest to that, as row * W + column.
        colour: (S,3) mean.
        feature: (S,D) mean.
    """

    adjacent: NDArray[np.int64]
    position: Array
    centroid: NDArray[np.int64]
    colour: Array
    feature: Array


def segment_means(ids: NDArray, values: Array) -> Array:
    """Means over the pixels of each segment: ids (N,) 0..S-1, values (N,D) -> (S,D)."""
    sums = np.stack([np.bincount(ids, column) for column in values.T], 1)
    return sums / np.bincount(ids)[:, None]


def superpixel_graph(superpixels: NDArray, image: Array, features: Array) -> SuperpixelGraph:
    """Describes superpixels.

    Args:
        superpixels: (H,W) ids 0..S-1, none without pixels.
        image: (H,W,3) in [0,1].
        features: (H,W,D).
    """
    height, width = superpixels.shape
    ids = superpixels.astype(np.int64)
    count = int(ids.max()) + 1

    def mean(values: Array) -> Array:
        return segment_means(ids.ravel(), values.reshape(ids.size, -1))

    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    centre = mean(np.stack([rows, columns], -1))
    row, column = np.rint(centre).astype(np.int64).T
    steps = [
        (ids[:, 1:], ids[:, :-1]),
        (ids[1:], ids[:-1]),
        (ids[1:, 1:], ids[:-1, :-1]),
        (ids[1:, :-1], ids[:-1, 1:]),
    ]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in steps])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    codes = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return SuperpixelGraph(
        adjacent=np.stack(np.divmod(codes, count), 1),
        position=centre / (height, width),
        centroid=row * width + column,
        colour=mean(image),
        feature=mean(features),
    )


def semantic_affinity(graph: SuperpixelGraph) -> sparse.csr_array:
    """Pulls adjacent superpixels of like features together, pushes unlike ones apart.

    erf(20 (0.15 - ||f_s - f_t||)) (Aksoy et al. 2018, Eq. 5; threshold as in the program).

    Returns:
        (S,S) symmetric, in [-1,1], zero where superpixels do not touch.
    """
    s, t = graph.adjacent.T
    distance = np.linalg.norm(graph.feature[s] - graph.feature[t], axis=1)
    weight = erf(_SEMANTIC_STEEPNESS * (_SEMANTIC_DISTANCE - distance))
    return _symmetric(s, t, weight, len(graph.centroid))


def colour_affinity(graph: SuperpixelGraph) -> sparse.csr_array:
    """Connects superpixels of like colour within a fifth of the photo's size.

    (erf(50 (0.05 - ||c_s - c_t||)) + 1) / 2 (Aksoy et al. 2018, Eq. 4).

    Returns:
        (S,S) symmetric, in [0,1]; exactly 0 beyond a colour distance of 0.17.
    """
    near = np.flatnonzero(pdist(graph.position) <= _COLOUR_RADIUS)
    distance = pdist(graph.colour)[near]
    weight = (erf(_COLOUR_STEEPNESS * (_COLOUR_DISTANCE - distance)) + 1) / 2
    kept = weight > 0
    s, t = (index[near[kept]] for index in np.triu_indices(len(graph.centroid), 1))
    return _symmetric(s, t, weight[kept], len(graph.centroid))


def _symmetric(s: NDArray, t: NDArray, weight: Array, count: int) -> sparse.csr_array:
    upper = sparse.coo_array((weight, (s, t)), shape=(count, count))
    return (upper + upper.T).tocsr()


def soft_segmentation_laplacian(
    matting: sparse.csr_array,
    graph: SuperpixelGraph,
) -> sparse.csr_array:
    """L = D - W, unnormalised, of W = W_matting + 0.01 W_semantic + 0.01 W_colour (Eq. 6).

    Args:
        matting: (N,N), of `matting_laplacian`.
        graph: the superpixels.

    Returns:
        (N,N) symmetric, rows add up to 0. Repulsion can make it slightly indefinite.
    """
    weights = (_WEIGHT * (semantic_affinity(graph) + colour_affinity(graph))).tocoo()
    at = graph.centroid
    # Two superpixels may share a centroid; their entries add up.
    affinity = sparse.coo_array(
        (weights.data, (at[weights.row], at[weights.col])), shape=matting.shape
    ).tocsr()
    return (matting + sparse.diags_array(affinity.sum(1)) - affinity).tocsr()
