"""The clock is set by hand: a batch takes the loader and the step what the test says."""

from tempfile import mkdtemp
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softfeat.training.callbacks import throughput
from softfeat.training.callbacks.throughput import Throughput

STEP, PAUSE = 3.0, 1000.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Photos(Dataset[Any]):
    """Batches of two photos, each of which takes a while."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, list[str]]:
        self.clock.now += self.seconds
        return {"path": ["a.jpg", "b.jpg"]}


class Model(pl.LightningModule):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.clock.now += STEP
        return self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += PAUSE

    def on_train_epoch_end(self) -> None:  # as a checkpoint would
        self.clock.now += PAUSE

    def train_dataloader(self) -> Any:
        return DataLoader(Photos(self.clock, self.seconds), batch_size=None)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Recorder(pl.loggers.CSVLogger):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        super().__init__(mkdtemp())
        self.logged: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        assert step is not None
        self.logged[step] = metrics

    def save(self) -> None:
        pass


def fit(seconds: float, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Recorder:
    clock, recorder = Clock(), Recorder()
    monkeypatch.setattr(throughput, "perf_counter", clock)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=recorder,
        callbacks=[Throughput()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(Model(clock, seconds))
    return recorder


@pytest.mark.parametrize("seconds", [0.0, 1.0, 9.0])
@pytest.mark.parametrize("validation", [0, 1.0])
def test_the_wait_is_the_loaders(
    seconds: float, validation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"log_every_n_steps": 4, "max_epochs": 2, "limit_val_batches": validation}
    recorder = fit(seconds, monkeypatch, **options)
    assert list(recorder.logged) == [3, 7, 11, 15]
    for step, measured in recorder.logged.items():
        waits = 3 if step in (3, 11) else 4  # before the first step of an epoch none is counted
        total = 4 * STEP + waits * seconds
        assert measured["system/data_wait"] == pytest.approx(waits * seconds / total)
        assert measured["system/images_per_s"] == pytest.approx(8 / total)


def test_validation_amid_an_epoch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = fit(1.0, monkeypatch, log_every_n_steps=4, max_epochs=1, val_check_interval=2)
    # validation after steps 2, 4, 6 and 8: a measurement holds the two steps since
    assert list(recorder.logged) == [3, 7]
    for measured in recorder.logged.values():
        assert measured["system/images_per_s"] == pytest.approx(4 / (2 * STEP + 1.0))


def test_images_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "world_size", 3)
    recorder = fit(0.0, monkeypatch, log_every_n_steps=8, max_epochs=1)
    assert recorder.logged[7]["system/images_per_s"] == pytest.approx(3 * 2 / STEP)


def test_nothing_is_logged_where_logging_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fit(1.0, monkeypatch, log_every_n_steps=0, max_epochs=1).logged
