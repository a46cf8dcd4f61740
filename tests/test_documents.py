"""The code in the documents runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

PAGE = Path(__file__).parents[1] / "docs" / "other_networks.md"


def test_features_of_another_network() -> None:
    namespace: dict[str, Any] = {"torch": torch, "F": F}
    functions, imports = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec(imports + functions, namespace)
    torch.manual_seed(0)
    backbone = nn.Conv2d(3, 12, 8, stride=8)
    rows = torch.arange(64)[:, None].expand(64, 64)
    batch = {
        "image": torch.rand(2, 3, 64, 64) / 10 + (rows >= 32) / 2,
        "label": (rows >= 32).long().expand(2, 64, 64),
        "superpixels": (rows // 8 * 8 + rows.T // 8).expand(2, 64, 64),
    }
    start = namespace["train_projection"](backbone, 12, [])
    trained = namespace["train_projection"](backbone, 12, [batch] * 20)
    assert trained.weight.shape == start.weight.shape == (128, 12, 1, 1)
    photo = batch["image"][0].permute(1, 2, 0).double().numpy()
    alphas = namespace["layers"](photo, backbone, trained)
    np.testing.assert_allclose(alphas.sum(0), 1, atol=1e-5)
    # No layer covers much of both halves.
    halves = alphas.reshape(len(alphas), 2, -1).mean(2)
    assert halves.min(1).max() < 0.1
