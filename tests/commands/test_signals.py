"""Ctrl-C and SIGTERM, sent to commands that run as processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import call_command
from tests.helpers.paths import ROOT
from tests.helpers.trainings import TINY


def start(module: str, *arguments: str) -> "subprocess.Popen[str]":
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "400"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]", ready: Callable[[], bool], signum: int) -> str:
    """Sends a signal to the group when the command is ready; what it wrote to standard error."""
    deadline = time.monotonic() + 600
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signum)
    _, error = process.communicate(timeout=600)
    assert "Traceback" not in error, error
    return error


def options(root: Path, tmp_path: Path) -> list[str]:
    return [
        "experiment=softfeat_camvid",
        f"data.root={root}",
        f"data.cache_dir={tmp_path / 'cache'}",
        *TINY,
        "data.num_workers=2",
        "callbacks.pictures=null",
        "data.steps_per_epoch=100000",
        f"run_dir={tmp_path / 'run'}",
    ]


@pytest.mark.parametrize(
    ("processes", "signum", "status"),
    [
        (1, signal.SIGINT, 130),
        (1, signal.SIGTERM, 143),
        pytest.param(2, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_training_saves_its_step_and_says_how_to_go_on(
    processes: int, signum: int, status: int, folder_root: Path, tmp_path: Path
) -> None:
    """The signal goes to all processes, as from a terminal: also to the workers of the loader."""
    arguments = options(folder_root, tmp_path)
    if processes > 1:
        arguments += ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}"]
        arguments += ["data.batch_size=1"]
    arguments += [
        "++callbacks.pace._target_=tests.helpers.pace.Pace",
        f"++callbacks.pace.file={tmp_path / 'run' / 'pace'}",
    ]
    process = start("softfeat.commands.train", *arguments)
    error = end(process, (tmp_path / "run" / "pace").is_file, signum)
    assert process.returncode == status, error
    run = tmp_path / "run"
    assert f"continue with python -m src.train resume={run}" in error
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 2
    assert not (run / "running.lock").exists()


def test_a_second_signal_ends_a_training_in_the_middle_of_a_step(
    folder_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [
        *options(folder_root, tmp_path),
        "+trainer.val_check_interval=1",  # with a checkpoint before the validation
        "data.steps_per_epoch=2",
        "++callbacks.pace._target_=tests.helpers.pace.Pace",
        f"++callbacks.pace.file={run / 'pace'}",
        "++callbacks.pace.seconds=3",
    ]
    process = start("softfeat.commands.train", *arguments)
    assert process.stderr is not None
    deadline = time.monotonic() + 600
    while not (run / "pace").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    line = ""
    while "the same signal again stops at once" not in line:
        line = process.stderr.readline()
        assert line, "the training has ended"
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "continue with" not in error  # the step was not finished
    # The checkpoint is that of the last validation, and whole.
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert not (run / "metrics.json").exists()


def test_precompute_ends_quietly_and_keeps_what_it_has(folder_root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = ["data=scenes", "data.layout.counts={train:4000,val:1,test:1}"]
    process = start("softfeat.commands.precompute", *arguments, f"data.cache_dir={cache}")
    error = end(process, lambda: any(cache.glob("*/images/train/*.jpg")), signal.SIGINT)
    assert process.returncode == 130, error
    assert "interrupted" in error.splitlines()
    assert "Traceback" not in error


def test_a_training_that_is_stopped_at_its_start_leaves_nothing(
    folder_root: Path, tmp_path: Path
) -> None:
    process = start("softfeat.commands.train", *options(folder_root, tmp_path))
    ready = (tmp_path / "run" / "config.yaml").is_file
    error = end(process, ready, signal.SIGTERM)
    if "continue" not in error:  # a fast machine may have finished a step
        assert process.returncode == 143, error
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["resume=nowhere", "data.batch_size=0"])
def test_an_error_at_the_start_leaves_no_folder(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call_command("train", argument)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert list(tmp_path.iterdir()) == []
