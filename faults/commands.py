"""Commands of the product, as a user types them, on small data."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from softfeat import batch, cli  # noqa: F401, imported before the forks
from softfeat.commands import evaluate, precompute, train

# A network, photos and superpixels small enough for many trainings.
_TINY_DATA = ("data.image_size=[32,32]", "data.superpixels.count=16")
_TINY_TRAINING = (
    *_TINY_DATA,
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "extractor.widths=[8,16]",
    "extractor.blocks=[1,1]",
    "extractor.dim=8",
    "data.batch_size=2",
    "data.steps_per_epoch=3",
    "trainer.max_epochs=3",
    "run_id=abc",
    "~logger",
)
_MODULES = {"train": train.main, "evaluate": evaluate.main, "precompute": precompute.main}
# Columns and keys that differ from run to run.
_TIMES = ("seconds", "system/")


def command(module: str, arguments: Iterable[str]) -> Callable[[], None]:
    """Makes a function that runs `python -m src.MODULE ARGUMENTS`, in a fork."""
    return _with_arguments(_MODULES[module], [f"src/{module}.py", *arguments])


def softfeat(*arguments: str) -> Callable[[], None]:
    """Makes a function that runs `softfeat ARGUMENTS`, in a fork."""
    return _with_arguments(cli.main, ["softfeat", *arguments])


def _with_arguments(main: Callable[[], Any], argv: list[str]) -> Callable[[], None]:
    def call() -> None:
        sys.argv = argv
        os.environ["COLUMNS"] = "400"  # messages on one line
        torch.set_num_threads(1)
        main()

    return call


def precompute_arguments(root: Path, cache: Path, *more: str) -> list[str]:
    """Arguments that compute the superpixels of a set into a cache."""
    return ["data=folder", f"data.root={root}", f"data.cache_dir={cache}", *_TINY_DATA, *more]


def train_arguments(root: Path, cache: Path, run: Path, *more: str) -> list[str]:
    """Arguments of a training of features: three epochs of three steps."""
    given = ["experiment=softfeat_camvid", f"data.root={root}", f"data.cache_dir={cache}"]
    return [*given, f"run_dir={run}", *_TINY_TRAINING, "data.num_workers=0", *more]


def head_arguments(root: Path, cache: Path, run: Path, checkpoint: Path, *more: str) -> list[str]:
    """Arguments of a training of a head on stored features."""
    given = ["experiment=hardseg_camvid", f"data.root={root}", f"data.cache_dir={cache}"]
    features = [f"model.features_checkpoint={checkpoint}", "model.cache_features=true"]
    settings = ["model.warmup_steps=0", "data.num_workers=0", "data.variants=4"]
    return [*given, f"run_dir={run}", *_TINY_TRAINING, *features, *settings, *more]


def segment_arguments(photos: Path, output: Path, checkpoint: Path, *more: str) -> list[str]:
    """Arguments of `softfeat` that segment photos into two layers at a small size."""
    options = ["--weights", str(checkpoint), "--size", "32", "--layers", "2"]
    return ["segment", *options, *more, "-o", str(output), "--", str(photos)]


def stores(cache: Path) -> dict[str, str]:
    """Hashes of the files of all complete stores, by path."""
    return {
        str(path.relative_to(cache)): _sha256(path.read_bytes())
        for path in sorted(cache.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock") and ".partial" not in str(path)
    }


def layers(output: Path) -> dict[str, str]:
    """Hashes of the files of all folders of layers, by path; times are left out."""
    content = {}
    for path in sorted(output.rglob("*")):
        if path.name == "summary.json":
            summary = json.loads(path.read_text("utf-8"))
            kept = {key: v for key, v in summary.items() if not key.startswith("seconds")}
            data = json.dumps(kept, sort_keys=True).encode()
        elif path.is_file():
            data = path.read_bytes()
        else:
            continue
        content[str(path.relative_to(output))] = _sha256(data)
    return content


def run_results(run: Path) -> dict[str, str]:
    """Hashes of everything that a training leaves and that times do not change, by name."""
    content = {}
    for path in sorted(run.glob("checkpoints/*.ckpt")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            content[f"{path.name} {key}"] = _sha256(_plain(state[key]).encode())
    if (run / "metrics.json").is_file():
        content["metrics.json"] = scores(run / "metrics.json")
    if (run / "metrics.csv").is_file():
        content["metrics.csv"] = _sha256(_rows_without_times(run / "metrics.csv").encode())
    for path in sorted(run.glob("pictures/*.png")):
        content[path.name] = _sha256(path.read_bytes())
    return content


def scores(file: Path) -> str:
    """The content of a `metrics.json` without times."""
    metrics = json.loads(file.read_text("utf-8"))
    kept = {key: v for key, v in metrics.items() if not key.startswith(_TIMES)}
    return json.dumps(kept, sort_keys=True)


def evaluation(output: Path) -> dict[str, str]:
    """The scores and hashes of the pictures of an evaluation."""
    content = {path.name: _sha256(path.read_bytes()) for path in sorted(output.glob("*.png"))}
    if (output / "metrics.json").is_file():
        content["metrics.json"] = scores(output / "metrics.json")
    return content


def difference(one: dict[str, str], other: dict[str, str]) -> str:
    """Names the first entries that differ; empty if there are none."""
    names = [name for name in sorted(one | other) if one.get(name) != other.get(name)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _rows_without_times(file: Path) -> str:
    header, *rows = (line.split(",") for line in file.read_text("utf-8").splitlines())
    order = [c for c, name in sorted(enumerate(header), key=lambda pair: pair[1])]
    kept = [column for column in order if not header[column].startswith(_TIMES)]
    lines = [",".join(row[column] for column in kept) for row in [header, *rows]]
    # A row of times only
    return "\n".join(line for line in lines if line.strip(",0123456789"))


def _plain(value: Any) -> str:
    """Writes nested values of tensors as a text that is equal for equal bits."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}{_sha256(value.numpy().tobytes())}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_plain(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_plain, value)) + "]"
    return repr(value)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
