"""Checks a data set and computes its stores: python -m src.precompute data=NAME ..."""

import sys
import time

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from softfeat.commands.cli import readable_errors, refuse_empty_values
from softfeat.data.datamodule import SPLITS, SegmentationData
from softfeat.data.layouts import DataError


def precompute(data: SegmentationData) -> list[str]:
    """Computes the stores of all splits.

    Returns:
        The problems of the data set, one line per bad file; empty if there are none.

    Raises:
        DataError: The cache cannot be written or is too small.
    """
    table = Table("split", "photos", "seconds", "photos/s", "store", title="stored")
    problems: list[str] = []
    data.layout.prepare()
    for split in SPLITS:
        started = time.perf_counter()
        try:
            store = data.store(split)
            store.prepare(data.num_workers, f"{store.kind} ({split})")
        except DataError as error:
            if not error.problems:  # the data set as a whole, or the cache
                raise
            problems += error.problems
            continue
        seconds = time.perf_counter() - started
        rate = f"{len(store) / seconds:.0f}"
        table.add_row(split, str(len(store)), f"{seconds:.1f}", rate, str(store.path))
    Console().print(table)
    return list(dict.fromkeys(problems))  # the test split may be the validation split


@hydra.main(config_path="pkg://softfeat.conf", config_name="precompute", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Lists every bad file of the set; exit status 1 if there is any."""
    refuse_empty_values(cfg)
    problems = precompute(instantiate(cfg.data))
    for problem in problems:
        print(f"  - {problem}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} bad files; correct or remove them", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
