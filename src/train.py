"""Trains: python -m src.train experiment=NAME [key=value ...], or resume=RUN_DIR."""

import json
import time
import uuid
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.utils.cli import print_table, readable_errors, register_resolvers
from src.utils.loggers import RunCSVLogger, finish_wandb

register_resolvers()


def resumed_config(run_dir: Path, overrides: list[str]) -> DictConfig:
    """The configuration of an earlier run, with the overrides of this command on top.

    Raises:
        FileNotFoundError: nothing to resume there.
        ValueError: an override that chooses another config group; only values can change.
    """
    if not (run_dir / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(f"nothing to resume: no {run_dir}/checkpoints/last.ckpt")
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    for override in overrides:
        key, _, _ = override.partition("=")
        if key == "experiment" or OmegaConf.is_dict(OmegaConf.select(cfg, key)):
            raise ValueError(f"{override}: a resumed run keeps its {key}; only values can change")
    changes = [o for o in overrides if not o.startswith("resume=")]
    cfg.merge_with_dotlist([*changes, f"run_dir={run_dir}"])
    return cfg


def train(cfg: DictConfig, resume: bool = False) -> dict[str, float]:
    """Runs one training and its test.

    Args:
        cfg: configuration, resolved here.
        resume: continue from `checkpoints/last.ckpt` of `cfg.run_dir`.

    Returns:
        The metrics of the run, as in `metrics.json`.
    """
    OmegaConf.resolve(cfg)
    run_dir = Path(cfg.run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    pl.seed_everything(cfg.seed, verbose=False)

    module = instantiate(cfg.model)
    data = instantiate(cfg.data, level_sizes=module.extractor.level_sizes(cfg.data.image_size))
    csv = RunCSVLogger(str(run_dir))
    if resume:
        csv.resume_at(torch.load(last, map_location="cpu", weights_only=True)["global_step"])
    trainer = instantiate(
        cfg.trainer,
        callbacks=list(instantiate(cfg.callbacks).values()),
        logger=[csv, instantiate(cfg.logger)] if cfg.get("logger") else csv,
    )
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run_dir / "config.yaml")

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
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    if trainer.is_global_zero:
        text = json.dumps(metrics, indent=1, sort_keys=True)
        (run_dir / "metrics.json").write_text(text + "\n", encoding="utf-8")
        print_table(f"{cfg.name}: {run_dir}", dict(sorted(metrics.items())))
    finish_wandb()
    return metrics


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> float | None:
    """Composes the configuration of a new or a resumed run and trains."""
    hydra_config = HydraConfig.get()
    if cfg.resume:
        cfg = resumed_config(Path(cfg.resume), list(hydra_config.overrides.task))
        resume = True
    else:
        OmegaConf.set_struct(cfg, False)
        cfg.run_dir = hydra_config.runtime.output_dir
        cfg.run_id = uuid.uuid4().hex[:8]
        resume = False
    return train(cfg, resume).get(cfg.optimized_metric)


if __name__ == "__main__":
    main()
