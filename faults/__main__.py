"""Tries faults: python -m faults part=NAME [count=N] [minutes=N] [seed=N] [output=FOLDER]."""

import json
import os
import sys
from pathlib import Path

# Forks of a process with several threads of a maths library hang, or Numba ends them.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ |= {"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "forksafe"}

import hydra
import pymatting  # noqa: F401, which takes longer to import than a command to run
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.tables import show
from faults.runner import run_part
from softfeat.atomic import replaced
from softfeat.commands.cli import readable_errors
from softfeat.revision import revision
from softfeat.training.machine import machine


@hydra.main(config_path="conf", config_name="faults", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Tries the cases of a part, prints tables, and writes `faults_<part>.json`."""
    torch.set_num_threads(1)
    name = HydraConfig.get().runtime.choices["part"]
    part = instantiate(cfg.part)
    # The commands that are tried start Hydra themselves, in forks of this process.
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    result = run_part(
        part,
        name,
        seed=cfg.seed,
        count=cfg.count,
        minutes=cfg.minutes,
        again=cfg.again,
        output=Path(cfg.work).absolute(),
        revision=revision(),
    ) | {"machine": machine()}
    if not result["rows"]:
        raise ValueError(f"no case of {name} is done: give more minutes")
    show(result)
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"faults_{name}.json"
    with replaced(file) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {file}")
    if result["failed"]:
        print(f"{result['failed']} cases failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
