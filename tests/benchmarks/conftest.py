from pathlib import Path

import pytest
import torch

from softfeat.models.extractor import BottleneckExtractor


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A small untrained extractor."""
    torch.manual_seed(0)
    extractor = BottleneckExtractor(widths=(8, 16), blocks=(1, 1), dim=8)
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")
