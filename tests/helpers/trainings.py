"""Configurations of trainings that take seconds."""

from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf


def compose_train(*overrides: str) -> DictConfig:
    """The configuration of a training, as the command line would compose it."""
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    OmegaConf.set_struct(cfg, False)
    return cfg


# A network, photos and superpixels small enough for many trainings.
TINY = (
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "data.image_size=[32,32]",
    "data.superpixels.count=16",
    "data.num_workers=0",
    "extractor.widths=[8,16]",
    "extractor.blocks=[1,1]",
    "extractor.dim=8",
)


def tiny_run(root: Path, run_dir: Path, *overrides: str) -> DictConfig:
    """A training of two epochs of three steps on a small folder."""
    return compose_train(
        "experiment=softfeat_camvid",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        f"run_dir={run_dir}",
        "run_id=abc",
        *TINY,
        "data.steps_per_epoch=3",
        "trainer.max_epochs=2",
        *overrides,
    )


def tiny_hard_run(
    root: Path, run_dir: Path, checkpoint: Path | None, *overrides: str
) -> DictConfig:
    """A training of a head, two epochs of three steps, on a small folder."""
    return compose_train(
        "experiment=hardseg_camvid",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        f"run_dir={run_dir}",
        f"model.features_checkpoint={checkpoint or 'null'}",
        "run_id=abc",
        *TINY,
        "data.batch_size=2",
        "data.steps_per_epoch=3",
        "trainer.max_epochs=2",
        "model.warmup_steps=0",
        "model.optimizer.lr=0.05",
        *overrides,
    )
