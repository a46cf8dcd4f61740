"""Small photos, and a checkpoint of a tiny network that was not trained."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from softfeat.models.click_network import ClickNetwork
from softfeat.models.extractor import BottleneckExtractor


def drawn_photo(side: int = 32, seed: int = 0) -> np.ndarray:
    """Draws a disc before a smooth background, with some noise.

    Returns:
        (side,side,3) float64, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    inside = (x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.1
    smooth = np.stack([0.2 + 0.4 * x, 0.5 - 0.3 * y, 0.3 + 0.1 * x * y], -1)
    return (np.where(inside[..., None], [0.9, 0.6, 0.2], smooth)
            + 0.02 * rng.standard_normal((side, side, 3))).clip(0, 1)  # fmt: skip


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_checkpoint(path: Path, clicks: bool = False, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8, readout_scale=1.0)
    content = {"extractor": extractor.hparams}
    state = {f"extractor.{name}": value for name, value in extractor.state_dict().items()}
    if clicks:
        network = ClickNetwork(dim=8, channels=8, layers=1)
        content["clicks"] = network.hparams
        state |= {f"clicks.{name}": value for name, value in network.state_dict().items()}
    torch.save(content | {"state_dict": state}, path)
    return path
