"""Semantic soft segmentation (Aksoy et al. 2018): a photo and its features to a few alphas."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from src.data.slic import Superpixels
from src.matting.affinity import soft_segmentation_laplacian, superpixel_graph
from src.matting.eigen import smallest_eigenvectors, superpixel_basis, superpixel_eigenvectors
from src.matting.laplacian import matting_laplacian
from src.matting.layers import SegmentTree, initial_segments, normalise_alphas
from src.matting.sparsify import (
    constrained_sparsification,
    gradient_magnitude,
    relaxed_sparsification,
    solve_layers,
    solve_layers_dense,
)
from src.ops.guided_filter import guided_filter
from src.ops.pca import normalise, principal_axes

_LARGEST_FEATURE = 5.0  # beyond is noise of the network
_WINDOW, _EPS = 11, 0.01  # of the guided filter
_SUPERPIXELS = 2500  # of the graph, and the least pixels of each, in small photos
_PIXELS_PER_SUPERPIXEL = 16
_BASIS_SUPERPIXELS = 1000  # whose functions span the eigenvectors
_EIGENVECTORS, MOST_LAYERS = 100, 40
_SMALLEST, _SMALL_ENOUGH = 8, 10_000


@dataclass(frozen=True)
class Solver:
    """How `soft_segment` computes: the defaults are fast, `REFERENCE` is the published way.

    Attributes:
        eigenvectors: in the span of superpixels' functions, or exact (photos of less than 10,000
            pixels always are).
        pixels: that the constrained sparsification's sums are estimated from; None for all.
        iterations: of the constrained sparsification. Layers are as sharp after 10 as after 40, but
            move on: the sparsity alone holds them, and small causes have large effects.
        floor: of its distances to 0 and 1.
        dense: solve its systems as one.
        relaxed: iterations of the relaxed sparsification, steps of conjugate gradients in each, and
            in the last one.
        tolerance: of its residuals, relative.
        preconditioned: whether its conjugate gradients are.
        precision: of the torch computations.
    """

    eigenvectors: Literal["superpixels", "exact"] = "superpixels"
    pixels: int | None = 10_000
    iterations: int = 10
    floor: float = 1e-2
    dense: bool = False
    relaxed: tuple[int, int, int] = (10, 4, 50)
    tolerance: float = 1e-4
    preconditioned: bool = True
    precision: torch.dtype = torch.float32


REFERENCE = Solver("exact", None, 40, 1e-10, True, (20, 100, 1000), 1e-6, False, torch.float64)


@dataclass(frozen=True)
class SoftSegmentation:
    """Layers of a photo.

    Attributes:
        alphas: (K,H,W) float32 in [0,1], adding up to 1 at every pixel, largest layer first.
        features: (H,W,3) in [0,1], what the layers follow.
        superpixels: (H,W) ids.
        eigenvalues: (M,).
        eigenvectors: (M,H,W).
        seconds: per stage.
    """

    alphas: NDArray[np.float32]
    features: NDArray[np.float64]
    superpixels: NDArray[np.uint16]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    seconds: dict[str, float] = field(default_factory=dict)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[stage] = perf_counter() - start


def preprocess_features(features: Tensor, image: Tensor) -> Tensor:
    """Features to three dimensions in [0,1]: clamp, guided filter, PCA, range of each component.

    The filter is linear in the features, so it need not filter all of them: the principal axes of
    filtered features are found at a quarter of the resolution, and only the projections are
    filtered at the whole.

    Args:
        features: (1,D,H,W); used as they are where D <= 3.
        image: (1,3,H,W) in [0,1].

    Returns:
        (1,3,H,W), or (1,D,H,W) of fewer; a constant component is 0.
    """
    if features.shape[1] <= 3:
        return features
    clamped = features.float().clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)
    factor = max(1, min(4, min(image.shape[2:]) // 16))
    coarse, coarse_image = (avg_pool2d(x, factor, ceil_mode=True) for x in (clamped, image))
    window = max(1, _WINDOW // factor)
    axes = principal_axes(guided_filter(coarse, coarse_image, window, _EPS))
    projected = torch.einsum("bdhw,bdk->bkhw", clamped, axes)
    return normalise(guided_filter(projected, image, _WINDOW, _EPS))


def _check(image: NDArray, features: NDArray, num_layers: int | Literal["auto"]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SMALLEST:
        raise ValueError(f"the image must be (H,W,3), H and W {_SMALLEST} or more: {image.shape}")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise ValueError("the image must be in [0,1]: divide by 255")
    if features.ndim != 3 or features.shape[:2] != image.shape[:2]:
        raise ValueError(
            f"features {features.shape} must be (H,W,D) at the size of the image {image.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("the features hold NaN or infinity: look at the checkpoint's training")
    if features.shape[2] <= 3 and (features.min() < 0 or features.max() > 1):
        raise ValueError("features of three or fewer dimensions are used as they are: in [0,1]")
    if num_layers != "auto" and not 1 <= num_layers <= MOST_LAYERS:
        raise ValueError(f"{num_layers=}: choose 1..{MOST_LAYERS}, or auto")


def soft_segment(
    image: NDArray,
    features: NDArray,
    num_layers: int | Literal["auto"] = 5,
    seed: int = 0,
    solver: Solver | None = None,
    device: str | torch.device = "cpu",
    backend: Literal["fast_slic", "skimage"] = "fast_slic",
) -> SoftSegmentation:
    """Divides a photo into soft layers.

    Args:
        image: (H,W,3) RGB in [0,1].
        features: (H,W,D): of the network, or three or fewer in [0,1], taken as they are.
        num_layers: K; or "auto", between 2 and 8. Fewer come out where features do not differ.
        seed: of the start of the eigenvectors' iterations; all else is without chance.
        solver: the fast one by default.
        device: of the features' and the sparsifications' computations; the eigenvectors are found
            on the CPU.
        backend: of the superpixels.

    Returns:
        The layers, largest first.

    Raises:
        ValueError: arguments of wrong sizes or ranges.
    """
    _check(image, features, num_layers)
    solver = solver or Solver()
    height, width = image.shape[:2]
    size = height * width
    image = np.asarray(image, np.float64)
    clock = _Clock()

    with clock("features"), torch.inference_mode():
        guide, raw = (
            torch.tensor(given.transpose(2, 0, 1).copy(), device=device)[None]
            for given in (image, features)
        )
        maps = preprocess_features(raw, guide.float())[0].permute(1, 2, 0)
        reduced = maps.cpu().double().numpy()

    with clock("graph"):
        photo = (image * 255).round().astype(np.uint8)
        count = min(_SUPERPIXELS, size // _PIXELS_PER_SUPERPIXEL)
        ids = Superpixels(count, backend=backend)(photo)
        graph = superpixel_graph(ids, image, reduced)
        matting = matting_laplacian(image)
        laplacian = soft_segmentation_laplacian(matting, graph)

    with clock("eigenvectors"):
        if solver.eigenvectors == "exact" or size < _SMALL_ENOUGH:
            values, vectors = smallest_eigenvectors(laplacian, _EIGENVECTORS, seed=seed)
        else:
            basis = superpixel_basis(image, Superpixels(_BASIS_SUPERPIXELS, backend=backend)(photo))
            values, vectors = superpixel_eigenvectors(
                laplacian, matting, basis, _EIGENVECTORS, seed=seed
            )

    with clock("segments"):
        tree = SegmentTree(graph.feature)
        if num_layers == "auto":
            num_layers = tree.best_count()
        labels, of_superpixels = initial_segments(tree, reduced.reshape(size, -1), MOST_LAYERS)
        # Cuts of one tree: a segment is in one group as a whole.
        groups = np.zeros(of_superpixels.max() + 1, np.int64)
        groups[of_superpixels] = tree.cut(num_layers)

    with clock("constrained"), torch.inference_mode():
        sampled = None
        if solver.pixels is not None and solver.pixels < size:
            # Every so many pixels of superpixel after superpixel: all have their share.
            order = np.argsort(ids.ravel(), kind="stable")
            middles = (np.arange(solver.pixels) + 0.5) * (size / solver.pixels)
            sampled = torch.from_numpy(np.sort(order[middles.astype(np.int64)])).to(device)
        spanned = torch.from_numpy(vectors).to(device, solver.precision)
        coefficients, survivors = constrained_sparsification(
            spanned,
            torch.from_numpy(values).to(device),
            torch.from_numpy(labels).to(device),
            sampled,
            solver.iterations,
            solver.floor,
            solve_layers_dense if solver.dense else solve_layers,
        )
        grouped = coefficients.new_zeros(len(coefficients), groups.max() + 1)
        grouped.index_add_(1, torch.from_numpy(groups).to(device)[survivors], coefficients)
        grouped = grouped[:, grouped.any(0)]
        alphas = spanned @ grouped.to(spanned)

    with clock("relaxed"), torch.inference_mode():
        relaxed = relaxed_sparsification(
            laplacian,
            alphas,
            torch.from_numpy(gradient_magnitude(image).ravel()),
            *solver.relaxed,
            solver.tolerance,
            solver.preconditioned,
        )
        # In double precision, for the sums of float32 fractions are off by some 1e-7 only then.
        normalised = normalise_alphas(relaxed.double())
        normalised = normalised[:, normalised.sum(0).argsort(descending=True, stable=True)]

    return SoftSegmentation(
        alphas=normalised.T.reshape(-1, height, width).float().cpu().numpy(),
        features=reduced,
        superpixels=ids,
        eigenvalues=values,
        eigenvectors=vectors.T.reshape(-1, height, width),
        seconds=clock.seconds,
    )
