"""Checks of settings that no class of this project receives, before a training starts."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT
from omegaconf import DictConfig, OmegaConf

from softfeat.checks import flag, number, one_of, text, whole

_SECTIONS = (
    "extractor", "model", "model.optimizer", "data", "data.superpixels", "trainer", "callbacks",
)  # fmt: skip
_FLAGS = (
    "sync_batchnorm", "detect_anomaly", "benchmark", "inference_mode", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "barebones",
)  # fmt: skip
# Whole numbers of the trainer and their least values.
_WHOLE = {
    "max_epochs": 1,
    "min_epochs": 0,
    "min_steps": 0,
    "max_steps": -1,
    "num_nodes": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "reload_dataloaders_every_n_epochs": 0,
}
_OPTIONAL = ("min_epochs", "min_steps")
# Numbers of batches: a share of them, or how many.
_SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


def check_sections(cfg: DictConfig) -> None:
    """Checks that the parts of a configuration are there.

    Args:
        cfg: Configuration of a training.

    Raises:
        ValueError: One is missing, or is a single value.
    """
    for key in _SECTIONS:
        section = OmegaConf.select(cfg, key)
        if not isinstance(section, DictConfig):
            raise ValueError(
                f"{key}={section}: set the keys below it, such as those in conf/, instead"
            )


def check_settings(cfg: DictConfig) -> None:
    """Checks the settings of a training that Lightning or a later step would misunderstand.

    Args:
        cfg: Resolved configuration of a training.

    Raises:
        ValueError: A setting is missing, of the wrong kind or out of range.
    """
    for key in ("name", "run_dir"):
        text(key, cfg[key])
    for key in ("run_id", "group"):
        text(key, cfg[key], or_null=True)
    whole("seed", cfg.seed, 0, 2**32 - 1)
    # A photo with one superpixel has no pair.
    whole("data.superpixels.count", cfg.data.superpixels.count, 2, 32767)
    check_trainer(cfg.trainer, cfg.data.steps_per_epoch)
    for name, callback in cfg.callbacks.items():
        if callback is not None and not isinstance(callback, DictConfig):
            raise ValueError(
                f"callbacks.{name}={callback}: set its options, or callbacks.{name}=null to leave "
                "it out"
            )
    hard = "head" in cfg.model
    scores: tuple[str, ...]
    if hard:
        system, scores = "a head", ("loss", "miou", "pixel_accuracy", "class_accuracy", "fwiou")
    elif "clicks" in cfg.model:
        system, scores = "clicks", ("iou", *(f"iou_{n}" for n in range(6)))
    else:
        system = "soft features"
        scores = ("loss", "pair_auc", "equal_distance", "unequal_distance", "active_pairs")
    if hard:
        for key in ("cache_features", "end_to_end"):
            flag(f"model.{key}", cfg.model[key])
    if "features_checkpoint" in cfg.model:
        text("model.features_checkpoint", cfg.model.features_checkpoint, or_null=True)
    if "weights" in cfg.extractor:
        text("extractor.weights", cfg.extractor.weights, or_null=True)
    for key in ("root", "cache_dir"):
        text(f"data.{key}", cfg.data[key], or_null=key == "root")
    metric = str(cfg.optimized_metric)
    known = [f"val/{name}" for name in scores]
    if metric not in known and not (hard and metric.startswith("val/iou/")):
        raise ValueError(
            f"optimized_metric={metric}: there is no such score of {system}; choose "
            f"{', '.join(known)}"
        )
    if cfg.callbacks.get("best") is None:
        raise ValueError("callbacks.best=null: the test needs the best checkpoint; leave it on")
    for name in ("best", "last"):
        keeper = cfg.callbacks.get(name)
        if keeper is not None:  # other commands look for these files
            one_of(f"callbacks.{name}.filename", keeper.filename, (name,))
            one_of(
                f"callbacks.{name}.dirpath", str(keeper.dirpath), (f"{cfg.run_dir}/checkpoints",)
            )
            flag(f"callbacks.{name}.enable_version_counter", keeper.enable_version_counter)
    if cfg.callbacks.best.monitor != metric:
        raise ValueError(
            f"callbacks.best.monitor={cfg.callbacks.best.monitor}: set optimized_metric instead"
        )


def check_trainer(trainer: Mapping[str, Any], steps_per_epoch: int) -> None:
    """Checks the settings of Lightning's trainer.

    Args:
        trainer: Its arguments.
        steps_per_epoch: Steps of an epoch.

    Raises:
        ValueError: One is of the wrong kind or out of range, or the machine has no such device.
    """
    for name, low in _WHOLE.items():
        if name in trainer and not (trainer[name] is None and name in _OPTIONAL):
            whole(f"trainer.{name}", trainer[name], low)
    for name in _FLAGS:
        if trainer.get(name) is not None:
            flag(f"trainer.{name}", trainer[name])
    for name in _SHARES:
        if trainer.get(name) is not None:
            _share(f"trainer.{name}", trainer[name], least=0)
    if trainer.get("use_distributed_sampler", False) is not False:
        raise ValueError(
            "trainer.use_distributed_sampler: leave it false, the data module divides the photos"
        )
    interval = trainer.get("val_check_interval")
    if interval is not None:
        _share("trainer.val_check_interval", interval, least=1)
        if isinstance(interval, int) and interval > steps_per_epoch:
            raise ValueError(
                f"trainer.val_check_interval={interval}: set it to at most "
                f"data.steps_per_epoch={steps_per_epoch}"
            )
        if isinstance(interval, float) and interval == 0:
            raise ValueError("trainer.val_check_interval=0.0: set it above 0")
    if trainer.get("gradient_clip_val") is not None:
        number("trainer.gradient_clip_val", trainer["gradient_clip_val"], 0)
    if trainer.get("gradient_clip_algorithm") is not None:
        one_of("trainer.gradient_clip_algorithm", trainer["gradient_clip_algorithm"], _CLIPPING)
    if trainer.get("precision") is not None:
        one_of("trainer.precision", trainer["precision"], _PRECISIONS)
    _check_devices(trainer)


_CLIPPING = ("norm", "value")
_PRECISIONS = tuple(name for kind in get_args(_PRECISION_INPUT) for name in get_args(kind))


def _share(key: str, value: Any, least: int) -> None:
    """Checks a share of the batches (0.0 to 1.0) or a number of batches."""
    if isinstance(value, float):
        number(key, value, 0, 1)
    else:
        whole(key, value, least)


def _check_devices(trainer: Mapping[str, Any]) -> None:
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", "auto")
    one_of("trainer.accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps", "tpu"))
    gpus = torch.cuda.device_count()
    if accelerator == "cuda" and not gpus:
        raise ValueError("trainer.accelerator=cuda: there is no CUDA GPU; choose trainer=cpu")
    if accelerator == "gpu" and not gpus and not torch.backends.mps.is_available():
        raise ValueError(
            "trainer.accelerator=gpu: this machine has no GPU that torch can use. Train with "
            "trainer=cpu, or install a torch for your GPU"
        )
    if devices == "auto" or (isinstance(devices, str) and devices.replace(",", "").isdigit()):
        return
    for each in devices if not isinstance(devices, int | float | str | None) else [devices]:
        if devices != -1:
            whole("trainer.devices", each, 1 if devices is each else 0, 256)
    if isinstance(devices, int) and accelerator in ("gpu", "cuda") and devices > gpus:
        raise ValueError(f"trainer.devices={devices}: this machine has {gpus} GPUs")
