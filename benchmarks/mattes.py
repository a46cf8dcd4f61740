"""How well layers can be joined to true mattes, beside what else makes layers of a photo."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
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
from softfeat.metrics.matte import best_union, matte_errors
from softfeat.models.extractor import load_extractor
from softfeat.models.photo_features import features_of
from softfeat.ops.guided_filter import guided_filter

_SCENES = 77  # first entry of the seeds: no scene of training has it
_SMALLEST_MATTE = 0.02  # share of the photo


def scene_mattes(count: int, size: int) -> Iterator[tuple[NDArray[np.uint8], list[NDArray]]]:
    """Scenes and, for each, the alpha of every class that covers enough of it."""
    for index in range(count):
        image, _, alphas, classes = make_scene((_SCENES, index), size)
        mattes = [alphas[classes == c].sum(0, dtype=np.int64) / 255 for c in np.unique(classes)]
        yield image, [m for m in mattes if m.mean() >= _SMALLEST_MATTE]


def photo_mattes(root: Path, size: int) -> Iterator[tuple[NDArray[np.uint8], list[NDArray]]]:
    """Photos `images/<stem>.*` with `alphas/<stem>.png`, both at a long side of `size`."""
    for path in pictures(root / "images"):
        photo, matte = read_image(path), read_image(root / "alphas" / f"{path.stem}.png")
        scale = min(1.0, size / max(photo.shape[:2]))
        small = (round(photo.shape[0] * scale), round(photo.shape[1] * scale))
        # By the photo's own filter, so that the photo stays the mixture that the matte says.
        picture = Image.fromarray(matte[..., 0]).resize(small[::-1], Image.Resampling.BILINEAR)
        yield resize_image(photo, small), [np.asarray(picture) / 255]


def kmeans_layers(features: NDArray, count: int, seed: int) -> NDArray[np.float32]:
    """Hard layers: k-means of the pixels' features (H,W,3) -> (K,H,W)."""
    pixels = features.reshape(-1, features.shape[-1])
    rng = np.random.default_rng(seed)
    sample = pixels[rng.choice(len(pixels), min(10_000, len(pixels)), replace=False)]
    centres, _ = kmeans2(sample, count, iter=50, minit="++", rng=rng)
    labels = KDTree(centres).query(pixels)[1].reshape(features.shape[:2])
    return (labels == np.arange(count)[:, None, None]).astype(np.float32)


def filtered(layers: NDArray[np.float32], image: NDArray) -> NDArray[np.float32]:
    """Layers (K,H,W) after a guided filter, adding up to 1 again."""
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
    """Joins layers to each true matte as well as can be, and measures what is left.

    Args:
        checkpoint: of the features.
        root: folder with `images/` and `alphas/`; None for scenes.
        count: of scenes.
        size: of scenes, or the long side of photos.
        layers: K.
        seed: of k-means.
        rivals: further checkpoints, by what their features are called.

    Returns:
        Title, settings, rows (one a way, means over the mattes) and ratios.
    """
    extractor = load_extractor(checkpoint)
    others = {name: load_extractor(rival) for name, rival in rivals.items()}
    material = list(scene_mattes(count, size) if root is None else photo_mattes(Path(root), size))
    errors: dict[str, list[dict[str, float]]] = {}
    for photo, truths in track(material, "mattes"):
        image = photo / 255
        soft = soft_segment(image, features_of(extractor, photo), layers)
        hard = kmeans_layers(soft.features, layers, seed)
        ways = {
            "soft layers": soft.alphas,
            "k-means of the same features": hard,
            "the same, guided filter": filtered(hard, image),
            "soft layers of colour alone": soft_segment(image, image, layers).alphas,
        }
        for name, other in others.items():
            found = soft_segment(image, features_of(other, photo), layers)
            ways[f"soft layers of {name}"] = found.alphas
        for name, alphas in ways.items():
            for truth in truths:
                measured = asdict(matte_errors(best_union(alphas, truth), truth))
                errors.setdefault(name, []).append(measured)

    def column(name: str, key: str) -> NDArray:
        return np.array([e[key] for e in errors[name]])

    rows = [
        {
            "way": name,
            "SAD (1000 px)": f"{np.nanmean(column(name, 'sad')):.2f}",
            "MSE (1e-3)": f"{1000 * np.nanmean(column(name, 'mse')):.1f}",
            "gradient": f"{np.nanmean(column(name, 'gradient')):.3f}",
            "error on soft pixels": f"{np.nanmean(column(name, 'soft')):.3f}",
        }
        for name in errors
    ]
    ours = column("soft layers", "soft")
    ratios = {}
    for name in list(errors)[1:]:
        shares = column(name, "soft") / ours
        low, middle, high = np.nanquantile(shares, [0.25, 0.5, 0.75])
        ratios[f"error on soft pixels, {name} / soft layers (quartiles)"] = {
            "median": float(middle),
            "min": float(low),
            "max": float(high),
        }
    return {
        "title": f"Layers joined to true mattes, {'scenes' if root is None else Path(root).name}",
        "rows": rows,
        "ratios": ratios,
        "settings": {
            "features": Path(checkpoint).stem,
            "pictures": len(material),
            "mattes": len(ours),
            "size": size,
            "layers": layers,
            "pixels of soft mattes": "true alpha neither 0 nor 1",
        },
    }
