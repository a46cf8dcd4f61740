"""Sweeps: jobs that fail alone, and their results as a table and a plot."""

import csv
import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softfeat.atomic import replaced
from softfeat.interrupt import Interrupted
from softfeat.names import printable
from softfeat.tables import markdown_table
from softfeat.training.run_config import override, read_config, read_yaml, save_config, untrusted

# Keys that a sweep never compares.
_BOOKKEEPING = (
    "run_dir", "run_id", "resume", "prepared", "group", "logger", "search", "revision"
)  # fmt: skip


def flat(node: Any, where: str = "") -> dict[str, Any]:
    """Flattens a tree into its leaves by dotted keys; lists and null become text.

    >>> flat({"a": {"b": 1, "c": [2, 3]}, "d": None})
    {'a.b': 1, 'a.c': '[2, 3]', 'd': 'null'}
    """
    if isinstance(node, dict):
        parts = (flat(value, f"{where}.{key}" if where else key) for key, value in node.items())
        return {key: value for part in parts for key, value in part.items()}
    return {where: "null" if node is None else str(node) if isinstance(node, list) else node}


@dataclass(frozen=True)
class Job:
    """A job of a multirun.

    Args:
        name: Its directory, relative to the reported one.
        settings: Its configuration by dotted keys; empty if it failed before it had one.
        metrics: Metrics of a finished job; empty for the others.
        error: First line of the error that stopped it.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    error: str

    @property
    def status(self) -> str:
        """One of ok, failed and unfinished (running, or killed)."""
        if self.error:
            return "failed"
        return "ok" if self.metrics else "unfinished"


def _read_job(folder: Path, name: str) -> Job:
    config, metrics, error = (folder / n for n in ("config.yaml", "metrics.json", "error.txt"))
    return Job(
        name=name,
        settings=flat(OmegaConf.to_container(read_config(config))) if config.is_file() else {},
        metrics=json.loads(metrics.read_text("utf-8")) if metrics.is_file() else {},
        error=error.read_text("utf-8").partition("\n")[0] if error.is_file() else "",
    )


def _derived_keys(multirun: Path) -> set[str]:
    """Finds keys that Hydra derives from others by `${...}` and that the user did not set."""
    composed = read_yaml(multirun)
    overrides = composed.pop("hydra")["overrides"]["task"]
    by_hand = {override.partition("=")[0].lstrip("+") for override in overrides}
    values = flat(composed)
    return {k for k, v in values.items() if isinstance(v, str) and "${" in v} - by_hand


class Sweep:
    """The jobs of a multirun directory, or of several multiruns in one directory.

    Args:
        folder: The directory.

    Raises:
        FileNotFoundError: The directory has no multirun.
    """

    def __init__(self, folder: Path) -> None:
        files = [*folder.glob("multirun.yaml"), *sorted(folder.glob("*/multirun.yaml"))]
        sweeps = [file.parent for file in files]
        if not files:
            raise FileNotFoundError(f"{folder} is no multirun directory: no multirun.yaml there")
        self.folder = folder
        jobs = [
            _read_job(job, str(job.relative_to(folder)))
            for sweep in sweeps
            for job in sorted(sweep.iterdir(), key=lambda path: (len(path.name), path.name))
            if (job / "config.yaml").is_file() or (job / "error.txt").is_file()
        ]
        self.metric: str = next((j.settings["optimized_metric"] for j in jobs if j.settings), "")
        self.jobs = sorted(jobs, key=lambda job: -self.score(job))
        derived = [_derived_keys(file) for file in files]
        self.keys = self._differing(set().union(*derived))

    def score(self, job: Job) -> float:
        """Returns the optimised metric of a job; -inf where there is none."""
        value = job.metrics.get(self.metric, math.nan)
        return -math.inf if math.isnan(value) else value

    def _differing(self, derived: set[str]) -> list[str]:
        settings = [job.settings for job in self.jobs if job.settings]
        hidden = (*_BOOKKEEPING, *derived)
        return [
            key
            for key in dict.fromkeys(key for s in settings for key in s)
            if len({repr(s.get(key)) for s in settings}) > 1
            and not f"{key}.".startswith(tuple(f"{h}." for h in hidden))
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Makes a row per job, best first: differing settings, metrics, minutes, status, error."""
        tests = dict.fromkeys(k for j in self.jobs for k in j.metrics if k.startswith("test/"))
        names = dict.fromkeys((self.metric, *tests) if self.metric else tests)
        return [
            {"job": job.name}
            | {key: job.settings.get(key) for key in self.keys}
            | {name: job.metrics.get(name) for name in names}
            | {"minutes": job.metrics["seconds/fit"] / 60 if job.metrics else None}
            | {"status": job.status, "error": job.error}
            for job in self.jobs
        ]

    def cells(self) -> list[dict[str, str]]:
        """Formats the rows as text and drops columns that are empty in all rows."""
        cells = [{name: _cell(value) for name, value in row.items()} for row in self.rows()]
        return [{n: row[n] for n in row if any(r[n] for r in cells)} for row in cells]

    def write(self) -> None:
        """Prints the table and the failed jobs; writes report.csv, report.md and report.png."""
        rows = self.rows()
        if not rows:
            print(printable(f"no job has started in {self.folder}"))
            return
        with (
            replaced(self.folder / "report.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

        cells = self.cells()
        with replaced(self.folder / "report.md") as partial:
            partial.write_text(markdown_table(cells) + "\n", encoding="utf-8")

        # A terminal has no room for all test scores and whole keys.
        test = f"test/{self.metric.rpartition('/')[2]}"
        results = {name: name for name in ("job", self.metric, test, "minutes", "status")}
        short = results | {key: _short(key, self.keys) for key in self.keys}
        short = {name: end for name, end in short.items() if name in cells[0]}
        table = Table(
            title=Text(printable(str(self.folder))), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for end in short.values():
            table.add_column(end, min_width=min(8, len(end)), overflow="fold")
        for row in cells:
            table.add_row(*(Text(printable(row[name])) for name in short))
        Console().print(table)
        print(printable(f"more: {self.folder}/report.md"))
        for job in self.jobs:
            if job.status == "unfinished":
                print(f"job {job.name} is unfinished: it is running, or was killed")
            elif job.status == "failed":
                settings = "".join(f" {key}={job.settings.get(key)}" for key in self.keys)
                path = self.folder / job.name / "error.txt"
                with_settings = settings and f" with{settings}"
                print(printable(f"job {job.name} failed{with_settings}: {job.error}"))
                print(f"  {printable(str(path))}")
        self._plot()

    def _plot(self) -> None:
        jobs = [job for job in self.jobs if self.score(job) > -math.inf]
        if not jobs or not self.keys:
            return
        count = len(self.keys)
        columns = count if count <= 3 else math.ceil(count**0.5)
        figure = Figure(figsize=(1 + 4.5 * columns, 3.6 * math.ceil(count / columns)))
        figure.set_layout_engine("constrained")
        scores = [self.score(job) for job in jobs]
        for number, key in enumerate(self.keys, start=1):
            axes = figure.add_subplot(math.ceil(count / columns), columns, number)
            _draw(axes, [job.settings.get(key) for job in jobs], scores)
            axes.set_xlabel(key)
            axes.set_ylabel(self.metric)
        figure.suptitle(
            f"{self.folder.resolve().name}: {len(jobs)} finished jobs, lines are means, "
            f"the star is job {jobs[0].name} ({scores[0]:.4g})",
            fontsize="medium",
        )
        with replaced(self.folder / "report.png") as partial:
            figure.savefig(partial, dpi=120)


def _short(key: str, keys: list[str]) -> str:
    """Shortens a key to its last parts, as many as distinguish it from the others."""
    parts = key.split(".")
    ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
    return next((e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1), key)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(axes: Axes, values: list[Any], scores: list[float]) -> None:
    """Draws scores, best first, over the values of one key."""
    means = {
        value: sum(s for v, s in zip(values, scores, strict=True) if v == value)
        / values.count(value)
        for value in values
    }
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        places = values
        ticks = sorted(means)
        if ticks[0] > 0 and ticks[-1] / ticks[0] >= 10:
            axes.set_xscale("log", subs=[])
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
        if len(ticks) <= 6:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.plot(ticks, [means[tick] for tick in ticks], alpha=0.5)
    else:
        names = sorted(means, key=str)
        places = [names.index(value) for value in values]
        axes.set_xticks(range(len(names)), [str(name) for name in names])
        if sum(len(str(name)) for name in names) > 40:
            axes.tick_params(axis="x", labelrotation=20)
        axes.set_xlim(-0.5, len(names) - 0.5)
        for place, name in enumerate(names):
            axes.plot([place - 0.3, place + 0.3], [means[name]] * 2, color="tab:blue", alpha=0.5)
    axes.scatter(places[1:], scores[1:], zorder=3)
    axes.scatter(places[:1], scores[:1], marker="*", s=180, color="tab:orange", zorder=4)
    axes.grid(alpha=0.3)


def train_apart(cfg: DictConfig, command: Sequence[str]) -> dict[str, float]:
    """Trains in a separate process, which may start others and be killed with them.

    Args:
        cfg: Configuration; saved into its run directory.
        command: Command that trains a saved configuration; gets `prepared=RUN_DIR`.

    Returns:
        The metrics of the run, as in `metrics.json`.

    Raises:
        ChildProcessError: The training failed. The message has the reason first, then everything
            that it wrote to standard error.
    """
    run_dir = Path(cfg.run_dir)
    save_config(cfg, run_dir / "config.yaml")
    # The other process does not believe a file what only the user may choose.
    by_hand = untrusted(OmegaConf.to_container(read_config(run_dir / "config.yaml")))
    repeated = [f"++{override(key, str(OmegaConf.select(cfg, key)))}" for key in by_hand]
    with subprocess.Popen(
        [*command, override("prepared", run_dir), *repeated], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, messages = process.communicate()
        except Interrupted as error:
            if error.signum == signal.SIGTERM:  # Ctrl-C reaches the process without help
                process.terminate()
            process.communicate()  # it saves a checkpoint
            raise
    if process.returncode:
        lines = messages.strip().splitlines() or ["no message"]
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        reason = (reasons or lines[-1:])[0]
        raise ChildProcessError(f"{reason} (exit status {process.returncode})\n{messages}")
    print(messages, end="", file=sys.stderr)
    metrics: dict[str, float] = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    return metrics
