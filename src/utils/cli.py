"""What the entry points share: Hydra resolvers, errors for people, tables."""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from src.data.layouts import DataError

P = ParamSpec("P")
R = TypeVar("R")


def register_resolvers() -> None:
    """`${first_set:a,b}`: the first that is not null; `${product:a,b}`: a * b."""
    OmegaConf.register_new_resolver(
        "first_set", lambda *values: next((v for v in values if v), None), replace=True
    )
    OmegaConf.register_new_resolver("product", lambda a, b: a * b, replace=True)


def readable_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Shows errors of the user's files and settings without a traceback; exit status 1."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (DataError, FileNotFoundError, FloatingPointError, ImportError) as error:
            Console(stderr=True).print(f"[bold red]error[/]: {error}", highlight=False)
            sys.exit(1)

    return wrapped


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Prints names and values."""
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
