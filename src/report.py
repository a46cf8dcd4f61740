"""Puts results into the README: python -m src.report [runs=[RUN_DIR,...]].

Each run's metrics are copied to `docs/results/runs/<name>.json`, with its settings and the machine;
the tables between the markers in README.md are then written anew from the files there.
"""

import json
import re
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from src.benchmarks.measure import markdown
from src.utils.cli import readable_errors

_SETTINGS = {
    "experiment": "name",
    "steps": "model.total_steps",
    "batch": "data.batch_size",
    "image": "data.image_size",
    "superpixels": "data.superpixels.count",
    "negative": "loss.negative",
    "balance": "loss.balance",
    "optimizer": "model.optimizer._target_",
    "lr": "model.optimizer.lr",
    "readout_scale": "model.extractor.readout_scale",
    "seed": "seed",
}


def collect(run_dir: Path, results: Path) -> None:
    """Copies what a finished run measured.

    Raises:
        FileNotFoundError: the run has not finished.
    """
    if not (run_dir / "metrics.json").is_file():
        raise FileNotFoundError(f"{run_dir} has no metrics.json: let the run finish (resume=)")
    cfg = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    settings = {}
    for name, key in _SETTINGS.items():
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        settings[name] = value
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    machine = json.loads((run_dir / "machine.json").read_text(encoding="utf-8"))
    evaluated = run_dir / "val.json"  # of src.evaluate split=val
    if evaluated.is_file():
        metrics |= json.loads(evaluated.read_text(encoding="utf-8"))
    content = {"settings": settings, "metrics": metrics, "machine": machine}
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{settings['experiment']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def runs_table(results: Path, names: list[str], compare_losses: bool = False) -> str:
    """Pair AUC of runs on the splits they were scored on.

    Beside it stands what needs no training; where losses are compared, only what differs.
    """
    rows = []
    machines = set()
    for name in names:
        content = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        settings, metrics = content["settings"], content["metrics"]
        machines.add(", ".join(f"{k} {v}" for k, v in content["machine"].items()))
        for split in ("val", "test"):
            if f"{split}/pair_auc_lab" not in metrics:
                continue
            equal, unequal = (metrics[f"{split}/{k}_distance"] for k in ("equal", "unequal"))
            optimizer = settings["optimizer"].rsplit(".", 1)[-1]
            row = {"run, split": f"`{name}`, {split}", "steps": str(settings["steps"])}
            if compare_losses:
                row["loss (negative, balance)"] = f"{settings['negative']}, {settings['balance']}"
                row["optimiser, rate"] = f"{optimizer}, {settings['lr']:g}"
                row["readout_scale"] = str(settings["readout_scale"])
            else:
                row["minutes"] = f"{metrics['seconds/fit'] / 60:.1f}"
            row["pair AUC"] = f"**{metrics[f'{split}/pair_auc']:.3f}**"
            if not compare_losses:
                for key in ("untrained", "lab", "lab_position"):
                    row[key.replace("_", " + ")] = f"{metrics[f'{split}/pair_auc_{key}']:.3f}"
            row["equal / unequal distance"] = f"{equal:.2g} / {unequal:.2g}"
            rows.append(row)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join([*lines, "", "Measured on: " + "; ".join(sorted(machines)) + "."])


def fill(readme: str, results: Path) -> str:
    """Replaces what stands between `<!-- runs: a b -->` and its like, and `<!-- end -->`."""

    def content(match: re.Match[str]) -> str:
        kind, names = match["kind"], match["names"].split()
        if kind in ("runs", "losses"):
            text = runs_table(results / "runs", names, compare_losses=kind == "losses")
        else:
            stored = (json.loads((results / f"{n}.json").read_text("utf-8")) for n in names)
            text = "\n".join(map(markdown, stored)).strip()
        return f"{match['start']}\n{text}\n{match['end']}"

    pattern = (
        r"(?P<start><!-- (?P<kind>runs|losses|benchmark): (?P<names>[\w ]+) -->)\n.*?"
        r"(?P<end><!-- end -->)"
    )
    return re.sub(pattern, content, readme, flags=re.DOTALL)


@hydra.main(config_path="../conf", config_name="report", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Collects the given runs and writes the tables."""
    for run_dir in cfg.runs:
        collect(Path(run_dir), Path(cfg.results) / "runs")
    readme = Path(cfg.readme)
    readme.write_text(fill(readme.read_text("utf-8"), Path(cfg.results)), encoding="utf-8")


if __name__ == "__main__":
    main()
