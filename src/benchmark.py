"""Runs a benchmark: python -m src.benchmark suite=NAME [output=FOLDER]."""

import json
import platform
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.utils.cli import readable_errors


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def markdown(result: dict[str, Any]) -> str:
    """The result as a Markdown section."""
    columns = list(result["rows"][0])
    lines = [f"### {result['title']}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in result["rows"]]
    lines += ["", "| ratio | median | min | max |", "| --- | --- | --- | --- |"]
    for name, ratio in result["ratios"].items():
        cells = [f"{ratio[k]:.1f}" if k in ratio else "" for k in ("median", "min", "max")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = {**result["settings"], **result["machine"]}
    lines += ["", "; ".join(f"{k}: {v}" for k, v in about.items()) + "."]
    return "\n".join(lines) + "\n"


def show(result: dict[str, Any]) -> None:
    """Prints the result."""
    rows = Table(*result["rows"][0], title=result["title"])
    for row in result["rows"]:
        rows.add_row(*map(str, row.values()))
    ratios = Table("ratio", "median", "min", "max")
    for name, ratio in result["ratios"].items():
        ratios.add_row(name, *(f"{value:.1f}" for value in ratio.values()))
    Console().print(rows, ratios)


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Measures, prints, and writes `<suite>.json` and `<suite>.md`."""
    result = instantiate(cfg.suite) | {"machine": machine()}
    show(result)
    name = HydraConfig.get().runtime.choices["suite"]
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (output / f"{name}.md").write_text(markdown(result), encoding="utf-8")


if __name__ == "__main__":
    main()
