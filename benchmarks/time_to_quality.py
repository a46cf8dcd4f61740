"""How good features are after how much training time: superpixels compared with sampled pixels."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Literal, TypeAlias

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning.utilities import move_data_to_device
from rich.progress import Progress
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.loops import batch_settings
from benchmarks.measure import spread_where_reached
from benchmarks.quality import mixture_sets, quality
from benchmarks.tables import NOT_REACHED
from softfeat.data.datamodule import SegmentationData
from softfeat.models.checkpoints import write_weights
from softfeat.models.extractor import Extractor
from softfeat.revision import revision
from softfeat.training.classifier import rarity
from softfeat.training.machine import machine
from softfeat.training.sampled_pixels import SampledPixelModule
from softfeat.training.soft_features import SoftFeatureModule

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Sampling: TypeAlias = Callable[..., tuple[Tensor, Tensor]] | None  # None: superpixels
Run: TypeAlias = Sequence[Mapping[str, float]]  # measurements over time
Runs: TypeAlias = Mapping[str, Sequence[Run]]  # one run per seed, by way

_SCORES = {"pair AUC": "pair_auc", "probe mIoU": "probe_miou"}
_WARMUP, _POWER = 0.05, 0.9  # the rate grows for this share of the time, then decays polynomially


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all trainings share.

    Attributes:
        data: Photos.
        extractor: Constructor of the network, which uses torch's random seed.
        loss: Loss function.
        optimizer: Constructor of the optimiser.
        halvings: Scores are measured after seconds / 2^h for h = halvings ... 0.
        superpixel_loss: Loss function for superpixels. Sampled pixels always use `loss`.
        classifier_weight: Weight of a classifier's loss in both kinds of training, as in
            `SoftFeatureModule`.
        class_weights: Class weights of the classifier.
        cpu_clock: Whether to count processor time of one thread, which other work on the machine
            does not affect, instead of wall-clock time.

    Raises:
        ValueError: `cpu_clock` is combined with several threads or a GPU.
    """

    data: SegmentationData
    extractor: Callable[[], Extractor]
    loss: Loss
    optimizer: Callable[[Any], Optimizer]
    halvings: int
    superpixel_loss: Loss | None = None
    classifier_weight: float = 0.0
    class_weights: Literal["equal", "frequency"] = "equal"
    cpu_clock: bool = False

    def __post_init__(self) -> None:
        if self.cpu_clock and (torch.cuda.is_available() or torch.get_num_threads() != 1):
            raise ValueError(
                "suite.cpu_clock=true counts one thread of a CPU: set OMP_NUM_THREADS=1"
            )

    def settings(self) -> dict[str, Any]:
        """Describes the trainings. A finished training with other settings is repeated."""
        data, sets = self.data, mixture_sets(self.data)
        folders = dict.fromkeys(r.image.parents[2].name for r in data.layout.records("train"))
        settings: dict[str, Any] = {"data": ", ".join(folders)}
        if sets:
            settings["scored on"] = ", ".join(sets.values())
        settings |= batch_settings(data)
        settings |= {"augmentation": str(data.augmentation), "loss": _text(self.loss)}
        if self.superpixel_loss:
            settings["loss of superpixels"] = _text(self.superpixel_loss)
        settings |= {"optimizer": _text(self.optimizer), "extractor": _text(self.extractor)}
        if self.classifier_weight:
            weight = f"weight {self.classifier_weight:g}, {self.class_weights} classes"
            settings["classifier"] = weight
        clock = "processor time of one thread" if self.cpu_clock else "wall-clock"
        return settings | {"halvings": self.halvings, "clock": clock}

    def train(
        self, sampling: Sampling, seed: int, seconds: float, tick: Callable[[float], object]
    ) -> tuple[SoftFeatureModule, Run]:
        """Trains a network; returns it and what was measured."""
        torch.manual_seed(seed)
        self.data.seed = seed
        self.data.setup("fit")
        make: Callable[..., SoftFeatureModule] = SoftFeatureModule
        if sampling:
            make = partial(SampledPixelModule, sample_pixels=sampling)
        module = make(
            self.extractor(),
            self.loss if sampling or self.superpixel_loss is None else self.superpixel_loss,
            self.optimizer,
            self.data.superpixels.count,
            [len(names) for names in self.data.label_spaces],
            self.classifier_weight,
            rarity(self.data.class_shares()) if self.class_weights == "frequency" else None,
        )
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        self.data.num_levels = len(module.extractor.level_channels)
        times = [seconds / 2**h for h in range(self.halvings, -1, -1)]
        clock = time.process_time if self.cpu_clock else time.perf_counter
        return module, train_for(module, self.data, seconds, times, clock, tick)


def time_to_quality(
    samplings: Mapping[str, Sampling],
    seeds: Sequence[int],
    seconds: float,
    short: float,
    folder: str | Path,
    plot: str | Path,
    name: str = "time_to_quality",
    **shared: Any,
) -> dict[str, Any]:
    """Trains the same network on superpixels and on sampled pixels, with the same time for each.

    The learning rate falls to 0 over the time of a training, and much of the quality is gained at
    its end. Therefore there are also shorter trainings on superpixels, which may reach a quality
    sooner.

    Args:
        samplings: What to train on, by name: None for superpixels, else a function like
            `sample_pixels`. The first is compared with the others.
        seeds: Random seeds of the weights, of order and augmentation of the photos, and of samples.
        seconds: Time of each training, without loading and measuring.
        short: Share of `seconds` that further trainings on the first sampling have.
        folder: Folder for finished trainings and their weights. A training is not repeated with the
            same settings.
        plot: PNG file of the curves.
        name: Name of the result files.
        shared: Attributes of `Setup`.

    Returns:
        Result with one row per way and time. "runs" has the measurements by way and seed.
    """
    setup = Setup(**shared)
    setup.data.prepare_data()
    first, *others = samplings
    shorter = f"{first}, {short:g} of the time"
    trainings = {first: (samplings[first], seconds), shorter: (samplings[first], short * seconds)}
    trainings |= {other: (samplings[other], seconds) for other in others}
    runs = _runs(setup, trainings, seeds, Path(folder))
    draw(runs, Path(plot))
    reached, ratios = compare(runs, seeds, first, shorter, others)
    tables = {
        "Who is as good as the other at its end": reached,
        "Pair AUC of each set at the end": _set_rows(runs),
    }
    return {
        "name": name,
        "title": "Scores on val over time of training, means over the seeds",
        "rows": _score_rows(runs),
        "tables": {title: rows for title, rows in tables.items() if rows},
        "ratios": ratios,
        "settings": setup.settings() | {"seconds": seconds, "seeds": len(seeds)},
        "runs": runs,
    }


def _runs(
    setup: Setup,
    trainings: Mapping[str, tuple[Sampling, float]],
    seeds: Sequence[int],
    folder: Path,
) -> Runs:
    """Trains with every seed in every way (sampling, seconds), or reads what was measured."""
    settings = setup.settings()
    runs: dict[str, list[Run]] = {way: [] for way in trainings}
    with Progress() as progress:
        for seed, (way, (sampling, seconds)) in product(seeds, trainings.items()):
            about = settings | {"seed": seed, "sampling": _text(sampling), "seconds": seconds}
            file = folder / f"{way.replace(', ', '_').replace(' ', '_')}_seed{seed}.json"
            content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if content.get("settings") != about:
                task = progress.add_task(f"{way}, seed {seed}", total=seconds)
                tick = partial(_advance, progress, task)
                module, measured = setup.train(sampling, seed, seconds, tick)
                content = {"settings": about, "machine": machine(), "revision": revision()}
                content["measured"] = measured
                _write(file, content, module)
            runs[way].append(content["measured"])
    return runs


def _advance(progress: Progress, task: Any, seconds: float) -> None:
    progress.update(task, completed=seconds)


def _write(file: Path, content: Mapping[str, Any], module: SoftFeatureModule) -> None:
    """Writes a finished training and its weights."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    network = {
        "extractor": module.extractor.hparams,
        "state_dict": {k: v.cpu() for k, v in module.state_dict().items()},
    }
    write_weights(file.with_suffix(".safetensors"), network, content["settings"])


def train_for(
    module: SoftFeatureModule,
    data: SegmentationData,
    seconds: float,
    times: Sequence[float],
    clock: Callable[[], float],
    tick: Callable[[float], object],
) -> list[dict[str, float]]:
    """Trains for some time. Loading and measuring do not count.

    Args:
        module: Features to train.
        data: Photos.
        seconds: Training time, at the end of which the learning rate is 0.
        times: Seconds after which to measure; the last is `seconds`.
        clock: Function that returns seconds.
        tick: Function that is called with the seconds so far after each step.

    Returns:
        One dictionary per time with "seconds", "steps", and the scores of `quality`.
    """
    optimizer = module.optimizer(module.parameters())
    rates = [group["lr"] for group in optimizer.param_groups]
    probe_batches = [] if mixture_sets(data) else list(data.train_dataloader())
    measured: list[dict[str, float]] = []
    spent, steps = 0.0, 0
    module.train()
    for batch in _endless(data):
        batch = move_data_to_device(batch, module.device)
        started = clock()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _rate(spent / seconds)
        loss = module.losses(batch, steps)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
        spent, steps = spent + clock() - started, steps + 1
        tick(spent)
        passed = [moment for moment in times if moment <= spent][len(measured) :]
        if passed:  # several, if a step takes long
            scores = quality(module, data, probe_batches)
            measured += [{"seconds": spent, "steps": steps, **scores}] * len(passed)
        if len(measured) == len(times):
            break
    return measured


def _endless(data: SegmentationData) -> Iterator[Any]:
    """Yields the training batches of one epoch after another."""
    epoch = 0
    while True:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr, attr-defined]
        yield from loader
        epoch += 1


def _rate(share: float) -> float:
    """Learning rate after a share in [0,1] of the time, as a factor of the highest rate."""
    return float(max(0.0, 1 - share) ** _POWER * min(1.0, share / _WARMUP + 1e-2))


def time_to(run: Run, goal: float, score: str) -> float | None:
    """Finds the seconds after which a run stays at `goal` or above; None if it ends below.

    >>> run = [{"seconds": s, "auc": auc} for s, auc in ((1, 0.8), (2, 0.6), (4, 0.8), (8, 0.9))]
    >>> time_to(run, 0.7, "auc")
    4
    """
    below = [i for i, m in enumerate(run) if m[score] < goal]
    first = below[-1] + 1 if below else 0
    return run[first]["seconds"] if first < len(run) else None


def _scores(runs: Runs) -> dict[str, str]:
    """Keys of the scores that the runs have, by name."""
    last = _last(runs)
    return {label: key for label, key in _SCORES.items() if key in last}


def _last(runs: Runs) -> Mapping[str, float]:
    """Last measurement of one of the runs, all of which have the same keys."""
    return next(iter(runs.values()))[0][-1]


def compare(
    runs: Runs, seeds: Sequence[int], first: str, shorter: str, others: Sequence[str]
) -> tuple[list[dict[str, object]], dict[str, dict[str, float | None]]]:
    """Finds when superpixels are as good as each other way at its end, and the reverse.

    Returns:
        rows: One row per way, score and seed.
        ratios: Whole time of the other way, relative to the time of superpixels to the same score.
    """
    rows: list[dict[str, object]] = []
    ratios = {}
    for other, (label, score) in product(others, _scores(runs).items()):
        factors = []
        for seed, ours, briefly, theirs in zip(
            seeds, runs[first], runs[shorter], runs[other], strict=True
        ):
            goal = theirs[-1][score]
            times = [time_to(run, goal, score) for run in (briefly, ours)]
            sooner = min((s for s in times if s is not None), default=None)
            later = time_to(theirs, ours[-1][score], score)
            factors.append(None if sooner is None else theirs[-1]["seconds"] / sooner)
            rows.append(
                {
                    "score": label,
                    "seed": seed,
                    f"{first} as good as": f"{other} at its end ({goal:.3f})",
                    "after s": _seconds_text(sooner),
                    "the reverse": f"{ours[-1][score]:.3f}",
                    "the reverse after s": _seconds_text(later),
                }
            )
        ratios[f"whole time of {other} / time of {first} to the same {label}"] = (
            spread_where_reached(factors)
        )
    return rows, ratios


def _seconds_text(seconds: float | None) -> str:
    return NOT_REACHED if seconds is None else f"{seconds:.0f}"


def _score_rows(runs: Runs) -> list[dict[str, str]]:
    """Averages the scores over the seeds, with their range."""
    rows = []
    for way, seeds in runs.items():
        for moment in zip(*seeds, strict=True):
            row = {"trained on": way}
            for column, key in (("s", "seconds"), ("steps", "steps")):
                row[column] = f"{mean(m[key] for m in moment):.0f}"
            for column, key in _scores(runs).items():
                values = [m[key] for m in moment]
                row[column] = f"{mean(values):.3f}"
                row[f"{column}, least - most"] = f"{min(values):.3f} - {max(values):.3f}"
            rows.append(row)
    return rows


def _set_rows(runs: Runs) -> list[dict[str, str]]:
    """Averages the last pair AUC of every set over the seeds; empty if there are no sets."""
    sets = [key for key in _last(runs) if key not in ("seconds", "steps", *_SCORES.values())]
    rows = []
    for way, seeds in runs.items() if sets else ():
        row = {"trained on": way}
        for name in sets:
            values = [run[-1][name] for run in seeds]
            row[name] = f"{mean(values):.3f} ({min(values):.3f} - {max(values):.3f})"
        rows.append(row)
    return rows


def draw(runs: Runs, path: Path) -> None:
    """Draws the scores over time: a thin line for every seed, a thick one for their mean."""
    scores = _scores(runs)
    figure = Figure(figsize=(5 * len(scores), 4), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (label, score) in zip(panels, scores.items(), strict=True):
        for number, (way, seeds) in enumerate(runs.items()):
            _draw_way(axes, f"C{number}", way, seeds, score)
        axes.set(xscale="log", xlabel="seconds of training", ylabel=f"{label} (val)")
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_way(axes: Axes, colour: str, way: str, seeds: Sequence[Run], score: str) -> None:
    for run in seeds:
        seconds, scores = ([m[key] for m in run] for key in ("seconds", score))
        axes.plot(seconds, scores, f"{colour}.-", lw=0.7, alpha=0.5)
    moments = list(zip(*seeds, strict=True))
    seconds, scores = ([mean(m[key] for m in ms) for ms in moments] for key in ("seconds", score))
    axes.plot(seconds, scores, f"{colour}o-", label=way)


def _text(function: Any) -> str:
    """Describes a function by its name and, if it is partial, its arguments."""
    if isinstance(function, partial):
        return f"{function.func.__qualname__}({function.keywords})"
    return getattr(function, "__qualname__", str(function))
