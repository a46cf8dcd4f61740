"""The Hydra callback of a multirun."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict, read_write

from softfeat.commands.cli import readable_errors, restore_environment
from softfeat.sweeps.jobs import Sweep
from softfeat.training.run_config import override


class SweepCallback(Callback):
    """Runs before and after the jobs of a multirun."""

    @readable_errors
    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Gives all jobs the directory of the sweep, and opens the study of a search."""
        restore_environment()  # jobs may run in other processes
        folder = Path(config.hydra.sweep.dir).absolute()
        if (folder / "multirun.yaml").exists():
            raise ValueError(f"{folder} holds a sweep: choose another run_dir")
        # A job composes its own configuration, with its own ${name} in the path.
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra.append(override("hydra.sweep.dir", folder))
        if config.search:
            instantiate(config.search).open()  # once, before parallel jobs need it

    @readable_errors
    def on_multirun_end(self, config: DictConfig, **_kwargs: Any) -> None:
        """Reports the results; exit status 1 if a job failed or did not finish."""
        sweep = Sweep(Path(config.hydra.sweep.dir))
        sweep.write()
        if any(job.status != "ok" for job in sweep.jobs):
            sys.exit(1)
