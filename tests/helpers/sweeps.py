"""Sweeps and their jobs as trainings leave them."""

import json
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
    """Writes the directory of a job, which is unfinished without `auc` and `error`."""
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
