"""What the entry points share: Hydra resolvers, errors for people, tables."""

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

P = ParamSpec("P")
R = TypeVar("R")


# Lightning's advertisements and a deprecation within its own code.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
# Scores come from metrics that have added up over all processes.
warnings.filterwarnings("ignore", message=".*when logging on epoch level in distributed setting.*")
# A frozen extractor is meant to be in eval mode.
warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")


def register_resolvers() -> None:
    """`${first_set:a,b}`: the first that is not null; `${product:a,b}`: a * b."""
    OmegaConf.register_new_resolver(
        "first_set", lambda *values: next((v for v in values if v), None), replace=True
    )
    OmegaConf.register_new_resolver("product", lambda a, b: a * b, replace=True)


def in_multirun() -> bool:
    """Whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


_OF_THE_USER = (ValueError, OSError, FloatingPointError, ImportError, InstantiationException)


def readable_errors(main: Callable[P, R]) -> Callable[P, R | None]:
    """Shows errors of the user's files and settings without a traceback; exit status 1.

    With `HYDRA_FULL_ERROR=1` in the environment they come with it. In a job of a multirun every
    error goes to `error.txt` in the job's directory instead, so that the next job can start.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return main(*args, **kwargs)
        except Exception as error:
            of_the_user = isinstance(error, _OF_THE_USER)
            if not in_multirun() and (not of_the_user or os.environ.get("HYDRA_FULL_ERROR")):
                raise
            cause = error.__cause__ if isinstance(error, InstantiationException) else None
            message = str(cause or error) if of_the_user else f"{type(error).__name__}: {error}"
            print(f"error: {message}", file=sys.stderr)
            if not in_multirun():
                sys.exit(1)
            reason = message.strip().partition("\n")[0] or type(error).__name__
            file = Path(HydraConfig.get().runtime.output_dir) / "error.txt"
            file.write_text(f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8")
            return None

    return wrapped


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Prints names and values."""
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of equal keys as a table in Markdown.

    >>> print(markdown_table([{"way": "a|b", "s": 1}]))
    | way | s |
    | --- | --- |
    | a/b | 1 |
    """
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    cells = ([str(value).replace("|", "/") for value in row.values()] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])
