"""How good features are after how much time: superpixels against sampled pixels."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pytorch_lightning.utilities import move_data_to_device
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.data.layouts import Mixture
from softfeat.metrics.pair_auc import PairAUC
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix
from softfeat.models.checkpoints import write_weights
from softfeat.models.extractor import Extractor
from softfeat.ops.labels import CONTRAST
from softfeat.ops.superpixels import superpixel_scatter
from softfeat.revision import revision
from softfeat.training.classifier import rarity
from softfeat.training.machine import machine
from softfeat.training.sampled_pixels import SampledPixelModule
from softfeat.training.soft_features import SoftFeatureModule

_SCORES = {"pair AUC": "pair_auc", "probe mIoU": "probe_miou"}
_LEAST_VARIANCE = 1e-6  # of the greatest: what lies below is rounding
_WARMUP, _POWER = 0.05, 0.9  # the rate grows for this share of the time, then decays polynomially


def _rate(share: float) -> float:
    """Of the learning rate, where `share` of the time has passed."""
    return float(max(0.0, 1 - share) ** _POWER * min(1.0, share / _WARMUP + 1e-2))


@torch.no_grad()
def _pooled(module: SoftFeatureModule, batch: Batch) -> tuple[Tensor, Tensor]:
    batch = move_data_to_device(batch, module.device)
    features, labels = module.superpixel_features(batch)
    return features.cpu(), labels.cpu()


def superpixel_probe(features: Tensor, labels: Tensor, num_classes: int) -> nn.Linear:
    """Softmax regression of superpixel features.

    Args:
        features: (N,D).
        labels: (N,) int64.
        num_classes: K.

    Returns:
        From (...,D) to scores (...,K).
    """
    # Whitened, for the channels of trained features say nearly the same: merely standardised, the
    # descent is far from its end when it stops, and the further the better the features are.
    centre = features.mean(0)
    centred = features - centre
    variances, axes = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
    floor = _LEAST_VARIANCE * variances[-1] + torch.finfo(torch.float32).tiny
    whitening = (axes / (variances.clamp(min=0) + floor).sqrt()).float()
    white = centred @ whitening
    linear = nn.Linear(features.shape[1], num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(white), labels) + 1e-4 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # the whitening becomes part of the map
        linear.weight.copy_(linear.weight @ whitening.T)
        linear.bias.sub_(linear.weight @ centre)
    return linear


def _sets(data: SegmentationData) -> dict[int, str]:
    """Names of those sets of a mixture that the val split has, by their label spaces."""
    if not isinstance(data.layout, Mixture):
        return {}
    names = list(data.layout.layouts)
    return {space: names[space] for space in sorted({r.space for r in data.layout.records("val")})}


def _trained_on(data: SegmentationData) -> list[str]:
    """Folders of the train split's sets."""
    return list(dict.fromkeys(r.image.parents[2].name for r in data.layout.records("train")))


def quality(
    module: SoftFeatureModule, data: SegmentationData, probe_batches: Sequence[Batch]
) -> dict[str, float]:
    """Pair AUC on the val split, and the mIoU there of a linear probe of superpixel features.

    The probe is trained on `probe_batches`; each pixel takes the class of its superpixel. In a
    mixture, which has no classes in common, there is none: pair AUC is measured on each set, and
    their mean.
    """
    sets = _sets(data)
    num_classes = len(data.layout.class_names)
    pairs = {space: PairAUC() for space in sets or [0]}
    scores = SegmentationScores(num_classes)
    module.eval()
    if not sets:
        known = [_pooled(module, batch) for batch in probe_batches]
        features, labels = (torch.cat([found[i].flatten(0, 1) for found in known]) for i in (0, 1))
        labelled = labels < CONTRAST
        probe = superpixel_probe(features[labelled], labels[labelled], num_classes)
    for batch in data.val_dataloader():
        pooled = _pooled(module, batch)
        for space in batch["space"].unique().tolist():
            chosen = batch["space"] == space
            pairs[space].update(*(values[chosen] for values in pooled))
        if not sets:
            with torch.no_grad():
                maps = superpixel_scatter(probe(pooled[0]), batch["superpixels"])
            matrices = [confusion_matrix(*pair) for pair in zip(maps, batch["label"], strict=True)]
            scores.update(torch.stack(matrices))
    module.train()
    found = {space: metric.compute()["pair_auc"].item() for space, metric in pairs.items()}
    if sets:
        return {"pair_auc": mean(found.values()), **{sets[k]: v for k, v in found.items()}}
    return {"pair_auc": found[0], "probe_miou": scores.compute()["miou"].item()}


def train_for(
    module: SoftFeatureModule,
    data: SegmentationData,
    seconds: float,
    times: Sequence[float],
    clock: Callable[[], float],
    tick: Callable[[float], object],
) -> list[dict[str, float]]:
    """Trains for some time and measures on the way; the clock stands still while it does.

    Args:
        module: features to train.
        data: photos.
        seconds: of training, at the end of which the learning rate is 0.
        times: seconds after which to measure; the last is `seconds`.
        clock: seconds.
        tick: called with the seconds so far, after each step.

    Returns:
        One dict a time: seconds, steps, and what `quality` finds.
    """
    optimizer = module.optimizer(module.parameters())
    rates = [group["lr"] for group in optimizer.param_groups]
    probe_batches = [] if _sets(data) else list(data.train_dataloader())
    measured: list[dict[str, float]] = []
    spent, steps, epoch = 0.0, 0, 0
    todo = list(times)
    module.train()
    while todo:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr, attr-defined]
        epoch += 1
        for batch in loader:
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
            passed = [moment for moment in todo if moment <= spent]
            if passed:  # more than one, where a step takes long
                scores = quality(module, data, probe_batches)
                measured += [{"seconds": spent, "steps": steps, **scores}] * len(passed)
                todo = todo[len(passed) :]
            if not todo:
                break
    return measured


def time_to(run: Sequence[Mapping[str, float]], goal: float, score: str) -> float | None:
    """Seconds from which on all measurements of a run are at least `goal`; None if it ends below.

    >>> run = [{"seconds": s, "auc": auc} for s, auc in ((1, 0.8), (2, 0.6), (4, 0.8), (8, 0.9))]
    >>> time_to(run, 0.7, "auc")
    4
    """
    below = [i for i, m in enumerate(run) if m[score] < goal]
    first = below[-1] + 1 if below else 0
    return run[first]["seconds"] if first < len(run) else None


def _last(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Mapping[str, float]:
    """Some training's last measurement."""
    return next(iter(runs.values()))[0][-1]


def draw(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], path: Path) -> None:
    """The scores over time, a thin line a seed and a thick one for their mean."""
    scores = {label: score for label, score in _SCORES.items() if score in _last(runs)}
    figure = Figure(figsize=(5 * len(scores), 4), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (label, score) in zip(panels, scores.items(), strict=True):
        for i, (name, seeds) in enumerate(runs.items()):
            for run in seeds:
                axes.plot(
                    [m["seconds"] for m in run],
                    [m[score] for m in run],
                    f"C{i}.-",
                    lw=0.7,
                    alpha=0.5,
                )
            moments = list(zip(*seeds, strict=True))
            axes.plot(
                [mean(m["seconds"] for m in moment) for moment in moments],
                [mean(m[score] for m in moment) for moment in moments],
                f"C{i}o-",
                label=name,
            )
        axes.set(xscale="log", xlabel="seconds of training", ylabel=f"{label} (val)")
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def time_to_quality(
    data: SegmentationData,
    extractor: Callable[[], Extractor],
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Callable[[Any], Optimizer],
    samplings: Mapping[str, Callable[..., tuple[Tensor, Tensor, Tensor]] | None],
    seeds: Sequence[int],
    seconds: float,
    short: float,
    halvings: int,
    folder: str | Path,
    plot: str | Path,
    cpu_clock: bool = False,
    classifier_weight: float = 0.0,
    class_weights: Literal["equal", "frequency"] = "equal",
    superpixel_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    name: str = "time_to_quality",
) -> dict[str, Any]:
    """Trains the same network on superpixels and on sampled pixels, for the same time each.

    The learning rate falls to 0 over a training's time, and much of the quality comes at its end;
    so what superpixels reach sooner is also looked for in trainings on them that take less time.

    Args:
        data: photos.
        extractor: makes the network, from torch's seed.
        loss: of the features compared.
        optimizer: made from the parameters.
        samplings: by name what to train on: None for superpixels, else as `sample_pixels`. The
            first is measured against the others.
        seeds: of weights, order and augmentation of the photos, and draws.
        seconds: of each training; loading and measuring excluded.
        short: share of `seconds` that further trainings on the first get.
        halvings: scores are measured after seconds / 2^h, h = halvings ... 0.
        folder: a finished training is kept here, with its weights, and not repeated with the same
            settings.
        plot: PNG of the curves.
        cpu_clock: take processor time of one thread, which is its time on an idle core, so that
            other work on the machine does not count; else wall-clock time.
        classifier_weight: of a classifier beside the loss, of whatever that compares; as
            `SoftFeatureModule`'s.
        class_weights: of the classifier; likewise.
        superpixel_loss: of superpixels, in place of `loss`, which sampled pixels keep.
        name: of the result files.

    Returns:
        Name, title, settings, rows, tables, ratios, and `runs`, what was measured by name and seed.

    Raises:
        ValueError: `cpu_clock` with several threads, or a GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if cpu_clock and (device != "cpu" or torch.get_num_threads() != 1):
        raise ValueError("suite.cpu_clock=true counts one thread of a CPU: set OMP_NUM_THREADS=1")
    data.prepare_data()
    sets = _sets(data)
    settings = {
        "data": ", ".join(_trained_on(data)),
        **({"scored on": ", ".join(sets.values())} if sets else {}),
        "batch": data.batch_size,
        "image": "x".join(map(str, data.image_size)),
        "superpixels": data.superpixels.count,
        "augmentation": str(data.augmentation),
        "loss": _about(loss),
        **({"loss of superpixels": _about(superpixel_loss)} if superpixel_loss else {}),
        "optimizer": _about(optimizer),
        "extractor": _about(extractor),
        **(
            {"classifier": f"weight {classifier_weight:g}, {class_weights} classes"}
            if classifier_weight
            else {}
        ),
        "halvings": halvings,
        "clock": "processor time of one thread" if cpu_clock else "wall-clock",
    }
    first, *others = samplings
    shorter = f"{first}, {short:g} of the time"
    trainings = {first: (samplings[first], seconds), shorter: (samplings[first], short * seconds)}
    trainings |= {name: (samplings[name], seconds) for name in others}
    runs: dict[str, list[list[dict[str, float]]]] = {name: [] for name in trainings}
    with Progress() as progress:
        for seed, (way, (sampling, whole)) in product(seeds, trainings.items()):
            about = settings | {"seed": seed, "sampling": _about(sampling), "seconds": whole}
            file = Path(folder) / f"{way.replace(', ', '_').replace(' ', '_')}_seed{seed}.json"
            kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if kept.get("settings") != about:
                task = progress.add_task(f"{way}, seed {seed}", total=whole)
                torch.manual_seed(seed)
                data.seed = seed
                data.setup("fit")
                make = partial(SampledPixelModule, sample_pixels=sampling)
                module: SoftFeatureModule = (make if sampling else SoftFeatureModule)(
                    extractor(),
                    loss if sampling or superpixel_loss is None else superpixel_loss,
                    optimizer,
                    data.superpixels.count,
                    [len(names) for names in data.label_spaces],
                    classifier_weight,
                    rarity(data.class_shares()) if class_weights == "frequency" else None,
                )
                module.to(device)
                data.num_levels = len(module.extractor.level_channels)
                measured = train_for(
                    module,
                    data,
                    whole,
                    [whole / 2**h for h in range(halvings, -1, -1)],
                    time.process_time if cpu_clock else time.perf_counter,
                    lambda spent, task=task: progress.update(task, completed=spent),  # type: ignore[misc]
                )
                kept = {"settings": about, "machine": machine(), "revision": revision()}
                kept["measured"] = measured
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
                network = {
                    "extractor": module.extractor.hparams,
                    "state_dict": {k: v.cpu() for k, v in module.state_dict().items()},
                }
                write_weights(file.with_suffix(".safetensors"), network, about)
            runs[way].append(kept["measured"])
    draw(runs, Path(plot))
    rows = []
    last = _last(runs)
    by_set = []
    for way, of_seeds in runs.items():
        for moment in zip(*of_seeds, strict=True):
            row = {"trained on": way}
            for column, key in (("s", "seconds"), ("steps", "steps")):
                row[column] = f"{mean(m[key] for m in moment):.0f}"
            for column, key in _SCORES.items():
                if key in last:
                    found = [m[key] for m in moment]
                    row[column] = f"{mean(found):.3f}"
                    row[f"{column}, least - most"] = f"{min(found):.3f} - {max(found):.3f}"
            rows.append(row)
        row = {"trained on": way}
        for key in last:
            if key not in ("seconds", "steps", *_SCORES.values()):
                found = [run[-1][key] for run in of_seeds]
                row[key] = f"{mean(found):.3f} ({min(found):.3f} - {max(found):.3f})"
        by_set.append(row)
    reached, ratios = [], {}
    for other in others:
        for label, score in ((k, v) for k, v in _SCORES.items() if v in last):
            factors = []
            for seed, ours, briefly, theirs in zip(
                seeds, runs[first], runs[shorter], runs[other], strict=True
            ):
                goal = theirs[-1][score]
                found = [time_to(run, goal, score) for run in (briefly, ours)]
                sooner = min((s for s in found if s is not None), default=None)
                later = time_to(theirs, ours[-1][score], score)
                factors.append(theirs[-1]["seconds"] / sooner if sooner else 0.0)
                reached.append(
                    {
                        "score": label,
                        "seed": seed,
                        f"{first} as good as": f"{other} at its end ({goal:.3f})",
                        "after s": f"{sooner:.0f}" if sooner else "never",
                        "the reverse": f"{ours[-1][score]:.3f}",
                        "after s ": f"{later:.0f}" if later else "never",
                    }
                )
            ratios[f"whole time of {other} / time of {first} to the same {label}"] = {
                "median": median(factors),
                "min": min(factors),
                "max": max(factors),
            }
    tables = {
        "Who is as good as the other at its end": reached,
        "Pair AUC of each set at the end": by_set if len(by_set[0]) > 1 else [],
    }
    return {
        "name": name,
        "title": "Scores on val over time of training, means over the seeds",
        "rows": rows,
        "tables": {title: rows for title, rows in tables.items() if rows},
        "ratios": ratios,
        "settings": settings | {"seconds": seconds, "seeds": len(seeds)},
        "runs": runs,
    }


def _about(function: Any) -> str:
    """A partial function's name and arguments, as text that stays."""
    if isinstance(function, partial):
        return f"{function.func.__qualname__}({function.keywords})"
    return getattr(function, "__qualname__", str(function))
