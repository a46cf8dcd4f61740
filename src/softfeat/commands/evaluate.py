"""Scores a checkpoint: python -m src.evaluate checkpoint=FILE [data=NAME ...] [split=NAME].

Soft features get their pair AUC, next to that of baselines without training, and a linear probe
trained on the train split. Hard segmentation gets the four scores, those of each class, and
pictures.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softfeat.checks import one_of, whole
from softfeat.commands.cli import command
from softfeat.commands.data_config import data_config, keys_below
from softfeat.data.datamodule import SPLITS
from softfeat.imaging.drawing import confusion_picture, save_picture
from softfeat.metrics.segmentation import segmentation_scores
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint, run_directory
from softfeat.models.extractor import extractor_of, load_extractor
from softfeat.models.test_time_views import ONE_VIEW, Views
from softfeat.tables import print_metrics
from softfeat.training.callbacks.worst import WorstPhotos
from softfeat.training.frozen import FrozenFeatures
from softfeat.training.hard_segmentation import (
    SCORES,
    HardSegmentationModule,
    head_classes,
    load_hard_segmentation,
)
from softfeat.training.metrics_file import write_metrics
from softfeat.training.run_config import resolved, save_settings
from softfeat.training.soft_features import SoftFeatureModule


def _trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        devices=1,  # one matrix, one writer
        **options,
    )


def linear_probe(checkpoint: Path, config: Any, steps: int) -> dict[str, float]:
    """Measures what a linear map of the frozen features knows about the classes.

    Args:
        checkpoint: Checkpoint of soft features.
        config: Configuration of the data; the probe is trained on its train split.
        steps: Training steps of 8 photos.

    Returns:
        The scores of the test split as `test/probe_miou` and so on.
    """
    trained = config.copy()
    trained.update(augmentation=None, variants=1, batch_size=8, steps_per_epoch=steps)
    extractor = load_extractor(checkpoint)
    with TemporaryDirectory() as folder:
        make: Any = instantiate(trained, _partial_=True)
        data = make(frozen=FrozenFeatures(extractor), features_dir=folder)
        names = head_classes(data.layout)
        probe = HardSegmentationModule(
            len(names),
            extractor,
            head="linear",
            optimizer=partial(torch.optim.AdamW, lr=3e-2),
            class_names=names,
        )
        trainer = _trainer(max_epochs=1, limit_val_batches=0)
        trainer.fit(probe, data)
        (tested,) = trainer.test(probe, data, verbose=False)
    return {f"test/probe_{name}": tested[f"test/{name}"] for name in SCORES}


def evaluate(
    checkpoint: Path,
    config: Any,
    split: str,
    output: Path,
    views: Views = ONE_VIEW,
    probe_steps: int = 0,
    worst: int = 8,
    seed: int = 0,
) -> dict[str, float]:
    """Scores a checkpoint of either system and writes the results.

    Args:
        checkpoint: File of the checkpoint.
        config: Complete configuration of the data.
        split: Split to score: train, val or test.
        output: Folder for `metrics.json` and pictures.
        views: Views of a photo over which the scores of hard segmentation are averaged.
        probe_steps: Training steps of the linear probe of soft features; 0 for none. Mixtures and
            data with a contrast class have no probe.
        worst: Number of photos on the sheet of the worst ones.
        seed: Random seed of the probe.

    Returns:
        The scores, with keys `<split>/...`.

    Raises:
        ValueError: The classes of the data are not those of the head.
    """
    pl.seed_everything(seed, verbose=False)
    config = config.copy()
    config.update(test_split=split, native_labels=True)
    make: Any = instantiate(config, _partial_=True)
    content = read_checkpoint(checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    about = {"checkpoint": str(checkpoint), "split": split, "views": asdict(views), "data": config}
    save_settings(about, output / "evaluation.yaml")
    if "hard_segmentation" in content:
        module = load_hard_segmentation(checkpoint, views)
        data = make()
        head_classes(data.layout, trained_for=module.class_names)
        trainer = _trainer(callbacks=[WorstPhotos(output / "worst.png", worst)])
        (tested,) = trainer.test(module, data, verbose=False)
        picture = confusion_picture(module.confusion, module.class_names)
        save_picture(picture, output / "confusion.png")
        _print_classes(module)
    else:
        extractor = extractor_of(content)
        data = make(num_levels=len(extractor.level_channels))
        soft = SoftFeatureModule(extractor, num_superpixels=config.superpixels.count)
        (tested,) = _trainer().test(soft, data, verbose=False)
        if probe_steps and data.layout.class_names and not data.layout.contrast:
            tested = {**tested, **linear_probe(checkpoint, config, probe_steps)}
    metrics = {f"{split}/{key.removeprefix('test/')}": value for key, value in tested.items()}
    write_metrics(output / "metrics.json", metrics)
    return metrics


def _print_classes(module: HardSegmentationModule) -> None:
    scores = segmentation_scores(module.confusion)
    shares = module.confusion.sum(1) / module.confusion.sum()
    table = Table("class", "IoU", "accuracy", "share of pixels")
    for name, iou, accuracy, share in zip(
        module.class_names, scores["iou"], scores["accuracy"], shares, strict=True
    ):
        table.add_row(Text(name), f"{iou:.3f}", f"{accuracy:.3f}", f"{share:.3f}")
    Console().print(table)


@command("evaluate", text=("checkpoint", "output", "data.root", "data.cache_dir"))
def main(cfg: DictConfig) -> None:
    """Evaluates and prints tables."""
    OmegaConf.set_struct(cfg, False)
    whole("probe_steps", cfg.probe_steps, 0)
    whole("worst", cfg.worst, 0)
    whole("seed", cfg.seed, 0, 2**32 - 1)
    one_of("split", cfg.split, SPLITS)
    checkpoint = checkpoint_file(cfg.checkpoint)
    read_checkpoint(checkpoint)
    overrides = HydraConfig.get().overrides.task
    cfg.data = data_config(cfg.data, keys_below("data", list(overrides)), checkpoint)
    cfg = resolved(cfg)
    # Shipped weights have no run directory.
    run = run_directory(checkpoint) or Path("outputs") / checkpoint.stem
    output = Path(cfg.output or run / "evaluation" / cfg.split)
    metrics = evaluate(
        checkpoint,
        cfg.data,
        cfg.split,
        output,
        instantiate(cfg.views),
        cfg.probe_steps,
        cfg.worst,
        cfg.seed,
    )
    print_metrics(f"{checkpoint}, {cfg.split} split: {output}", metrics)


if __name__ == "__main__":
    main()
