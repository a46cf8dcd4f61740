from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from softfeat.training.callbacks import worst as worst_module
from softfeat.training.callbacks.worst import WorstPhotos

MIOUS = [0.9, 0.2, float("nan"), 0.5, 0.1, 0.7, 0.2]


class Photos:
    """Seven photos; each is as bright as its number."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.full((3, 20, 30), index / 10),
            "label": torch.zeros(20, 30, dtype=torch.long),
            "path": f"photo_{index}.jpg",
        }


def test_the_lowest_scores_are_drawn_worst_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def sheet(columns: Any, classes: Any, rows: list[str]) -> np.ndarray:
        drawn.update(columns=columns, rows=rows)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(worst_module, "sheet", sheet)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(datasets={"test": Photos()}))
    module: Any = SimpleNamespace(
        device="cpu",
        class_names=["a", "b"],
        predict=lambda image: torch.zeros(len(image), 20, 30, dtype=torch.long),
    )
    callback = WorstPhotos(tmp_path / "new" / "worst.png", count=3)
    for _ in range(2):  # a second test starts anew
        callback.on_test_start(trainer, module)
        for start in range(0, 7, 3):
            outputs = {"miou": torch.tensor(MIOUS[start : start + 3])}
            callback.on_test_batch_end(trainer, module, outputs, None, start // 3)
        assert len(callback._worst) == 3  # no more is kept
        callback.on_test_end(trainer, module)
        assert Image.open(tmp_path / "new" / "worst.png").size == (4, 4)
        assert drawn["rows"][0] == "photo_4.jpg: mIoU 0.10"
        assert {name.partition(":")[0] for name in drawn["rows"][1:]} == {
            "photo_1.jpg", "photo_6.jpg",
        }  # fmt: skip
        assert drawn["columns"]["photo"][0, 0, 0, 0] == pytest.approx(0.4)
