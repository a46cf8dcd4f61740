from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.data.datamodule import SegmentationData
from src.data.dataset import Augmentation
from src.data.layouts import Folder
from src.data.slic import Superpixels
from src.models.extractor import Extractor


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A small untrained extractor."""
    torch.manual_seed(0)
    extractor = Extractor(widths=(8, 16), blocks=(1, 1), dim=8)
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")


@pytest.fixture
def tiny_data(folder_root: Path, tmp_path: Path) -> Callable[..., SegmentationData]:
    """Makes data of few small photos, with options."""

    def make(**options: Any) -> SegmentationData:
        defaults: dict[str, Any] = {
            "image_size": (32, 40),
            "batch_size": 2,
            "superpixels": Superpixels(count=20),
            "augmentation": Augmentation(scale=(0.8, 1.5)),
            "steps_per_epoch": 2,
            "num_workers": 0,
        }
        return SegmentationData(Folder, folder_root, tmp_path / "cache", **defaults | options)

    return make
