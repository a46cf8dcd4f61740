"""Small data sets, photos and weights, so that a command of the product takes a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from softfeat.models.click_network import ClickNetwork
from softfeat.models.extractor import BottleneckExtractor

CLASSES = 3


def photo(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draws a smooth photo with a disc in it.

    Returns:
        (H,W,3) uint8.
    """
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:height, :width]
    centre = rng.uniform(0.3, 0.7, 2) * (height, width)
    inside = np.hypot(rows - centre[0], columns - centre[1]) < min(height, width) / 4
    pixels[inside] = rng.integers(0, 256, 3)
    return pixels


def label(rng: np.random.Generator, height: int, width: int, classes: int) -> NDArray[np.uint8]:
    """Draws a label map of rectangles, some of them ignored.

    Returns:
        (H,W) uint8 of 0 to `classes` - 1, and 255.
    """
    coarse = rng.choice([*range(classes), 255], (3, 4)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(picture)


def write_photos(folder: Path, count: int, seed: int, size: tuple[int, int] = (40, 48)) -> Path:
    """Writes PNG photos and returns the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(photo(rng, *size)).save(folder / f"{number}.png")
    return folder


def write_set(
    root: Path, seed: int, counts: tuple[int, int] = (6, 3), size: tuple[int, int] = (40, 48)
) -> Path:
    """Writes a data set in the layout `folder` and returns its folder.

    Args:
        root: Folder of the set.
        seed: Random seed.
        counts: Photos for train and val.
        size: (H, W) of the photos.
    """
    rng = np.random.default_rng(seed)
    for split, count in zip(("train", "val"), counts, strict=True):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}_{number}.png"
            Image.fromarray(photo(rng, *size)).save(root / "images" / split / name)
            Image.fromarray(label(rng, *size, CLASSES)).save(root / "labels" / split / name)
    (root / "classes.txt").write_text("".join(f"class {n}\n" for n in range(CLASSES)))
    return root


def write_checkpoint(
    path: Path, seed: int, fill: float | None = None, clicks: bool = False
) -> Path:
    """Writes the checkpoint of a tiny network without training, and returns its file.

    Args:
        path: File `<name>.ckpt`.
        seed: Random seed of the weights.
        fill: Value in place of the first weight, such as NaN.
        clicks: Whether there is also a network that answers clicks.
    """
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8, readout_scale=1.0)
    network = ClickNetwork(dim=8, channels=8, layers=2)
    torch.random.set_rng_state(generator)
    state = {f"extractor.{name}": value for name, value in extractor.state_dict().items()}
    if fill is not None:
        first = next(name for name in state if name.endswith("weight"))
        state[first] = state[first].clone()
        state[first].view(-1)[0] = fill
    content: dict[str, Any] = {"extractor": extractor.hparams, "state_dict": state}
    if clicks:
        content["clicks"] = network.hparams
        state |= {f"clicks.{name}": value for name, value in network.state_dict().items()}
    torch.save(content, path)
    return path
