"""Semantic soft segmentation (Aksoy et al. 2018): from a photo and its features to a few alphas.

The stages are functions that can be called alone, in the order of `STAGES`: `reduce_features`,
`build_graph`, `compute_eigenvectors`, `find_segments`, `sparsify_constrained` and
`sparsify_relaxed`. `analyse` runs and times those that do not depend on the number of layers, and
`layers_of` cuts any number of layers from its result. `soft_segment` is both in one call.

Legend: H,W the photo's size, N pixels, h,w the size of its features, D feature channels,
S superpixels, M eigenvectors, C components, K layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from softfeat.imaging.convert import ids_tensor, to_array, to_tensor, to_uint8
from softfeat.imaging.slic import Superpixels
from softfeat.matting.affinity import (
    SuperpixelGraph,
    soft_segmentation_laplacian,
    superpixel_graph,
)
from softfeat.matting.eigen import (
    Eigenvectors,
    smallest_eigenvectors,
    superpixel_basis,
    superpixel_eigenvectors,
)
from softfeat.matting.laplacian import matting_laplacian
from softfeat.matting.layers import SegmentTree, normalise_alphas
from softfeat.matting.sparsify import (
    LEAST_DISTANCE,
    constrained_sparsification,
    gradient_magnitude,
    relaxed_sparsification,
    solve_layers,
    solve_layers_dense,
)
from softfeat.ops.guided_filter import guided_filter
from softfeat.ops.pca import normalise, principal_axes
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.stopwatch import Stopwatch

STAGES = ("features", "graph", "eigenvectors", "segments", "constrained", "relaxed")
Backend = Literal["fast_slic", "skimage"]

_LARGEST_FEATURE = 5.0  # larger values are noise of the network
_WINDOW, _EPS = 11, 0.01  # guided filter
_SUPERPIXELS = 2500  # superpixels of the graph; small photos get fewer
_PIXELS_PER_SUPERPIXEL = 16  # at least, in small photos
_BASIS_SUPERPIXELS = 1000  # superpixels whose functions span the eigenvectors
_EIGENVECTORS, MOST_LAYERS = 100, 40
_COMPONENTS = 10  # principal components of the features by which superpixels are grouped
_SMALLEST = 8  # pixels of a side
_SMALL_ENOUGH = 10_000  # pixels of photos whose eigenvectors are always exact


@dataclass(frozen=True)
class Solver:
    """How soft segmentation computes. The defaults are fast; `REFERENCE` is the published way.

    Attributes:
        eigenvectors: "superpixels" searches them in the span of functions on superpixels, "exact"
            does not. Photos of less than 10,000 pixels always get exact ones.
        pixels: Number of pixels from which the sums of the constrained sparsification are
            estimated; None uses all.
        iterations: Iterations of the constrained sparsification. Layers are as sharp after 10 as
            after 40, but keep moving: only the sparsity holds them, so small causes have large
            effects.
        floor: Least distance to 0 and 1 in the constrained sparsification.
        dense: Whether its systems are solved as one dense system.
        relaxed: Iterations of the relaxed sparsification, steps of conjugate gradients in each, and
            steps in the last one.
        tolerance: Relative tolerance of the residuals of the relaxed sparsification.
        preconditioned: Whether its conjugate gradients are preconditioned.
        precision: Data type of the torch computations.
    """

    eigenvectors: Literal["superpixels", "exact"] = "superpixels"
    pixels: int | None = 5_000
    iterations: int = 10
    floor: float = 1e-2
    dense: bool = False
    relaxed: tuple[int, int, int] = (6, 4, 50)
    tolerance: float = 1e-4
    preconditioned: bool = True
    precision: torch.dtype = torch.float32


REFERENCE = Solver("exact", None, 40, 1e-10, True, (20, 100, 1000), 1e-6, False, torch.float64)


@dataclass(frozen=True)
class PhotoGraph:
    """The graph of a photo: pixels joined by the matting affinity, superpixels by all others.

    Attributes:
        superpixels: (H,W) ids 0..S-1.
        nodes: Statistics of the superpixels.
        matting: (N,N) matting Laplacian.
        laplacian: (N,N) Laplacian of all affinities.
    """

    superpixels: NDArray[np.uint16]
    nodes: SuperpixelGraph
    matting: sparse.csr_array
    laplacian: sparse.csr_array


@dataclass(frozen=True)
class Analysis:
    """Everything that soft segmentation knows about a photo before the layers are counted.

    Attributes:
        image: (H,W,3) in [0,1].
        features: (H,W,D) in [0,1], D <= 3; the features that the layers follow.
        superpixels: (H,W) ids 0..S-1.
        laplacian: (N,N).
        eigenvectors: M of them, each for N pixels.
        tree: Hierarchy of the superpixels.
        segments: (S,) initial segment of each superpixel, at most 40 of them.
        survivors: (C,) initial segments that the constrained sparsification kept.
        coefficients: (M,C) components of the constrained sparsification: their alphas are
            eigenvectors.combined(coefficients).
        solver: Settings of the computation.
        seconds: Seconds per stage.
    """

    image: NDArray[np.float64]
    features: NDArray[np.float64]
    superpixels: NDArray[np.uint16]
    laplacian: sparse.csr_array
    eigenvectors: Eigenvectors
    tree: SegmentTree
    segments: NDArray[np.int64]
    survivors: Tensor
    coefficients: Tensor
    solver: Solver
    seconds: dict[str, float]


@dataclass(frozen=True)
class SoftSegmentation:
    """Layers of a photo.

    Attributes:
        alphas: (K,H,W) float32 in [0,1], adding up to 1 at every pixel, largest layer first.
        features: (H,W,D) in [0,1], D <= 3; the features that the layers follow.
        superpixels: (H,W) ids.
        seconds: Seconds per stage.
    """

    alphas: NDArray[np.float32]
    features: NDArray[np.float64]
    superpixels: NDArray[np.uint16]
    seconds: dict[str, float] = field(default_factory=dict)


def preprocess_features(features: Tensor, image: Tensor) -> Tensor:
    """Reduces features to three dimensions in [0,1]: clamp, guided filter, PCA, scaling.

    The filter is linear in the features, so it does not have to filter all of them. The principal
    axes of the filtered features are computed at a quarter of the photo's resolution, and only the
    projections are enlarged and filtered at full resolution.

    Args:
        features: (1,D,h,w) features, at most as large as the photo.
        image: (1,3,H,W) in [0,1].

    Returns:
        (1,3,H,W), or (1,D,H,W) if D <= 3. These are only enlarged. A constant component becomes 0.
    """
    if features.shape[1] <= 3:
        return _resized(features, image.shape[2:])
    clamped = features.float().clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)
    factor = max(1, min(4, min(image.shape[2:]) // 16))
    coarse_image = avg_pool2d(image, factor, ceil_mode=True)
    coarse = _resized(clamped, coarse_image.shape[2:])
    window = max(1, _WINDOW // factor)
    axes = principal_axes(guided_filter(coarse, coarse_image, window, _EPS))
    projected = torch.einsum("bdhw,bdk->bkhw", clamped, axes)
    projected = _resized(projected, image.shape[2:])
    return normalise(guided_filter(projected, image, _WINDOW, _EPS))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarges maps bilinearly, or reduces them by averaging."""
    if maps.shape[2] > size[0]:
        return adaptive_avg_pool2d(maps, (size[0], size[1]))
    return interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _check(image: NDArray, features: NDArray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SMALLEST:
        raise ValueError(f"the image must be (H,W,3), H and W {_SMALLEST} or more: {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("the image holds values that are no numbers (NaN or infinity): mend it")
    if image.min() < 0 or image.max() > 1:
        raise ValueError("the image must be in [0,1]: divide by 255")
    (height, width), (rows, columns) = image.shape[:2], features.shape[:2]
    if (
        features.ndim != 3
        or not (1 <= rows <= height and 1 <= columns <= width)
        or abs(rows * width - columns * height) > height + width  # both are rounded
    ):
        raise ValueError(
            f"features {features.shape} must be (h,w,D) of the whole image {image.shape}, at its "
            "size or reduced"
        )
    if not np.isfinite(features).all():
        raise ValueError("the features hold NaN or infinity: look at the checkpoint's training")
    if features.shape[2] <= 3 and (features.min() < 0 or features.max() > 1):
        raise ValueError("features of three or fewer dimensions are used as they are: in [0,1]")


def _check_number(num_layers: int | Literal["auto"]) -> None:
    if num_layers != "auto" and not 1 <= num_layers <= MOST_LAYERS:
        raise ValueError(f"{num_layers=}: choose 1..{MOST_LAYERS}, or auto")


@torch.inference_mode()
def reduce_features(
    image: NDArray[np.float64], features: NDArray, device: str | torch.device = "cpu"
) -> NDArray[np.float64]:
    """Stage "features": `preprocess_features` for arrays.

    Args:
        image: (H,W,3) in [0,1].
        features: (h,w,D), at most as large as the image.
        device: Device of the computation.

    Returns:
        (H,W,3), or (H,W,D) if D <= 3, in [0,1].
    """
    guide, maps = to_tensor(image).to(device), to_tensor(features).to(device)  # (1,3,H,W),(1,D,H,W)
    return to_array(preprocess_features(maps, guide.float()).double())


def build_graph(
    image: NDArray[np.float64], features: NDArray[np.float64], backend: Backend = "fast_slic"
) -> PhotoGraph:
    """Stage "graph": superpixels, and the Laplacian of all affinities (Sec. 3).

    Args:
        image: (H,W,3) in [0,1].
        features: (H,W,D) from `reduce_features`.
        backend: Library that computes the superpixels.
    """
    count = min(_SUPERPIXELS, image.shape[0] * image.shape[1] // _PIXELS_PER_SUPERPIXEL)
    superpixels = Superpixels(count, backend=backend)(to_uint8(image))  # (H,W)
    nodes = superpixel_graph(superpixels, image, features)
    matting = matting_laplacian(image)
    return PhotoGraph(superpixels, nodes, matting, soft_segmentation_laplacian(matting, nodes))


def compute_eigenvectors(
    image: NDArray[np.float64],
    graph: PhotoGraph,
    method: Literal["superpixels", "exact"] = "superpixels",
    seed: int = 0,
    backend: Backend = "fast_slic",
) -> Eigenvectors:
    """Stage "eigenvectors": those of the Laplacian's smallest eigenvalues.

    Args:
        image: (H,W,3) in [0,1].
        graph: Result of `build_graph`.
        method: See `Solver.eigenvectors`.
        seed: Random seed of the iterations.
        backend: Library that computes the superpixels.
    """
    size = graph.superpixels.size
    if method == "exact" or size < _SMALL_ENOUGH:
        values, vectors = smallest_eigenvectors(graph.laplacian, _EIGENVECTORS, seed=seed)
        return Eigenvectors(values, sparse.eye_array(size, format="csr"), vectors)
    superpixels = Superpixels(_BASIS_SUPERPIXELS, backend=backend)(to_uint8(image))  # (H,W)
    basis = superpixel_basis(image, superpixels)
    return superpixel_eigenvectors(graph.laplacian, graph.matting, basis, _EIGENVECTORS, seed=seed)


def find_segments(
    superpixels: NDArray[np.uint16], features: NDArray
) -> tuple[SegmentTree, NDArray[np.int64]]:
    """Stage "segments": at most 40 initial segments, from a hierarchy of the superpixels.

    Superpixels are compared by their mean features on the first principal components, in the unit
    of the features. The three components in [0,1] that the graph uses are not fit for this: each
    counts as much as the others there, however little the features differ along it.

    Args:
        superpixels: (H,W) ids 0..S-1.
        features: (h,w,D) as given to `analyse`.

    Returns:
        tree: The hierarchy.
        segments: (S,) initial segment of each superpixel.
    """
    maps = to_tensor(np.asarray(features, np.float32)).clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)
    count = int(superpixels.max()) + 1
    means = pyramid_superpixel_mean([maps], ids_tensor(superpixels), count)[0][0].double()  # (S,D)
    if means.shape[1] > _COMPONENTS:
        means -= means.mean(0)
        axes = torch.linalg.eigh(means.mT @ means).eigenvectors  # (D,D), by increasing variance
        means = means @ axes[:, -_COMPONENTS:]
    tree = SegmentTree(means.numpy())
    return tree, tree.cut(MOST_LAYERS)


@torch.inference_mode()
def sparsify_constrained(
    eigenvectors: Eigenvectors,
    segments: NDArray[np.int64],
    superpixels: NDArray[np.uint16],
    solver: Solver,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Stage "constrained": sparse components within the span of the eigenvectors (Sec. 3.4).

    Args:
        eigenvectors: M of them.
        segments: (S,) initial segment of each superpixel.
        superpixels: (H,W) ids 0..S-1.
        solver: Settings of the computation.
        device: Device of the computation.

    Returns:
        coefficients: (M,C). Alphas of the components are eigenvectors.combined(coefficients).
        survivors: (C,) initial segment of each component.
    """
    size = superpixels.size
    pixels = np.arange(size)
    if solver.pixels is not None and solver.pixels < size:
        pixels = _sample_pixels(superpixels, solver.pixels)
    return constrained_sparsification(
        torch.from_numpy(eigenvectors.at(pixels)).to(device, solver.precision),  # (n,M)
        torch.from_numpy(eigenvectors.values).to(device),
        torch.from_numpy(segments[superpixels.ravel()[pixels]]).to(device),  # (n,)
        torch.from_numpy(eigenvectors.sums()).to(device),  # (M,)
        size / len(pixels),
        solver.iterations,
        solver.floor,
        solve_layers_dense if solver.dense else solve_layers,
    )


def _sample_pixels(superpixels: NDArray[np.uint16], count: int) -> NDArray[np.int64]:
    """Indices of `count` pixels at equal steps through the superpixels, one after the other.

    Each superpixel gets its share.
    """
    order = np.argsort(superpixels.ravel(), kind="stable")  # (N,)
    middles = (np.arange(count) + 0.5) * (order.size / count)
    return np.sort(order[middles.astype(np.int64)])


@torch.inference_mode()
def sparsify_relaxed(
    analysis: Analysis, num_layers: int | Literal["auto"] = 5
) -> NDArray[np.float32]:
    """Stage "relaxed": groups of components, refined pixel by pixel (Sec. 3.4), as alphas.

    Args:
        analysis: Analysis of the photo.
        num_layers: Number of layers K; see `layers_of`.

    Returns:
        (K,H,W) in [0,1], adding up to 1, largest layer first.
    """
    solver, coefficients, tree = analysis.solver, analysis.coefficients, analysis.tree
    device = coefficients.device

    # Group the components by a cut of the tree. The initial segments are a cut of the same tree, so
    # each of them belongs to one group as a whole.
    count = tree.best_count() if num_layers == "auto" else num_layers
    groups = np.zeros(analysis.segments.max() + 1, np.int64)
    groups[analysis.segments] = tree.cut(count)
    group = torch.from_numpy(groups).to(device)[analysis.survivors]  # (C,)
    grouped = coefficients.new_zeros(len(coefficients), groups.max() + 1)
    grouped.index_add_(1, group, coefficients)
    grouped = grouped[:, grouped.any(0)]  # (M,K)

    # Refine the sums of the groups.
    sums = torch.from_numpy(analysis.eigenvectors.combined(grouped.cpu().numpy()))  # (N,K)
    relaxed = relaxed_sparsification(
        analysis.laplacian,
        sums.to(device, solver.precision),
        torch.from_numpy(gradient_magnitude(analysis.image).ravel()),
        *solver.relaxed,
        solver.tolerance,
        solver.preconditioned,
    )  # (N,K)

    # A layer that is absent keeps about half of the least distance. Subtracting it makes it 0.
    # In double precision, because sums of float32 fractions are off by about 1e-7.
    alphas = normalise_alphas(relaxed.double() - LEAST_DISTANCE)
    alphas = alphas[:, alphas.any(0)]
    alphas = alphas[:, alphas.sum(0).argsort(descending=True, stable=True)]
    return alphas.T.reshape(-1, *analysis.superpixels.shape).float().cpu().numpy()


def analyse(
    image: NDArray,
    features: NDArray,
    seed: int = 0,
    solver: Solver | None = None,
    device: str | torch.device = "cpu",
    backend: Backend = "fast_slic",
) -> Analysis:
    """Computes everything that does not depend on the number of layers.

    Args:
        image: (H,W,3) RGB in [0,1].
        features: (h,w,D) features of the network for the whole image, at its size or reduced, as
            networks compute them. Three or fewer dimensions are used as they are and must be in
            [0,1].
        seed: Random seed of the start vector of the eigenvector iterations. Nothing else is random.
        solver: Settings of the computation; `Solver()` by default.
        device: Device of the features and the sparsifications. The eigenvectors are computed on the
            CPU.
        backend: Library that computes the superpixels.

    Returns:
        The analysis, from which `layers_of` cuts layers.

    Raises:
        ValueError: The image or the features have a wrong size or range.
    """
    _check(image, features)
    solver = solver or Solver()
    image = np.asarray(image, np.float64)
    if np.ptp(image, (0, 1)).max() < 1 / 255:
        # In one colour, a network sees nothing except its own padding: this is one layer.
        features = np.zeros_like(features[..., :3])
    watch = Stopwatch()
    with watch("features"):
        reduced = reduce_features(image, features, device)  # (H,W,3)
    with watch("graph"):
        graph = build_graph(image, reduced, backend)
    with watch("eigenvectors"):
        eigenvectors = compute_eigenvectors(image, graph, solver.eigenvectors, seed, backend)
    with watch("segments"):
        tree, segments = find_segments(graph.superpixels, features)
    with watch("constrained"):
        coefficients, survivors = sparsify_constrained(
            eigenvectors, segments, graph.superpixels, solver, device
        )
    return Analysis(
        image=image,
        features=reduced,
        superpixels=graph.superpixels,
        laplacian=graph.laplacian,
        eigenvectors=eigenvectors,
        tree=tree,
        segments=segments,
        survivors=survivors,
        coefficients=coefficients,
        solver=solver,
        seconds=watch.seconds,
    )


def layers_of(analysis: Analysis, num_layers: int | Literal["auto"] = 5) -> SoftSegmentation:
    """Cuts the layers of a photo from its analysis.

    The components of the constrained sparsification are grouped by a cut of the segment tree, their
    sums are refined pixel by pixel, and the results become alphas.

    Args:
        analysis: Analysis of the photo. It serves any number of cuts.
        num_layers: Number of layers K, 1 to 40. "auto" chooses 2 to 8 by the segment tree. Fewer
            layers come out where the features do not differ, or where one has no pixel left.

    Returns:
        The layers, largest first. `seconds` includes the analysis.

    Raises:
        ValueError: The number of layers is out of range.
    """
    _check_number(num_layers)
    watch = Stopwatch()
    with watch("relaxed"):
        alphas = sparsify_relaxed(analysis, num_layers)  # (K,H,W)
    return SoftSegmentation(
        alphas=alphas,
        features=analysis.features,
        superpixels=analysis.superpixels,
        seconds=analysis.seconds | watch.seconds,
    )


def soft_segment(
    image: NDArray,
    features: NDArray,
    num_layers: int | Literal["auto"] = 5,
    seed: int = 0,
    solver: Solver | None = None,
    device: str | torch.device = "cpu",
    backend: Backend = "fast_slic",
) -> SoftSegmentation:
    """Divides a photo into soft layers: `analyse`, then `layers_of`.

    Args:
        image: (H,W,3) RGB in [0,1].
        features: (h,w,D) features; see `analyse`.
        num_layers: Number of layers K, or "auto"; see `layers_of`.
        seed: Random seed of the eigenvectors; see `analyse`.
        solver: Settings of the computation; `Solver()` by default.
        device: Device of the features and the sparsifications.
        backend: Library that computes the superpixels.

    Returns:
        The layers, largest first.

    Raises:
        ValueError: An argument has a wrong size or range.
    """
    _check_number(num_layers)  # before the slow part
    return layers_of(analyse(image, features, seed, solver, device, backend), num_layers)
