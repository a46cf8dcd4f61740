"""Trains: python -m src.train experiment=NAME [key=value ...], or resume=RUN_DIR."""

import signal
import sys
import time
import uuid
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from softfeat.commands.cli import (
    command,
    in_multirun,
    register_resolvers,
)
from softfeat.data.datamodule import SegmentationData
from softfeat.interrupt import Interrupted
from softfeat.models.checkpoints import read_checkpoint
from softfeat.models.extractor import Extractor, load_extractor
from softfeat.models.flops import model_size
from softfeat.sweeps.jobs import train_apart
from softfeat.tables import print_metrics
from softfeat.training.base import BaseModule
from softfeat.training.callbacks.interrupt import StopOnSignal, validation_pending
from softfeat.training.checkpoint_io import AtomicCheckpointIO
from softfeat.training.classifier import rarity
from softfeat.training.frozen import FrozenFeatures
from softfeat.training.graphed_step import trainer_can_replay
from softfeat.training.hard_segmentation import head_classes
from softfeat.training.loggers import RunCSVLogger, finishes_wandb, log_settings
from softfeat.training.machine import bf16_instructions, machine
from softfeat.training.metrics_file import write_metrics
from softfeat.training.run_config import KNOWN, prepared_config, resolved, resumed_config
from softfeat.training.run_directory import RunDirectory, removed_if_empty
from softfeat.training.settings import check_sections, check_settings

_COMMAND = (sys.executable, "-m", "softfeat.commands.train")
# Keys of the model's configuration that decide how extractor and data are made.
_NOT_FOR_THE_MODULE = ("features_checkpoint", "cache_features", "no_subject")


def train(cfg: DictConfig, resume: bool = False) -> dict[str, float]:
    """Runs one training and its test.

    Args:
        cfg: Configuration.
        resume: Continue from `checkpoints/last.ckpt` of `cfg.run_dir`.

    Returns:
        The metrics of the run, as in `metrics.json`.

    Raises:
        ValueError: The run directory already holds a run, or settings contradict each other.
        Interrupted: By Ctrl-C or SIGTERM.
    """
    register_resolvers()
    first_process = getattr(rank_zero_only, "rank", 0) == 0
    directory = RunDirectory(Path(cfg.run_dir), keep=in_multirun())
    with directory.opened(cfg, resume) if first_process else nullcontext():
        try:
            return _train(cfg, directory, resume)
        except (Interrupted, SIGTERMException) as error:
            signum = error.signum if isinstance(error, Interrupted) else signal.SIGTERM
            advice = "no step was trained"
            if (directory.path / "checkpoints" / "last.ckpt").is_file():
                advice = f"continue with python -m src.train resume={quote(str(directory.path))}"
            raise Interrupted(signum, advice) from None


@finishes_wandb
def _train(cfg: DictConfig, directory: RunDirectory, resume: bool) -> dict[str, float]:
    """Trains in an open run directory, see `train`."""
    first_process = getattr(rank_zero_only, "rank", 0) == 0
    run_dir, last = directory.path, directory.path / "checkpoints" / "last.ckpt"
    check_sections(cfg)
    cfg = resolved(cfg)
    check_settings(cfg)
    pl.seed_everything(cfg.seed, verbose=False)

    extractor = make_extractor(cfg, last if resume else None)
    csv = RunCSVLogger(str(run_dir))
    callbacks = [each for each in instantiate(cfg.callbacks).values() if each is not None]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, StopOnSignal(last)],
        logger=[csv, instantiate(cfg.logger)] if cfg.get("logger") else csv,
        plugins=AtomicCheckpointIO(),
    )
    data = make_data(cfg, extractor, trainer_can_replay(trainer))
    module = make_module(cfg, extractor, data)
    warn_of_slow_bf16(trainer)
    if resume and first_process:
        content = read_checkpoint(last)
        csv.resume_at(content["global_step"], validation_pending(content))
    log_settings(trainer.loggers, {**OmegaConf.to_container(cfg), "machine": machine()})  # type: ignore[dict-item]
    size = model_size(module, cfg.data.image_size)
    if not resume:
        for logger in trainer.loggers:
            logger.log_metrics(size, step=0)

    module.started = time.perf_counter()
    try:
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    finally:
        directory.keep |= trainer.global_step > 0
    metrics = module.metrics()
    keeper = trainer.checkpoint_callback
    if keeper is not None and keeper.best_model_score is not None:
        metrics[keeper.monitor] = float(keeper.best_model_score)
    best = last.with_name("best.ckpt")
    (tested,) = trainer.test(module, data, ckpt_path=best, verbose=False, weights_only=True)
    metrics |= tested | {
        "steps": trainer.global_step,
        "parameters": size["model/parameters"],
        "gflops": size["model/gflops"],
    }
    if first_process:
        write_metrics(run_dir / "metrics.json", metrics)
        print_metrics(cfg.name, metrics)
        print(f"run directory, for checkpoint= or --weights:\n{run_dir}")
    return metrics


def make_extractor(cfg: DictConfig, last: Path | None = None) -> Extractor:
    """Makes the network: a new one, or a trained one for a head.

    Args:
        cfg: Configuration of the training.
        last: Checkpoint of a run to resume. A resumed head keeps the extractor it had, even if the
            file of the features has changed since.
    """
    if last is not None:
        return resumed_extractor(cfg, last)
    extractor: Extractor = instantiate(cfg.extractor)
    if cfg.model.get("features_checkpoint") is None:
        return extractor
    checkpoint = cfg.model.features_checkpoint
    try:
        trained = load_extractor(checkpoint)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.features_checkpoint={checkpoint}: {error}") from error
    trained.recompute = extractor.recompute  # a setting of the training, not of the network
    return trained


def resumed_extractor(cfg: DictConfig, last: Path) -> Extractor:
    """Makes the network of a run to resume, with the sizes that its checkpoint has.

    Raises:
        ValueError: The configuration describes another network.
    """
    if cfg.extractor._target_ not in KNOWN:  # a class of the user's own, who named it again
        return instantiate(cfg.extractor)
    trained = load_extractor(last)
    if "features_checkpoint" in cfg.model:
        trained.recompute = cfg.extractor.get("recompute", 0)
        return trained
    settings = {key: cfg.extractor.get(key) for key in trained.hparams}
    settings["network"] = trained.network
    settings["level_norm"] = trained.hparams["level_norm"]
    own = cfg.extractor._target_.rpartition(".")[2] == type(trained).__name__
    if not own or settings != trained.hparams:
        raise ValueError(
            f"{cfg.run_dir}/config.yaml: extractor is not the network in {last}: they belong to "
            "different runs. Get both files of the run again"
        )
    # The weights come from the checkpoint. The file of the first ones may be gone.
    first = {"weights": None} if "weights" in cfg.extractor else {}
    return instantiate(cfg.extractor, **first)


def make_data(cfg: DictConfig, extractor: Extractor, can_replay: bool = False) -> SegmentationData:
    """Makes the data of a training.

    Args:
        cfg: Configuration of the training.
        extractor: The network, which decides the pooling matrices and the stored features.
        can_replay: Whether the trainer can replay steps from a CUDA graph.

    Raises:
        ValueError: Features of an extractor in training were to be stored.
    """
    make: Any = instantiate(cfg.data, _partial_=True)
    if "clicks" in cfg.model:
        return make(num_levels=len(extractor.level_channels), neighbours=True)
    if "head" not in cfg.model:
        flat = can_replay and cfg.model.cuda_graph
        return make(num_levels=len(extractor.level_channels), flat=flat)
    if cfg.model.cache_features and cfg.model.end_to_end:
        raise ValueError(
            "model.cache_features=true stores what a frozen extractor gives, and "
            "model.end_to_end=true trains it: choose one"
        )
    return make(frozen=FrozenFeatures(extractor) if cfg.model.cache_features else None)


def make_module(cfg: DictConfig, extractor: Extractor, data: SegmentationData) -> BaseModule:
    """Makes the module that is trained.

    Args:
        cfg: Configuration of the training.
        extractor: The network.
        data: The data, which decides classes and class weights.
    """
    settings = {key: value for key, value in cfg.model.items() if key not in _NOT_FOR_THE_MODULE}
    make: Any = instantiate(settings, _partial_=True)
    if "clicks" in cfg.model:
        return make(extractor=extractor, no_subject=numbers_of_sets(cfg, data))
    if "head" not in cfg.model:
        weights = class_weights(cfg, data)
        num_classes = [len(names) for names in data.label_spaces]
        return make(extractor=extractor, num_classes=num_classes, class_weights=weights)
    names = head_classes(data.layout)
    return make(
        extractor=extractor,
        num_classes=len(names),
        class_names=names,
        class_weights=class_weights(cfg, data),
    )


def numbers_of_sets(cfg: DictConfig, data: SegmentationData) -> list[int]:
    """Finds the numbers of the label spaces of `model.no_subject`.

    Raises:
        ValueError: The data is no mixture with these sets.
    """
    names = list(getattr(data.layout, "layouts", {}))
    if unknown := [name for name in cfg.model.no_subject if name not in names]:
        raise ValueError(
            f"model.no_subject: {', '.join(map(str, unknown))} is not in the data's sets: "
            f"{', '.join(names) or 'it has no sets'}"
        )
    return [names.index(name) for name in cfg.model.no_subject]


def class_weights(cfg: DictConfig, data: SegmentationData) -> Tensor | None:
    """Computes the weights of the classes of all label spaces.

    Returns:
        (K,) weights; None for equal ones.

    Raises:
        ValueError: There is no such way of weighting.
        DataError: Files of the data set cannot be used.
    """
    kind = cfg.model.class_weights
    if kind not in ("equal", "frequency"):
        raise ValueError(f"model.class_weights={kind}: choose equal or frequency")
    if kind == "equal":
        return None
    data.prepare_data()  # reports all bad files before the labels are counted
    return rarity(data.class_shares())


def warn_of_slow_bf16(trainer: pl.Trainer) -> None:
    """Warns if the processor only emulates the precision that the trainer uses."""
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and trainer.precision.startswith("bf16") and bf16_instructions("cpu") == "none":
        rank_zero_warn(
            f"this processor has no instructions for {trainer.precision} and takes far longer than "
            "in float32: train with trainer.precision=32-true"
        )


_TEXT = (
    "name", "run_dir", "resume", "prepared", "run_id", "group", "data.root", "data.cache_dir",
    "model.features_checkpoint", "extractor.weights", "logger.project", "logger.name",
    "logger.group", "search.study", "search.storage",
)  # fmt: skip


@command("train", text=_TEXT)
def main(cfg: DictConfig) -> float | None:
    """Composes the configuration of a new or a resumed run, or of a job of a sweep, and trains."""
    hydra_config = HydraConfig.get()
    # As it stands: the name of a run to resume may look like an interpolation.
    runtime: Any = OmegaConf.to_container(hydra_config.runtime, resolve=False)
    with removed_if_empty(Path(runtime["output_dir"])):
        return _main(cfg, hydra_config)


def _main(cfg: DictConfig, hydra_config: Any) -> float | None:
    overrides = list(hydra_config.overrides.task)
    if cfg.resume is not None:
        if in_multirun():
            raise ValueError("resume= continues one run: give it without -m")
        cfg = resumed_config(Path(cfg.resume).absolute(), overrides)
        return train(cfg, resume=True).get(cfg.optimized_metric)
    if cfg.prepared is not None:
        cfg = prepared_config(Path(cfg.prepared).absolute(), overrides)
        return train(cfg).get(cfg.optimized_metric)

    OmegaConf.set_struct(cfg, False)
    cfg.run_dir = hydra_config.runtime.output_dir
    cfg.run_id = uuid.uuid4().hex[:8]
    if in_multirun() and cfg.group is None:
        cfg.group = Path(hydra_config.sweep.dir).name
    # If one process of a ddp run fails, Lightning kills them all. The sweep has to survive that.
    apart = in_multirun() and cfg.trainer.devices != 1
    run = partial(train_apart, command=_COMMAND) if apart else train
    if cfg.search:
        return instantiate(cfg.search).run_trial(cfg, run)
    return run(cfg).get(cfg.optimized_metric)


if __name__ == "__main__":
    main()
