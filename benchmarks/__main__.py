"""Runs a benchmark: python -m benchmarks suite=NAME [suite.KEY=VALUE ...] [output=FOLDER]."""

import json
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.tables import show
from softfeat.commands.cli import readable_errors
from softfeat.training.machine import machine


@hydra.main(config_path="conf", config_name="benchmark", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Measures, prints tables, and writes `<name of the result, or of the suite>.json`."""
    result = instantiate(cfg.suite) | {"machine": machine()}
    show(result)
    name = result.pop("name", HydraConfig.get().runtime.choices["suite"])
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
