"""Trains: python -m src.train experiment=NAME [key=value ...], or resume=RUN_DIR."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from softfeat.commands.cli import in_multirun, print_table, readable_errors, register_resolvers
from softfeat.models.flops import model_size
from softfeat.revision import revision
from softfeat.sweeps.jobs import train_apart
from softfeat.training.loggers import RunCSVLogger, finishes_wandb, log_settings
from softfeat.training.machine import bf16_instructions, machine
from softfeat.training.metrics_file import write_metrics

register_resolvers()


# What a resumed run may change; the rest is in the state of the optimiser or decides the result.
_CHANGEABLE = ("trainer.", "data.root", "data.cache_dir", "data.num_workers", "logger.mode")


def resumed_config(run_dir: Path, overrides: list[str]) -> DictConfig:
    """The configuration of an earlier run, wherever it lies now, with overrides on top.

    Raises:
        FileNotFoundError: nothing to resume there.
        ValueError: an override of something that a resumed run has to keep.
    """
    if not (run_dir / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(f"nothing to resume: no {run_dir}/checkpoints/last.ckpt")
    # "+key=value" adds a key to the configuration; here it means the same as "key=value".
    changes = [o.lstrip("+") for o in overrides if not o.startswith("resume=")]
    for change in changes:
        if not change.startswith(_CHANGEABLE):
            keys = ", ".join(key.rstrip(".") for key in _CHANGEABLE)
            raise ValueError(f"{change}: a resumed run can only change {keys}; start a new one")
    text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    old = OmegaConf.create(text).run_dir
    cfg = OmegaConf.create(text.replace(f" {old}", f" {run_dir}"))
    assert isinstance(cfg, DictConfig)
    cfg.merge_with_dotlist(changes)
    cfg.model.total_steps = cfg.trainer.max_epochs * cfg.data.steps_per_epoch
    return cfg


@finishes_wandb
def train(cfg: DictConfig, resume: bool = False) -> dict[str, float]:
    """Runs one training and its test.

    Args:
        cfg: configuration, resolved here.
        resume: continue from `checkpoints/last.ckpt` of `cfg.run_dir`.

    Returns:
        The metrics of the run, as in `metrics.json`.
    """
    OmegaConf.resolve(cfg)
    cfg.revision = revision()
    run_dir = Path(cfg.run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    first_process = getattr(rank_zero_only, "rank", 0) == 0
    if first_process and not resume and (run_dir / "metrics.csv").exists():
        raise ValueError(f"{run_dir} holds a run: continue it with resume=, or choose another")
    if first_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run_dir / "config.yaml")
        text = json.dumps(machine(), indent=1)
        (run_dir / "machine.json").write_text(text + "\n", encoding="utf-8")
        (run_dir / "error.txt").unlink(missing_ok=True)
    pl.seed_everything(cfg.seed, verbose=False)

    data = instantiate(cfg.data)
    if cfg.model.get("num_classes", 0) is None:  # as many as the data has
        cfg.model.num_classes = len(data.layout.class_names)
    # A resumed head goes on with the extractor it had, whatever has become of that file.
    kept = {"features_checkpoint": last} if resume and "features_checkpoint" in cfg.model else {}
    module = instantiate(cfg.model, **kept)
    csv = RunCSVLogger(str(run_dir))
    if resume and first_process:
        csv.resume_at(torch.load(last, map_location="cpu", weights_only=True)["global_step"])
    trainer = instantiate(
        cfg.trainer,
        callbacks=list(instantiate(cfg.callbacks).values()),
        logger=[csv, instantiate(cfg.logger)] if cfg.get("logger") else csv,
    )
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and trainer.precision.startswith("bf16") and bf16_instructions("cpu") == "none":
        rank_zero_warn(
            f"this processor has no instructions for {trainer.precision} and takes far longer than "
            "in float32: train with trainer.precision=32-true"
        )
    settings: Any = OmegaConf.to_container(cfg)
    log_settings(trainer.loggers, settings | {"machine": machine()})
    size = model_size(module, cfg.data.image_size)
    if not resume:
        for logger in trainer.loggers:
            logger.log_metrics(size, step=0)

    started = time.perf_counter()
    trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    seconds = time.perf_counter() - started
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}
    best = trainer.checkpoint_callback
    if best is not None and best.best_model_score is not None:
        metrics[best.monitor] = float(best.best_model_score)
    (tested,) = trainer.test(
        module,
        data,
        ckpt_path=run_dir / "checkpoints" / "best.ckpt",
        verbose=False,
        weights_only=True,
    )
    metrics |= tested
    metrics |= {
        "steps": trainer.global_step,
        "seconds/fit": seconds,
        "parameters": size["model/parameters"],
        "gflops": size["model/gflops"],
    }
    if first_process:
        write_metrics(run_dir / "metrics.json", metrics)
        shown = {key: value for key, value in sorted(metrics.items()) if "/iou/" not in key}
        print_table(f"{cfg.name}: {run_dir}", shown)
    return metrics


@hydra.main(config_path="pkg://softfeat.conf", config_name="train", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> float | None:
    """Composes the configuration of a new or a resumed run, or of a job of a sweep, and trains."""
    register_resolvers()  # a job's process may not have imported this file
    hydra_config = HydraConfig.get()
    if cfg.resume:
        if in_multirun():
            raise ValueError("resume= continues one run: give it without -m")
        cfg = resumed_config(Path(cfg.resume).absolute(), list(hydra_config.overrides.task))
        return train(cfg, resume=True).get(cfg.optimized_metric)
    if cfg.prepared:
        cfg = DictConfig(OmegaConf.load(Path(cfg.prepared) / "config.yaml"))
        return train(cfg).get(cfg.optimized_metric)

    OmegaConf.set_struct(cfg, False)
    cfg.run_dir = hydra_config.runtime.output_dir
    cfg.run_id = uuid.uuid4().hex[:8]
    if in_multirun() and cfg.group is None:
        cfg.group = Path(hydra_config.sweep.dir).name
    # Where one process of a ddp run fails, Lightning kills all of them; not the sweep, too.
    run = train_apart if in_multirun() and cfg.trainer.devices != 1 else train
    if cfg.search:
        return instantiate(cfg.search).run_trial(cfg, run)
    return run(cfg).get(cfg.optimized_metric)


if __name__ == "__main__":
    main()
