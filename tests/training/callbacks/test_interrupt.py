"""Interrupted trainings: what a resumed one gives, and what is left behind."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from softfeat.commands.train import train
from softfeat.interrupt import Interrupted, interruptible
from softfeat.training.run_config import resumed_config, save_config
from tests.helpers.trainings import tiny_run


class Signal(pl.Callback):
    """Sends a signal to this process in a hook at a step.

    Args:
        hook: Name of the hook.
        step: Number of finished steps at that time.
        signum: Number of the signal.
    """

    def __init__(self, hook: str, step: int, signum: int = signal.SIGINT) -> None:
        def send(trainer: pl.Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == step:
                os.kill(os.getpid(), signum)

        setattr(self, hook, send)


def configured(root: Path, run: Path, *more: str) -> DictConfig:
    options = ("data.augmentation.scale=[0.7,1.5]", "callbacks.pictures=null")
    return tiny_run(root, run, *options, *more)


def interrupted(cfg: DictConfig, hook: str, step: int, signum: int = signal.SIGINT) -> Interrupted:
    """Trains and sends a signal; the exception that ended the training."""
    sender = {"_target_": f"{__name__}.Signal", "hook": hook, "step": step, "signum": int(signum)}
    cfg.callbacks.sender = sender
    with interruptible(), pytest.raises(Interrupted) as stopped:
        train(cfg)
    del cfg.callbacks.sender  # of the resumed run, which believes only known names
    if Path(cfg.run_dir).exists():
        save_config(cfg, Path(cfg.run_dir) / "config.yaml")
    return stopped.value


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, without measured times."""
    with (run / "metrics.csv").open() as file:
        table = [{k: v for k, v in r.items() if "system/" not in k} for r in csv.DictReader(file)]
    return [row for row in table if any(v for k, v in row.items() if k not in ("step", "epoch"))]


def assert_equal(run: Path, whole: Path) -> None:
    first, second = state(whole), state(run)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(first[key], second[key]), key
    if "current_model_state" in first:
        assert same(first["current_model_state"], second["current_model_state"])
    assert rows(run) == rows(whole)
    assert progress(first) == progress(second)


def progress(checkpoint: dict[str, Any]) -> Any:
    """What is left of the epoch and how the best score stands."""
    keepers = {k: v for k, v in checkpoint["callbacks"].items() if "ModelCheckpoint" in k}
    scores = sorted(str(keeper["best_model_score"]) for keeper in keepers.values())
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"], scores


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data, and the run directory of a training that nothing interrupts."""
    from tests.helpers.datasets import make_folder

    folder = tmp_path_factory.mktemp("whole")
    root = make_folder(folder / "folder")
    train(configured(root, folder / "run"))
    return root, folder / "run"


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 0, 1),  # in the first step
        ("on_train_batch_end", 2, 2),
        ("on_train_batch_start", 2, 3),  # in the last step of an epoch
        ("on_validation_batch_end", 3, 3),  # in the first validation
        ("on_train_epoch_start", 3, 4),
        ("on_train_batch_start", 4, 5),
        ("on_validation_start", 6, 6),  # in the last validation
        ("on_test_batch_start", 6, 6),
    ],
)
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    whole: tuple[Path, Path], tmp_path: Path, hook: str, step: int, saved: int
) -> None:
    root, expected = whole
    run = tmp_path / "run"
    stopped = interrupted(configured(root, run), hook, step)
    assert stopped.status == 130
    assert str(run) in str(stopped) or hook.startswith("on_test")
    assert state(run)["global_step"] == saved
    cfg = resumed_config(run, [])
    metrics = train(cfg, resume=True)
    assert metrics["steps"] == 6
    assert_equal(run, expected)


def test_a_validation_within_an_epoch_is_not_run_twice(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = whole
    options = ("+trainer.val_check_interval=2", "data.steps_per_epoch=4")
    train(configured(root, tmp_path / "whole", *options))
    for name, hook, step in (
        ("a", "on_validation_batch_end", 2),
        ("b", "on_train_batch_end", 3),
        ("c", "on_train_batch_start", 1),
    ):
        interrupted(configured(root, tmp_path / name, *options), hook, step)
        cfg = resumed_config(tmp_path / name, [])
        train(cfg, resume=True)
        assert_equal(tmp_path / name, tmp_path / "whole")


def test_averaged_weights_survive_a_signal_in_a_validation(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = whole
    options = ("callbacks/average=ema", "callbacks.average.decay=0.5")
    train(configured(root, tmp_path / "whole", *options))
    run = tmp_path / "run"
    interrupted(configured(root, run, *options), "on_validation_batch_end", 3)
    cfg = resumed_config(run, [])
    train(cfg, resume=True)
    assert_equal(run, tmp_path / "whole")


def test_a_signal_before_the_first_step_leaves_nothing(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = whole
    run = tmp_path / "run"
    stopped = interrupted(configured(root, run), "setup", 0, signal.SIGTERM)
    assert stopped.status == 143
    assert not run.exists()
