from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from softfeat.data.datamodule import SegmentationData
from softfeat.models.extractor import BottleneckExtractor
from softfeat.ops.guided_filter import guided_filter
from softfeat.training.callbacks.guided_filter import GuidedFilter
from softfeat.training.callbacks.pictures import FeaturePictures
from softfeat.training.soft_features import SoftFeatureModule


class Watcher(pl.LightningModule):
    """Keeps what its extractor gives in each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.extractor = BottleneckExtractor(widths=[4, 4], blocks=[1, 1], dim=4)
        self.seen: dict[str, Any] = {}
        self.at_training: list[torch.Tensor] = []

    def _look(self, stage: str, image: torch.Tensor) -> None:
        self.seen[stage] = (self.extractor(image), self.extractor.forward(image), image)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self._look("train", batch)
        return self.extractor(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self._look("val", batch)

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self._look("test", batch)

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self._look("predict", batch)
        return self.extractor(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_the_map_is_filtered_in_validation_test_and_predict_only() -> None:
    model, callback = Watcher(), GuidedFilter(kernel_size=5, eps=0.1, chunk=3)
    loader = DataLoader(torch.rand(2, 3, 16, 16), batch_size=2)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader, loader)
    trainer.test(model, loader, verbose=False)
    (predicted,) = trainer.predict(model, loader)  # type: ignore[misc]
    given, plain, _ = model.seen["train"]
    assert torch.equal(given, plain)
    for stage in ("val", "test", "predict"):
        given, plain, image = model.seen[stage]
        assert torch.equal(given, guided_filter(plain, image, kernel_size=5, eps=0.1, chunk=3))
        assert not torch.equal(given, plain)
    assert torch.equal(predicted, model.seen["predict"][0])
    assert not model.extractor._forward_hooks


def test_the_filter_of_the_run_filters_the_pictures_of_validation_and_test(
    tiny_data: Callable[..., SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def recorded(features: torch.Tensor, filtered: torch.Tensor, _: torch.Tensor) -> dict[str, Any]:
        drawn.append((features, filtered))
        return {}

    monkeypatch.setattr("softfeat.training.callbacks.pictures.feature_columns", recorded)
    extractor = BottleneckExtractor(widths=[4, 4], blocks=[1, 1], dim=4)
    model, data = SoftFeatureModule(extractor, num_superpixels=20), tiny_data()
    run_filter = GuidedFilter(kernel_size=5, eps=0.1)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[FeaturePictures(tmp_path, count=1), run_filter],  # in either order
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["step_000002.png", "test.png"]
    for (features, filtered), split in zip(drawn, ("val", "test"), strict=True):
        image = data.datasets[split][0]["image"][None]
        assert torch.equal(filtered, run_filter(features, image))
        assert not torch.equal(filtered, features)
    (predicted,) = trainer.predict(model, data.test_dataloader())  # type: ignore[misc]
    image = next(iter(data.test_dataloader()))["image"]
    with torch.no_grad():
        assert_close(predicted, run_filter(model.eval()(image), image))
    assert not extractor._forward_hooks
