"""Runs a benchmark: python -m benchmarks suite=NAME [output=FOLDER]."""

import json
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from softfeat.commands.cli import readable_errors
from softfeat.training.machine import machine


def show(result: dict[str, Any]) -> None:
    """Prints the result."""
    tables = []
    for title, rows in {result["title"]: result["rows"], **result.get("tables", {})}.items():
        tables.append(Table(*rows[0], title=title))
        for row in rows:
            tables[-1].add_row(*map(str, row.values()))
    ratios = Table("ratio", "median", "min", "max")
    for name, ratio in result["ratios"].items():
        ratios.add_row(name, *(f"{value:.1f}" for value in ratio.values()))
    Console().print(*tables, *([ratios] if result["ratios"] else []))


@hydra.main(config_path="conf", config_name="benchmark", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Measures, prints, and writes `<name>.json`, named as the result or suite."""
    result = instantiate(cfg.suite) | {"machine": machine()}
    show(result)
    name = result.pop("name", HydraConfig.get().runtime.choices["suite"])
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
