"""The data to score a checkpoint on: what is asked for, and in all else as in its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from softfeat.models.checkpoints import read_checkpoint, run_directory

# What a network was trained for and a machine can do is not a matter of the data set.
_AS_TRAINED = ("image_size", "superpixels", "batch_size", "num_workers", "cache_dir")


def keys_below(key: str, overrides: Sequence[str]) -> list[str]:
    """Dotted keys below `key` that a command line sets.

    >>> keys_below("data", ["data=folder", "data.root=x", "split=val"])
    ['root']
    """
    keys = (override.partition("=")[0] for override in overrides)
    return [each.removeprefix(f"{key}.") for each in keys if each.startswith(f"{key}.")]


def data_config(given: Any, by_hand: Sequence[str], checkpoint: Path) -> Any:
    """The data to score on.

    Args:
        given: a whole configuration where another data set was chosen, else keys to change.
        by_hand: dotted keys of it that were set on the command line.
        checkpoint: file; what it was trained on is looked for in its run directory, or, of weights,
            in what they say of themselves.

    Raises:
        ValueError: no data set given, and no run directory around the checkpoint.
    """
    directory = run_directory(checkpoint)
    if directory is not None:
        run: Any = OmegaConf.load(directory / "config.yaml").data
    else:
        about = read_checkpoint(checkpoint).get("about", {})
        run = OmegaConf.create({})
        for key in ("image_size", "superpixels.count"):
            if f"data.{key}" in about:
                OmegaConf.update(run, key, about[f"data.{key}"])
    if "_target_" not in given and "_target_" not in run:
        raise ValueError(
            f"{checkpoint} lies in no run directory, so say what to score it on: "
            "data=NAME data.root=FOLDER data.image_size=[H,W]"
        )
    if "_target_" in given:
        config = OmegaConf.merge(given, {k: v for k, v in run.items() if k in _AS_TRAINED})
    else:
        config = run.copy()
    for key in by_hand:
        OmegaConf.update(config, key, OmegaConf.select(given, key))
    return config
