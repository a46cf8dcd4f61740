"""Loggers: a CSV file that a resumed run continues, and W&B without prompts."""

import csv
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast, get_args

import wandb
from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from softfeat.atomic import replaced
from softfeat.checks import one_of

# For these the summary of a W&B run shows the best value, {"max": ...}, not the last.
_BEST = ("val/pair_auc", "val/miou")

P = ParamSpec("P")
R = TypeVar("R")
Mode = Literal["auto", "online", "offline", "disabled"]


class _Writer(_ExperimentWriter):
    """Continues an existing file, which Lightning's writer would delete."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="") as file:
            _write_rows(Path(self.metrics_file_path), fieldnames, list(csv.DictReader(file)))

    def log_hparams(self, params: dict[str, Any]) -> None:
        """The configuration is in config.yaml."""


class RunCSVLogger(CSVLogger):
    """Writes `RUN_DIR/metrics.csv`, one row per logged step.

    Args:
        save_dir: The run directory.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")
        self._experiment = _Writer(log_dir=self.log_dir)  # type: ignore[assignment]

    def resume_at(self, step: int, validates: bool = False) -> None:
        """Removes the rows that the resumed run writes again.

        Args:
            step: Number of the next step. Rows from this step on are removed.
            validates: Whether the run starts with the validation after the step before. Its rows
                are then removed, too.
        """
        path = Path(self.log_dir) / "metrics.csv"
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names, rows = list(reader.fieldnames or []), list(reader)
        validated = [name for name in names if name.startswith("val/")]
        _write_rows(
            path,
            names,
            [
                row
                for row in rows
                if int(row["step"]) < step
                and not (
                    validates
                    and int(row["step"]) == step - 1
                    and any(row[name] for name in validated)
                )
            ],
        )


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replaced(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)


def log_settings(loggers: Iterable[Logger], settings: dict[str, Any]) -> None:
    """Logs the settings of a run, and the metrics whose best value W&B shows.

    Args:
        loggers: Loggers of the trainer.
        settings: Nested settings: the configuration and the machine.
    """
    for logger in loggers:
        logger.log_hyperparams(settings)
        if isinstance(logger, WandbLogger):
            for name in _BEST:
                logger.experiment.define_metric(
                    name, step_metric="trainer/global_step", summary="max"
                )


def has_credentials() -> bool:
    """Checks whether W&B has credentials, without asking for them."""
    return wandb.login(prompt=False, verify=False)


def finish_wandb(exit_code: int = 0) -> None:
    """Ends the W&B run of this process, so that the next training starts its own."""
    if wandb.run is not None:
        wandb.finish(exit_code)


def finishes_wandb(function: Callable[P, R]) -> Callable[P, R]:
    """Ends the W&B run of this process with the function; as failed if it raises."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
        except BaseException:
            finish_wandb(exit_code=1)
            raise
        finish_wandb()
        return result

    return wrapped


def make_wandb_logger(
    save_dir: str,
    project: str,
    id: str,
    mode: Mode = "auto",
    **options: Any,
) -> WandbLogger:
    """Makes a W&B logger that never prompts.

    Args:
        save_dir: The run directory.
        project: Name of the W&B project.
        id: Identifier of the run; a resumed run keeps it.
        mode: "online", "offline" or "disabled". "auto" takes WANDB_MODE if it is set, otherwise
            online if there are credentials and offline if not.
        options: Options of `wandb.init` (group, name, tags, ...).

    Raises:
        ValueError: "online" without credentials.
    """
    one_of("logger.mode", mode, get_args(Mode))
    if mode == "auto":
        wanted = os.environ.get("WANDB_MODE")
        mode = cast(Mode, wanted or ("online" if has_credentials() else "offline"))
    if mode == "online" and not has_credentials():
        raise ValueError(
            "logger.mode=online needs credentials: run wandb login, set WANDB_API_KEY, or choose "
            "logger.mode=offline"
        )
    return WandbLogger(
        save_dir=save_dir, project=project, id=id, resume="allow", mode=mode, **options
    )
