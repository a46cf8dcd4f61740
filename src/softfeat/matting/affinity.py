"""Affinities between superpixels, and the Laplacian of all affinities (Aksoy et al. 2018, Sec. 3).

The graph connects pixels. A superpixel takes part in it through one pixel, its centroid, with the
mean colour and mean feature of all its pixels.

Legend: H W pixels, N = H*W, S superpixels, D feature channels, P pairs of superpixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import pdist
from scipy.special import erf

Array = NDArray[np.float64]

# These are the constants of the authors' program. Their paper prints other values for some.
_SEMANTIC_STEEPNESS = 20.0
_SEMANTIC_DISTANCE = 0.15  # feature distance at which attraction turns into repulsion
_COLOUR_STEEPNESS = 50.0
_COLOUR_DISTANCE = 0.05  # colour distance at which the affinity is 1/2
_COLOUR_RADIUS = 0.2  # reach of the colour affinity, as a share of the photo's height and width
_WEIGHT = 0.01  # weight of either affinity, where the matting affinity has weight 1


@dataclass(frozen=True)
class SuperpixelGraph:
    """Description of S superpixels, as the affinities need it.

    Attributes:
        adjacent: Pairs (P,2) of superpixels that touch (8-connected). Each pair is listed once,
            with the lower id first.
        position: Mean row and column (S,2), divided by the height and width of the photo.
        centroid: Pixel (S,) nearest to the mean position, as row * W + column.
        colour: Mean colour (S,3).
        feature: Mean feature (S,D).
    """

    adjacent: NDArray[np.int64]
    position: Array
    centroid: NDArray[np.int64]
    colour: Array
    feature: Array


def segment_means(ids: NDArray, values: Array) -> Array:
    """Average values over the pixels of each segment.

    Args:
        ids: Segment ids (N,) in 0..S-1, each of which occurs.
        values: Values (N,D) of the pixels.

    Returns:
        Means (S,D).
    """
    sums = np.stack([np.bincount(ids, column) for column in values.T], 1)  # (S,D)
    return sums / np.bincount(ids)[:, None]


def superpixel_graph(superpixels: NDArray, image: Array, features: Array) -> SuperpixelGraph:
    """Describe the superpixels of a photo.

    Args:
        superpixels: Superpixel map (H,W) with ids 0..S-1, each of which occurs.
        image: Photo (H,W,3) in [0,1].
        features: Features (H,W,D).

    Returns:
        Graph of the S superpixels.
    """
    height, width = superpixels.shape
    ids = superpixels.astype(np.int64)  # (H,W)

    def mean(values: Array) -> Array:
        return segment_means(ids.ravel(), values.reshape(ids.size, -1))

    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    centre = mean(np.stack([rows, columns], -1))  # (S,2), in pixels
    row, column = np.rint(centre).astype(np.int64).T  # (S,) each
    return SuperpixelGraph(
        adjacent=_adjacent_pairs(ids),
        position=centre / (height, width),
        centroid=row * width + column,
        colour=mean(image),
        feature=mean(features),
    )


def _adjacent_pairs(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """List the pairs (P,2) of ids that touch in a map (H,W), each once, with the lower id first."""
    # Every pixel with its left, upper, upper left and upper right neighbour
    neighbours = [
        (ids[:, 1:], ids[:, :-1]),
        (ids[1:], ids[:-1]),
        (ids[1:, 1:], ids[:-1, :-1]),
        (ids[1:, :-1], ids[:-1, 1:]),
    ]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in neighbours])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    # One number for each pair: np.unique is far faster on numbers than on rows.
    count = int(ids.max()) + 1
    codes = np.unique(pairs[:, 0] * count + pairs[:, 1])  # (P,)
    return np.stack(np.divmod(codes, count), 1)


def semantic_affinity(graph: SuperpixelGraph) -> sparse.csr_array:
    """Attract adjacent superpixels with similar features, and repel those with different ones.

    The affinity is erf(20 (0.15 - ||f_s - f_t||)) (Aksoy et al. 2018, Eq. 5, with the threshold of
    the authors' program).

    Args:
        graph: Superpixels, with features in [0,1].

    Returns:
        Symmetric matrix (S,S) in [-1,1], zero for superpixels that do not touch.
    """
    s, t = graph.adjacent.T  # (P,) each
    distance = np.linalg.norm(graph.feature[s] - graph.feature[t], axis=1)  # (P,)
    weight = erf(_SEMANTIC_STEEPNESS * (_SEMANTIC_DISTANCE - distance))  # (P,)
    return _symmetric(s, t, weight, len(graph.centroid))


def colour_affinity(graph: SuperpixelGraph) -> sparse.csr_array:
    """Connect superpixels with similar colours that are at most a fifth of the photo apart.

    The affinity is (erf(50 (0.05 - ||c_s - c_t||)) + 1) / 2 (Aksoy et al. 2018, Eq. 4).

    Args:
        graph: Superpixels, with colours in [0,1].

    Returns:
        Symmetric matrix (S,S) in [0,1], exactly 0 beyond a colour distance of 0.17.
    """
    # pdist lists all pairs s < t in the order of np.triu_indices.
    near = np.flatnonzero(pdist(graph.position) <= _COLOUR_RADIUS)  # (P,)
    distance = pdist(graph.colour)[near]  # (P,)
    weight = (erf(_COLOUR_STEEPNESS * (_COLOUR_DISTANCE - distance)) + 1) / 2  # (P,)
    # Most pairs underflow to 0. Leaving them out keeps the matrix sparse.
    similar = weight > 0
    all_s, all_t = np.triu_indices(len(graph.centroid), 1)
    s = all_s[near[similar]]
    t = all_t[near[similar]]
    return _symmetric(s, t, weight[similar], len(graph.centroid))


def _symmetric(s: NDArray, t: NDArray, weight: Array, count: int) -> sparse.csr_array:
    """Build the matrix (S,S) that has each weight (P,) at (s,t) and at (t,s)."""
    upper = sparse.coo_array((weight, (s, t)), shape=(count, count))
    return (upper + upper.T).tocsr()


def soft_segmentation_laplacian(
    matting: sparse.csr_array,
    graph: SuperpixelGraph,
) -> sparse.csr_array:
    """Build the Laplacian of all three affinities (Aksoy et al. 2018, Eq. 6).

    It is L = D - W with W = W_matting + 0.01 W_semantic + 0.01 W_colour, where D has the row sums
    of W on its diagonal. It is not normalised, as in the authors' program.

    Args:
        matting: Result (N,N) of `matting_laplacian`.
        graph: Superpixels of the same photo.

    Returns:
        Symmetric matrix (N,N) whose rows add up to 0. Repulsion can make it slightly indefinite.
    """
    # Move the entries from superpixels to their centroids. Two superpixels may have the same
    # centroid. Their entries then add up.
    weights = (_WEIGHT * (semantic_affinity(graph) + colour_affinity(graph))).tocoo()  # (S,S)
    rows = graph.centroid[weights.row].astype(np.int32)
    columns = graph.centroid[weights.col].astype(np.int32)
    # D - W, where duplicate entries add up
    entries = np.concatenate([weights.data, -weights.data])
    places = (np.concatenate([rows, rows]), np.concatenate([rows, columns]))
    return matting + sparse.coo_array((entries, places), shape=matting.shape).tocsr()
