"""Checks a data set and computes its stores: python -m src.precompute data=NAME ..."""

import sys
import time

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softfeat.commands.cli import command
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import DataError


def precompute(data: SegmentationData) -> list[str]:
    """Checks all files and computes the stores of all splits.

    Returns:
        The problems of the data set, one line per bad file; empty if there are none.

    Raises:
        DataError: The cache cannot be written or is too small.
    """
    table = Table("split", "photos", "seconds", "photos/s", "store", title="stored")
    try:
        data.check()
        started = time.perf_counter()
        for split, store in data.prepare_stores():
            seconds = time.perf_counter() - started
            rate = f"{len(store) / seconds:.0f}"
            table.add_row(split, str(len(store)), f"{seconds:.1f}", rate, Text(str(store.path)))
            started = time.perf_counter()
    except DataError as error:
        if not error.problems:  # the cache
            raise
        return error.problems
    Console().print(table)
    return []


@command("precompute", text=("data.root", "data.cache_dir"))
def main(cfg: DictConfig) -> None:
    """Lists every bad file of the set; exit status 1 if there is any."""
    problems = precompute(instantiate(cfg.data))
    for problem in problems:
        print(f"  - {problem}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems; correct or remove the files", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
