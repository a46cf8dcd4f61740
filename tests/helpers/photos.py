"""Small photos, and a checkpoint of a tiny network that was not trained."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from softfeat.models.extractor import BottleneckExtractor


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_checkpoint(path: Path) -> Path:
    torch.manual_seed(0)
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8, readout_scale=1.0)
    state = {f"extractor.{name}": value for name, value in extractor.state_dict().items()}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, path)
    return path
