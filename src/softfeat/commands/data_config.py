"""The data to score a checkpoint on: as in its training, except for what the user sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from softfeat.models.checkpoints import read_checkpoint, run_directory
from softfeat.training.run_config import checked_config, resolved

# Another data set keeps these: they belong to the network or the machine.
_AS_TRAINED = ("image_size", "superpixels", "batch_size", "num_workers", "cache_dir")


def keys_below(key: str, overrides: Sequence[str]) -> list[str]:
    """Finds the dotted keys below `key` that a command line sets.

    >>> keys_below("data", ["data=folder", "data.root=x", "+data.seed=1", "split=val"])
    ['root', 'seed']
    """
    keys = (override.partition("=")[0].lstrip("+") for override in overrides)
    return [each.removeprefix(f"{key}.") for each in keys if each.startswith(f"{key}.")]


def data_config(given: Any, by_hand: Sequence[str], checkpoint: Path) -> Any:
    """Combines the data of the training with the settings of the command line.

    Args:
        given: Complete configuration of another data set, or single keys to change.
        by_hand: Dotted keys of `given` that were set on the command line.
        checkpoint: File of the checkpoint. The data of its training are read from its run
            directory, or for weights from their header.

    Returns:
        Complete configuration of the data.

    Raises:
        ValueError: No data set is given, and the checkpoint is not in a run directory. Or the
            configuration of the run is not safe (see `checked_config`).
    """
    directory = run_directory(checkpoint)
    if directory is not None:
        trusted = [f"data.{key}" for key in by_hand]
        if "_target_" in given:  # another data set: only plain values of the run are used
            trusted += [f"data.{key}" for key in ("_target_", "layout", "augmentation")]
        run: Any = resolved(checked_config(directory / "config.yaml", trusted, "data")).data
    else:
        about = read_checkpoint(checkpoint).get("about", {})
        run = OmegaConf.create({})
        for key in ("image_size", "superpixels.count"):
            if f"data.{key}" in about:
                value = about[f"data.{key}"]
                # Only numbers: anything else could be an interpolation or an object to make.
                if not all(type(n) is int for n in (value if isinstance(value, list) else [value])):
                    raise ValueError(
                        f"{checkpoint}: about: data.{key} is not made of whole numbers: export the "
                        "weights again, or get them again"
                    )
                OmegaConf.update(run, key, value)
    if "_target_" not in given and "_target_" not in run:
        raise ValueError(
            f"{checkpoint} is not in a run directory, so choose the data to score it on: "
            "data=NAME data.root=FOLDER data.image_size=[H,W]"
        )
    if "_target_" in given:
        config = OmegaConf.merge(given, {k: v for k, v in run.items() if k in _AS_TRAINED})
    else:
        config = run.copy()
    for key in by_hand:
        OmegaConf.update(config, key, OmegaConf.select(given, key))
    return config
