"""What the entry points share: Hydra resolvers, errors for people, tables."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

P = ParamSpec("P")
R = TypeVar("R")


# Lightning's advertisements and a deprecation within its own code.
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
# A frozen extractor is meant to be in eval mode.
warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")


def register_resolvers() -> None:
    """`${first_set:a,b}`: the first that is not null; `${product:a,b}`: a * b."""
    OmegaConf.register_new_resolver(
        "first_set", lambda *values: next((v for v in values if v), None), replace=True
    )
    OmegaConf.register_new_resolver("product", lambda a, b: a * b, replace=True)


def readable_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Shows errors of the user's files and settings without a traceback; exit status 1.

    With `HYDRA_FULL_ERROR=1` in the environment they come with it.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (
            ValueError,
            OSError,
            FloatingPointError,
            ImportError,
            InstantiationException,
        ) as error:
            if os.environ.get("HYDRA_FULL_ERROR"):
                raise
            cause = error.__cause__ if isinstance(error, InstantiationException) else None
            print(f"error: {cause or error}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Prints names and values."""
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
