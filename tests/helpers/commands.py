"""Commands of the project, run as processes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.paths import ROOT


def run_module(
    module: str,
    *arguments: str,
    cwd: Path = ROOT,
    env: Mapping[str, str] = os.environ,
    timeout: float = 1200,
) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m module` with the modules of the checkout, and without input.

    Args:
        module: A module below the root of the checkout, such as `src.train`.
        arguments: The command line.
        cwd: The folder the command runs in.
        env: Environment of the process, which `PYTHONPATH` and `COLUMNS` are added to.
        timeout: Seconds after which `subprocess.TimeoutExpired` is raised.
    """
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**env, "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def no_account(home: Path) -> dict[str, str]:
    """An environment without credentials for W&B and without WANDB_MODE."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    return kept | {"HOME": str(home), "COLUMNS": "400"}
