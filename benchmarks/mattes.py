"""How well layers can be joined to true mattes, compared with other ways to make layers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.cluster.vq import kmeans2
from scipy.spatial import KDTree

from softfeat.data.scenes import make_scene
from softfeat.imaging.images import pictures, read_image, resize_image
from softfeat.matting.layers import normalise_alphas
from softfeat.matting.soft_segmentation import soft_segment
from softfeat.metrics.matte import MatteErrors, best_union, matte_errors
from softfeat.models.extractor import Extractor, load_extractor
from softfeat.models.photo_features import features_of
from softfeat.ops.guided_filter import guided_filter

_SCENES = 77  # first entry of the seeds, which no scene of a training has
_SMALLEST_MATTE = 0.02  # share of the photo
_OURS = "soft layers"

Photo = NDArray[np.uint8]
Layers = NDArray[np.float32]
Errors = Mapping[str, list[MatteErrors]]  # one per matte, by way


def scene_mattes(count: int, size: int) -> Iterator[tuple[Photo, list[NDArray]]]:
    """Yields scenes, and for each the alphas (H,W) of the classes that cover enough of it."""
    for index in range(count):
        image, _, alphas, classes = make_scene((_SCENES, index), size)
        mattes = [alphas[classes == c].sum(0, dtype=np.int64) / 255 for c in np.unique(classes)]
        yield image, [m for m in mattes if m.mean() >= _SMALLEST_MATTE]


def photo_mattes(root: Path, size: int) -> Iterator[tuple[Photo, list[NDArray]]]:
    """Yields photos `images/<stem>.*` and mattes `alphas/<stem>.png`, reduced to `size` pixels."""
    for path in pictures(root / "images"):
        photo, matte = read_image(path), read_image(root / "alphas" / f"{path.stem}.png")
        scale = min(1.0, size / max(photo.shape[:2]))
        small = (round(photo.shape[0] * scale), round(photo.shape[1] * scale))
        # With the same filter as the photo, so that the matte stays true.
        picture = Image.fromarray(matte[..., 0]).resize(small[::-1], Image.Resampling.BILINEAR)
        yield resize_image(photo, small), [np.asarray(picture) / 255]


def kmeans_layers(features: NDArray, count: int, seed: int) -> Layers:
    """Makes hard layers (K,H,W) by k-means of the features (H,W,D) of the pixels."""
    pixels = features.reshape(-1, features.shape[-1])
    rng = np.random.default_rng(seed)
    sample = pixels[rng.choice(len(pixels), min(10_000, len(pixels)), replace=False)]
    centres, _ = kmeans2(sample, count, iter=50, minit="++", rng=rng)
    labels = KDTree(centres).query(pixels)[1].reshape(features.shape[:2])
    return (labels == np.arange(count)[:, None, None]).astype(np.float32)


def filtered(layers: Layers, image: NDArray) -> Layers:
    """Applies a guided filter to layers (K,H,W) and normalises their sum to 1."""
    guide = torch.tensor(image.transpose(2, 0, 1).copy()).float()[None]
    smooth = guided_filter(torch.from_numpy(layers)[None], guide, 11, 1e-4)[0]
    return normalise_alphas(smooth.flatten(1).T).T.unflatten(1, smooth.shape[1:]).numpy()


def mattes(
    checkpoint: str,
    root: str | None,
    count: int,
    size: int,
    layers: int,
    seed: int,
    rivals: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Joins layers to each true matte as well as possible, and measures the remaining error.

    Args:
        checkpoint: Checkpoint of the features.
        root: Folder with `images/` and `alphas/`; None for scenes.
        count: Number of scenes.
        size: Pixels of a side of the scenes, or of the long side of the photos.
        layers: Number of layers K.
        seed: Random seed of k-means.
        rivals: Further checkpoints by the names of their features.

    Returns:
        Result with one row per way, means over the mattes.
    """
    extractor = load_extractor(checkpoint)
    others = {name: load_extractor(rival) for name, rival in rivals.items()}
    material = list(scene_mattes(count, size) if root is None else photo_mattes(Path(root), size))
    errors: dict[str, list[MatteErrors]] = {}
    for photo, truths in track(material, "mattes"):
        for way, alphas in _layers_by_way(photo, extractor, others, layers, seed).items():
            measured = [matte_errors(best_union(alphas, truth), truth) for truth in truths]
            errors.setdefault(way, []).extend(measured)
    return {
        "title": f"Layers joined to true mattes, {'scenes' if root is None else Path(root).name}",
        "rows": _rows(errors),
        "ratios": _ratios(errors),
        "settings": {
            "features": Path(checkpoint).stem,
            "pictures": len(material),
            "mattes": len(errors[_OURS]),
            "size": size,
            "layers": layers,
            "pixels of soft mattes": "true alpha neither 0 nor 1",
        },
    }


def _layers_by_way(
    photo: Photo, extractor: Extractor, others: Mapping[str, Extractor], count: int, seed: int
) -> dict[str, Layers]:
    """Divides a photo (H,W,3) into `count` layers (K,H,W) in every way."""
    image = photo / 255
    soft = soft_segment(image, features_of(extractor, photo), count)
    hard = kmeans_layers(soft.features, count, seed)
    return {
        _OURS: soft.alphas,
        "k-means of the same features": hard,
        "the same, guided filter": filtered(hard, image),
        "soft layers of colour alone": soft_segment(image, image, count).alphas,
        **{
            f"soft layers of {name}": soft_segment(image, features_of(other, photo), count).alphas
            for name, other in others.items()
        },
    }


def _rows(errors: Errors) -> list[dict[str, str]]:
    """Averages the errors; a matte without soft pixels has no error on them."""
    return [
        {
            "way": way,
            "SAD (1000 px)": f"{np.nanmean([e.sad for e in measured]):.2f}",
            "MSE (1e-3)": f"{1000 * np.nanmean([e.mse for e in measured]):.1f}",
            "gradient": f"{np.nanmean([e.gradient for e in measured]):.3f}",
            "error on soft pixels": f"{np.nanmean([e.soft for e in measured]):.3f}",
        }
        for way, measured in errors.items()
    ]


def _ratios(errors: Errors) -> dict[str, dict[str, float]]:
    """Compares the error on soft pixels with that of our layers, matte by matte."""
    ours = [e.soft for e in errors[_OURS]]
    return {
        f"error on soft pixels, {way} / soft layers": quartiles(
            np.array([e.soft for e in measured]) / ours
        )
        for way, measured in errors.items()
        if way != _OURS
    }


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Median, lower quartile (q1) and upper quartile (q3) of the values that are not NaN."""
    q1, middle, q3 = np.nanquantile(list(values), [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "q1": q1, "q3": q3}
