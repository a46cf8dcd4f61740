"""Commands of the project, run as processes or called in this one."""

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

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


def call_command(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Calls `softfeat.commands.NAME` with a command line, without the seconds of a new process.

    Args:
        name: The command, such as `train`.
        arguments: The command line.

    Returns:
        What the same process would return.
    """
    main = importlib.import_module(f"softfeat.commands.{name}").main
    out, error, code = StringIO(), StringIO(), 0
    GlobalHydra.instance().clear()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        mock.patch.dict(os.environ, COLUMNS="400"),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), error.getvalue())


def no_account(home: Path) -> dict[str, str]:
    """An environment without credentials for W&B and without WANDB_MODE."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    return kept | {"HOME": str(home), "COLUMNS": "400"}
