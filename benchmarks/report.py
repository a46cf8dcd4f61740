"""Writes results into documents: python -m benchmarks.report [runs=[RUN_DIR,...]] [sweeps=[...]].

The metrics, settings and machine of each run are first copied to
`benchmarks/results/runs/<name>.json`, and the table of each sweep to
`benchmarks/results/sweeps/<name of its directory>.json`. Then all tables between the markers of the
documents are written from the files in `benchmarks/results`.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from benchmarks.tables import markdown, ratio_rows
from softfeat.commands.cli import readable_errors
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint, run_directory, sha256
from softfeat.models.test_time_views import ONE_VIEW
from softfeat.sweeps.jobs import Sweep
from softfeat.tables import markdown_table
from softfeat.training.run_config import read_config

_MISSING = object()
_MARKER = re.compile(
    r"(?P<start><!-- (?P<kind>runs|losses|segmentation|classes|sweep|weights|ratios|benchmark)"
    r": (?P<names>[\w:+ .-]+) -->)\n.*?"
    r"(?P<end><!-- end -->)",
    flags=re.DOTALL,
)
_SETTINGS = {  # keys of a run's config, by name
    "experiment": "name",
    "batch": "data.batch_size",
    "image": "data.image_size",
    "superpixels": "data.superpixels.count",
    "negative": "loss.negative",
    "balance": "loss.balance",
    "classifier_weight": "model.classifier_weight",
    "class_weights": "model.class_weights",
    "precision": "trainer.precision",
    "across_images": "loss.across_images",
    "sample_pixels": "model.sample_pixels",
    "optimizer": "model.optimizer._target_",
    "lr": "model.optimizer.lr",
    "readout_scale": "extractor.readout_scale",
    "level_norm": "extractor.level_norm",
    "head": "model.head",
    "end_to_end": "model.end_to_end",
    "cache_features": "model.cache_features",
    "seed": "seed",
}


def collect(run_dir: Path, results: Path) -> None:
    """Copies the metrics of a finished run and of its evaluations by `src.evaluate`.

    Args:
        run_dir: Directory of the run.
        results: Folder for `<name of the experiment>.json`.

    Raises:
        FileNotFoundError: The run has not finished.
    """
    if not (run_dir / "metrics.json").is_file():
        raise FileNotFoundError(
            f"{run_dir} has no metrics.json: let the run finish (resume=RUN_DIR)"
        )
    cfg: Any = read_config(run_dir / "config.yaml")
    settings: dict[str, Any] = {"steps": cfg.trainer.max_epochs * cfg.data.steps_per_epoch}
    for name, key in _SETTINGS.items():
        value = OmegaConf.select(cfg, key, default=_MISSING)
        if value is not _MISSING:
            settings[name] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    if "head" in settings:
        settings["features"] = _origin(OmegaConf.select(cfg, "model.features_checkpoint"))
    metrics = _read(run_dir / "metrics.json")
    for folder in sorted(run_dir.glob("evaluation/*")):
        if _matches(folder / "evaluation.yaml", cfg):
            metrics |= _read(folder / "metrics.json")
        else:
            print(f"left out {folder}: it used other weights, data or views")
    content = {
        "settings": settings,
        "metrics": metrics,
        "machine": _read(run_dir / "machine.json"),
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{settings['experiment']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def collect_sweep(folder: Path, results: Path) -> None:
    """Copies the table of a sweep, or of several sweeps in one directory.

    Args:
        folder: Directory of the sweep or sweeps.
        results: Folder for `<name of the directory>.json`.

    Raises:
        FileNotFoundError: There is no multirun, or none of its jobs has finished.
    """
    sweep = Sweep(folder)
    done = [folder / job.name for job in sweep.jobs if job.status == "ok"]
    if not done:
        raise FileNotFoundError(f"no job of {folder} has finished: let one run to its end")
    content = {
        # The text of an error may name paths of this machine.
        "rows": [{k: v for k, v in row.items() if k != "error"} for row in sweep.cells()],
        "machines": sorted({_machine({"machine": _read(job / "machine.json")}) for job in done}),
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{folder.resolve().name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def sweep_table(results: Path, name: str) -> str:
    """Makes a table of all jobs of a sweep, best first."""
    content = _read(results / f"{name}.json")
    machines = "; ".join(content["machines"])
    return f"{markdown_table(content['rows'])}\n\nMeasured on: {machines}."


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _origin(checkpoint: str | None) -> str:
    """Names the experiment that frozen features come from."""
    if checkpoint is None:
        return "random"
    file = checkpoint_file(checkpoint)
    directory = run_directory(file)
    return file.stem if directory is None else str(read_config(directory / "config.yaml").name)


def _matches(evaluation: Path, cfg: Any) -> bool:
    """Checks that an evaluation scored the run's best weights on its data, with one view."""
    if not evaluation.is_file():
        return False
    settings: Any = read_config(evaluation)
    same = ("layout", "root", "image_size", "superpixels")
    return (
        Path(settings.checkpoint).name == "best.ckpt"
        and OmegaConf.to_object(settings.views) == {**asdict(ONE_VIEW), "scales": [1.0]}
        and all(settings.data[key] == cfg.data[key] for key in same)
    )


def segmentation_table(results: Path, names: list[str]) -> str:
    """Makes a table of the four scores of hard segmentation on the test split.

    Args:
        results: Folder of the runs.
        names: Names of runs. `a+b+c` stands for the mean and the range of runs with different
            seeds, `published:SET` for the rows on that set in `published.json`.
    """
    columns = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")
    lines = [
        "| run | features | head | minutes | pixel accuracy | class accuracy | mIoU | fwIoU |",
        "|" + " --- |" * 8,
    ]
    machines = set()
    for name in names:
        if name.startswith("published:"):
            for row in _read(results.parent / "published.json")[name.partition(":")[2]]:
                scores = " | ".join(f"{row[c]:.2f}" if c in row else "" for c in columns)
                lines.append(f"| {row['name']} ({row['source']}) | | | | {scores} |")
            continue
        contents = [_read(results / f"{n}.json") for n in name.split("+")]
        settings, metrics = contents[0]["settings"], [c["metrics"] for c in contents]
        machines |= {_machine(c) for c in contents}
        if "head" in settings:
            features = settings["features"] + (", trained on" if settings["end_to_end"] else "")
            head, prefix = settings["head"], "test/"
            minutes = f"{mean(m['seconds/fit'] for m in metrics) / 60:.1f}"
        else:
            features, head, prefix, minutes = (
                name,
                "linear (src.evaluate)",
                "test/probe_",
                "",
            )
        scores = " | ".join(_spread([100 * m[prefix + c] for m in metrics]) for c in columns)
        runs = ", ".join(f"`{n}`" for n in name.split("+"))
        lines.append(f"| {runs} | {features} | {head} | {minutes} | {scores} |")
    return "\n".join([*lines, "", "Measured on: " + "; ".join(sorted(machines)) + "."])


def _spread(values: list[float]) -> str:
    """Formats a value, or the mean of several with their range."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def classes_table(results: Path, names: list[str]) -> str:
    """Makes a table of the IoU of every class on the test split, with one column per run."""
    metrics = [_read(results / f"{name}.json")["metrics"] for name in names]
    prefix = "test/iou/"
    lines = ["| class | " + " | ".join(f"`{n}`" for n in names) + " |"]
    lines.append("|" + " --- |" * (len(names) + 1))
    for key in sorted(key for key in metrics[0] if key.startswith(prefix)):
        values = " | ".join(f"{100 * m[key]:.1f}" for m in metrics)
        lines.append(f"| {key.removeprefix(prefix)} | {values} |")
    return "\n".join(lines)


def weights_table(name: str) -> str:
    """Makes a table of the file and the metadata of shipped weights."""
    path = checkpoint_file(name)
    content = read_checkpoint(path)
    size = sum(value.numel() for value in content["state_dict"].values())
    rows = {
        "file": f"`{path.name}`, {path.stat().st_size / 1e6:.2f} MB, {size:,} numbers",
        "SHA-256": f"`{sha256(path)}`",
    }
    metadata = content["about"]
    for part in ("features", ""):
        entries = metadata.get(part) if part else metadata
        for key, value in (entries or {}).items():
            if not isinstance(value, dict):
                rows[f"{part} {key}".strip()] = f"`{value}`"
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _machine(content: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in content["machine"].items())


def runs_table(results: Path, names: list[str], compare_losses: bool = False) -> str:
    """Makes a table of the pair AUC of runs on the splits that they were scored on.

    Args:
        results: Folder of the runs.
        names: Names of runs.
        compare_losses: Whether to show the settings of the losses instead of the features that
            need no training.
    """
    rows = []
    machines = set()
    for name in names:
        content = _read(results / f"{name}.json")
        settings, metrics = content["settings"], content["metrics"]
        machines.add(_machine(content))
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
    return f"{markdown_table(rows)}\n\nMeasured on: {'; '.join(sorted(machines))}."


def ratios_table(results: Path, names: list[str]) -> str:
    """Makes a table of the ratios of benchmarks, with the machines that they were measured on."""
    contents = {name: _read(results / f"{name}.json") for name in names}
    rows = ratio_rows(
        ({"benchmark": f"`{name}`", "ratio": label}, ratio)
        for name, content in contents.items()
        for label, ratio in content["ratios"].items()
    )
    machines = sorted({_machine(content) for content in contents.values()})
    return f"{markdown_table(rows)}\n\nMeasured on: {'; '.join(machines)}."


def fill(document: str, results: Path) -> str:
    """Writes the tables of a document.

    Args:
        document: Text of the document. A table stands between `<!-- KIND: NAME ... -->` and
            `<!-- end -->`; the kinds are those of `_MARKER`.
        results: Folder of the results.

    Returns:
        Text with the tables replaced.
    """

    def content(match: re.Match[str]) -> str:
        kind, names = match["kind"], match["names"].split()
        if kind in ("runs", "losses"):
            text = runs_table(results / "runs", names, compare_losses=kind == "losses")
        elif kind == "segmentation":
            text = segmentation_table(results / "runs", names)
        elif kind == "classes":
            text = classes_table(results / "runs", names)
        elif kind == "weights":
            text = "\n\n".join(map(weights_table, names))
        elif kind == "sweep":
            text = "\n\n".join(sweep_table(results / "sweeps", name) for name in names)
        elif kind == "ratios":
            text = ratios_table(results, names)
        else:
            text = "\n".join(markdown(_read(results / f"{n}.json")) for n in names).strip()
        return f"{match['start']}\n{text}\n{match['end']}"

    return _MARKER.sub(content, document)


@hydra.main(config_path="conf", config_name="report", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Copies the results of runs and sweeps, then writes the tables of the documents."""
    for run_dir in cfg.runs:
        collect(Path(run_dir), Path(cfg.results) / "runs")
    for folder in cfg.sweeps:
        collect_sweep(Path(folder), Path(cfg.results) / "sweeps")
    for document in map(Path, cfg.documents):
        document.write_text(fill(document.read_text("utf-8"), Path(cfg.results)), encoding="utf-8")


if __name__ == "__main__":
    main()
