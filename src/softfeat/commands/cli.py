"""What the entry points share: Hydra resolvers, and errors written for the user."""

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

P = ParamSpec("P")
R = TypeVar("R")


def quiet() -> None:
    """Silences messages of Lightning that do not concern a user of the commands."""
    # Advertisements.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # a deprecation within Lightning's own code
        # Scores come from metrics that already add up over all processes.
        ".*when logging on epoch level in distributed setting.*",
        # A frozen extractor is meant to be in eval mode.
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def register_resolvers() -> None:
    """Registers what the configuration files compute.

    `${first_set:a,b}` is the first value that is not null; `${folder_name:path}` the last part of a
    path.
    """
    OmegaConf.register_new_resolver(
        "first_set", lambda *values: next((v for v in values if v), None), replace=True
    )
    OmegaConf.register_new_resolver(
        "folder_name", lambda path: Path(path or "").name or "softfeat", replace=True
    )


def refuse_empty_values(cfg: DictConfig) -> None:
    """Checks that no value is an empty text, which is what an unset variable of a shell leaves.

    Args:
        cfg: Configuration of a command.

    Raises:
        ValueError: A value is empty; the message names its key.
    """

    def empty(node: Any, key: str) -> Iterator[str]:
        if isinstance(node, dict | list):
            for name, value in node.items() if isinstance(node, dict) else enumerate(node):
                yield from empty(value, f"{key}.{name}" if key else str(name))
        elif isinstance(node, str) and not node.strip():
            yield key

    for key in empty(OmegaConf.to_container(cfg), ""):
        raise ValueError(
            f"{key}= is empty (is a variable of your shell unset?): give {key}=VALUE, "
            f"{key}=null for none, or leave it out"
        )


def in_multirun() -> bool:
    """Checks whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError, InstantiationException)


def readable_errors(main: Callable[P, R]) -> Callable[P, R | None]:
    """Shows errors in the user's files and settings without a traceback; exit status 1.

    With `HYDRA_FULL_ERROR=1` in the environment the traceback is shown. In a job of a multirun
    every error is written to `error.txt` in the job's directory, and the next job can start.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return main(*args, **kwargs)
        except Exception as error:
            users_error = isinstance(error, _USER_ERRORS)
            if not in_multirun() and (not users_error or os.environ.get("HYDRA_FULL_ERROR")):
                raise
            cause = error.__cause__ if isinstance(error, InstantiationException) else None
            message = str(cause or error) if users_error else f"{type(error).__name__}: {error}"
            print(f"error: {message}", file=sys.stderr)
            if not in_multirun():
                sys.exit(1)
            reason = message.strip().partition("\n")[0] or type(error).__name__
            file = Path(HydraConfig.get().runtime.output_dir) / "error.txt"
            file.write_text(f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8")
            return None

    return wrapped
