"""Directories such as sweeps and their jobs write."""

import json
import math
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

COMPOSED = {
    "hydra": {"overrides": {"task": ["data.count=1,2"]}},
    "optimized_metric": "val/auc",
    "run_dir": "outputs/${name}",
    "run_id": None,
    "data": {"count": 9, "size": [4, 4]},
    "model": {"count": "${data.count}", "loss": "${loss}"},
    "loss": {"negative": "symmetric"},
    "save": "${run_dir}/checkpoints",
}


def make_sweep(folder: Path, **overrides: Any) -> Path:
    folder.mkdir(parents=True)
    OmegaConf.save(COMPOSED | overrides, folder / "multirun.yaml")
    return folder


def make_job(
    folder: Path, count: int, loss: str = "symmetric", auc: float | None = None, error: str = ""
) -> None:
    """Writes what a training leaves. Without `auc` and `error` it is unfinished."""
    folder.mkdir()
    config = {
        "optimized_metric": "val/auc",
        "run_dir": str(folder),
        "run_id": folder.name,
        "data": {"count": count, "size": [4, 4]},
        "model": {"count": count, "loss": {"negative": loss}},
        "loss": {"negative": loss},
        "save": f"{folder}/checkpoints",
        "search": {"trials": count},
    }
    OmegaConf.save(config, folder / "config.yaml")
    if auc is not None:
        metrics = {"val/auc": auc, "test/auc": 0.5, "test/loss": 1.0, "seconds/fit": 120.0}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if error:
        (folder / "error.txt").write_text(f"{error}\n\nTraceback ...")


def make_study(folder: Path) -> Path:
    """A sweep of five jobs: three have a score (one is NaN), one failed, one is unfinished."""
    make_sweep(folder)
    make_job(folder / "0", count=100, auc=0.7)
    make_job(folder / "1", count=250, error="too | many")
    make_job(folder / "2", count=1000, auc=0.9)
    make_job(folder / "10", count=1000)
    make_job(folder / "11", count=1000, auc=math.nan)
    (folder / ".submitit").mkdir()
    return folder
