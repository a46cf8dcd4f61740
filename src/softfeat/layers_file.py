"""Layers in one file: the photo, its alphas, and what clicks need, to go on another day.

The file is a compressed archive of arrays (`.npz`) without pickles. It may come from a stranger, so
sizes and types of all arrays are checked against each other before they are used.
"""

import json
import math
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from softfeat.atomic import replaced
from softfeat.imaging.metadata import Metadata
from softfeat.imaging.photo import Photo
from softfeat.layers import Layers
from softfeat.models.click_network import ClickNetwork
from softfeat.selection import Selector

_VERSION = 1
_LEVELS = 65535  # of alphas
_MOST_PER_PIXEL = 2 * 40 + 64  # bytes: alphas of 16 bits and everything else
_MOST_BESIDES = 2**26  # bytes: header, profile, features of superpixels
_DTYPES: dict[str, tuple[type, ...]] = {
    "header": (np.uint8,),
    "profile": (np.uint8,),
    "pixels": (np.uint8, np.uint16),
    "opacity": (np.uint8, np.uint16),
    "alphas": (np.uint16,),
    "features": (np.float16,),
    "superpixels": (np.uint16,),
    "small": (np.uint8,),
    "clickable": (np.uint16,),
    "means": (np.float32,),
}
_OPTIONAL = {"profile", "opacity"}


def write_layers(file: str | os.PathLike[str], layers: Layers, weights: str) -> None:
    """Writes layers to a file, which is complete or not there.

    Args:
        file: File to write. An existing one is replaced.
        layers: The layers.
        weights: Identity of the weights that they come from.
    """
    photo, selector = layers.original, layers.selector
    header = {
        "version": _VERSION,
        "weights": weights,
        "metadata": asdict(photo.metadata),
        "seconds": layers.seconds,
    }
    arrays: dict[str, NDArray] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "pixels": photo.pixels,
        "alphas": np.rint(layers.alphas * np.float32(_LEVELS)).astype(np.uint16),
        "features": layers.features.astype(np.float16),
        "superpixels": layers.superpixels,
        "small": selector.small,
        "clickable": selector.superpixels,
        "means": selector.features,
    }
    if photo.alpha is not None:
        arrays["opacity"] = photo.alpha
    if photo.profile is not None:
        arrays["profile"] = np.frombuffer(photo.profile, np.uint8)
    with replaced(Path(file)) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_layers(
    file: str | os.PathLike[str], network: ClickNetwork | None, weights: str, max_pixels: int
) -> Layers:
    """Reads layers from a file of `write_layers`.

    Args:
        file: The file.
        network: The network that answers clicks.
        weights: Identity of the weights that the network belongs to.
        max_pixels: Largest number of pixels of a photo.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another version, or belongs to other weights.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            most = _MOST_PER_PIXEL * max_pixels + _MOST_BESIDES
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise ValueError("it is larger than a photo that may be read")
        with np.load(path, allow_pickle=False) as content:
            arrays, header = _checked(content, max_pixels)
        if header["weights"] != weights:
            raise ValueError("it was made with other weights: choose them, or segment again")
        seconds = {str(stage): float(s) for stage, s in header["seconds"].items()}
        metadata = _metadata(header["metadata"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ValueError(f"{path} cannot be opened: {error}. Segment the photo again") from error
    profile = arrays["profile"].tobytes() if "profile" in arrays else None
    photo = Photo(arrays["pixels"], arrays.get("opacity"), profile, metadata)
    alphas = arrays["alphas"].astype(np.float32)
    alphas /= alphas.sum(0).clip(min=1)  # rounded, they may be one level off
    selector = Selector(photo, arrays["small"], arrays["clickable"], arrays["means"], network)
    features = arrays["features"].astype(np.float64)
    return Layers(photo, alphas, features, arrays["superpixels"], selector, seconds)


def _checked(content: NpzFile, max_pixels: int) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Reads the arrays of a file, and compares their types and sizes."""
    names = set(content.files)
    if not set(_DTYPES) - _OPTIONAL <= names <= set(_DTYPES):
        raise ValueError("it is no file of layers")
    arrays = {name: content[name] for name in content.files}
    for name, array in arrays.items():
        if array.dtype not in _DTYPES[name]:
            raise ValueError(f"its {name} are of the wrong type")
    header = json.loads(arrays["header"].tobytes())
    if header["version"] != _VERSION:
        raise ValueError(f"it is of version {header['version']}, and this program reads {_VERSION}")
    pixels, small, means = arrays["pixels"], arrays["small"], arrays["means"]
    sizes = {
        "pixels": (*pixels.shape[:2], 3),
        "opacity": pixels.shape[:2],
        "alphas": (len(arrays["alphas"]), *pixels.shape[:2]),
        "small": (*small.shape[:2], 3),
        "features": (*small.shape[:2], 3),
        "superpixels": small.shape[:2],
        "clickable": small.shape[:2],
        "means": (int(arrays["clickable"].max(initial=0)) + 1, *means.shape[1:2]),
    }
    wrong = [name for name, size in sizes.items() if name in arrays and arrays[name].shape != size]
    if wrong or not math.prod(pixels.shape[:2]) <= max_pixels or not pixels.size or not small.size:
        raise ValueError(f"its arrays do not fit each other ({', '.join(wrong) or 'size'})")
    if not np.isfinite(means).all() or not np.isfinite(arrays["features"]).all():
        raise ValueError("its features are no numbers")
    if not arrays["alphas"].any(0).all():
        raise ValueError("its alphas leave pixels empty")
    return arrays, header


def _metadata(values: dict[str, Any]) -> Metadata:
    dpi = values["dpi"]
    texts = {key: values[key] for key in ("copyright", "artist")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise ValueError("its metadata are of the wrong type")
    return Metadata(None if dpi is None else (float(dpi[0]), float(dpi[1])), **texts)
