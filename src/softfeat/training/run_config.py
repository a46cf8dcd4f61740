"""The configuration of a run directory: how it is written, and what of it is believed.

A run directory stays valid when it is moved, because its `config.yaml` names places relative to
`${run_dir}`. It may also come from a stranger. So nothing that this file names is imported or
called, except for the names in `KNOWN`. Nothing in it is computed, and it chooses no place to write
outside of the run directory. What the user sets on the command line is not restricted.
"""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from softfeat.atomic import replaced

# The classes and functions that a file may name in `_target_`: those of conf/ and the optimisers of
# torch. A test compares the list with conf/.
KNOWN = frozenset(
    {
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.LearningRateMonitor",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.RichProgressBar",  # of older runs
        "pytorch_lightning.strategies.DDPStrategy",
        "softfeat.data.datamodule.SegmentationData",
        "softfeat.data.dataset.Augmentation",
        "softfeat.data.layouts.ADE20K",
        "softfeat.data.layouts.Cityscapes",
        "softfeat.data.layouts.Folder",
        "softfeat.data.layouts.Mixture",
        "softfeat.data.scenes.Scenes",
        "softfeat.imaging.slic.Superpixels",
        "softfeat.models.extractor.BottleneckExtractor",
        "softfeat.models.extractor.EfficientNetExtractor",
        "softfeat.models.test_time_views.Views",
        "softfeat.ops.npair.npair_loss",
        "softfeat.ops.pixels.sample_pixels",
        "softfeat.sweeps.search.Search",
        "softfeat.training.callbacks.average.MovingAverage",
        "softfeat.training.callbacks.finite.StopOnNonFinite",
        "softfeat.training.callbacks.guided_filter.GuidedFilter",
        "softfeat.training.callbacks.pictures.FeaturePictures",
        "softfeat.training.callbacks.pictures.SegmentationPictures",
        "softfeat.training.callbacks.progress.Progress",
        "softfeat.training.callbacks.throughput.Throughput",
        "softfeat.training.clicks.ClickModule",
        "softfeat.training.hard_segmentation.HardSegmentationModule",
        "softfeat.training.loggers.make_wandb_logger",
        "softfeat.training.sampled_pixels.SampledPixelModule",
        "softfeat.training.soft_features.SoftFeatureModule",
        "torch.optim.ASGD",
        "torch.optim.Adadelta",
        "torch.optim.Adafactor",
        "torch.optim.Adagrad",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.Adamax",
        "torch.optim.NAdam",
        "torch.optim.RAdam",
        "torch.optim.RMSprop",
        "torch.optim.Rprop",
        "torch.optim.SGD",
    }
)
# Arguments of these that name a place to write. A file may only name places below `${run_dir}`.
_PLACES = ("default_root_dir", "dirpath", "folder", "save_dir")
# Arguments of a logger that a file may set. Others can send results to somebody else's account.
_LOGGER = "softfeat.training.loggers.make_wandb_logger"
_LOGGER_ARGUMENTS = ("save_dir", "project", "id", "name", "group", "mode", "tags", "notes")
_HYDRA = ("_target_", "_partial_", "_convert_")  # keys with a meaning to Hydra that a file may use
_SECTIONS = ("trainer", "callbacks", "model", "extractor", "data")
_REQUIRED = ("name", "seed", "optimized_metric", *_SECTIONS)

# What a resumed run may change. The rest is in the optimiser's state or decides the result.
_CHANGEABLE = ("trainer.", "data.root", "data.cache_dir", "data.num_workers", "logger.mode")
_RUN_DIR = "${run_dir}"
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # `\${` is text
_MOST_BYTES = 2**17  # a config.yaml has a few thousand
_MOST_DEPTH = 30
_STARTS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_CACHE = ("superpixels", "packed", "features", "scenes-*")  # what a cache folder holds


def escaped(text: str) -> str:
    r"""Writes a text so that OmegaConf reads it as it is, and not as an interpolation.

    >>> print(escaped("photos of ${USER}"))
    photos of \${USER}
    """
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def override(key: str, value: str | Path) -> str:
    r"""Writes a setting of the command line for any value, as Hydra reads it.

    >>> print(override("resume", "it's a=b"))
    resume="it's a=b"
    """
    # Within quotes, a backslash is special only before a quote and at the end.
    text = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + m[2].replace('"', r"\""), escaped(str(value)))
    return f'{key}="{text}"'


def resolved(cfg: DictConfig) -> DictConfig:
    """Copies a configuration with all values resolved.

    A text that contains `${` becomes a `Path`. As a text it would be read as an interpolation.
    """
    result = OmegaConf.create(_mapped(OmegaConf.to_container(cfg, resolve=True), _path_if_special))
    assert isinstance(result, DictConfig)
    return result


def _path_if_special(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "${" in value else value


def _escaped_if_text(value: Any) -> Any:
    return escaped(str(value)) if isinstance(value, str | Path) else value


def _mapped(node: Any, function: Any) -> Any:
    """Applies a function to the leaves of a tree."""
    if isinstance(node, dict):
        return {key: _mapped(value, function) for key, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, function) for value in node]
    return function(node)


def save_config(cfg: DictConfig, path: Path) -> None:
    """Writes a configuration with all values resolved, except for places below `${run_dir}`.

    Args:
        cfg: Configuration with the key `run_dir`; not changed.
        path: YAML file; its folder is made if needed.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    values = OmegaConf.to_container(cfg, resolve=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        OmegaConf.save(OmegaConf.create(_relative(raw, values, str(cfg.run_dir))), partial)


def save_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Writes resolved settings as YAML.

    Args:
        settings: Nested settings, plain or as OmegaConf containers.
        path: File in an existing folder.
    """
    plain = OmegaConf.to_container(OmegaConf.create(dict(settings)))
    with replaced(path) as partial:
        OmegaConf.save(OmegaConf.create(_mapped(plain, _escaped_if_text)), partial)


def _relative(raw: Any, value: Any, run_dir: str) -> Any:
    """Takes resolved values, but keeps `${run_dir}` at their beginning."""
    if isinstance(raw, dict) and isinstance(value, dict):
        return {key: _relative(raw[key], each, run_dir) for key, each in value.items()}
    if isinstance(raw, list) and isinstance(value, list):
        return [_relative(*pair, run_dir) for pair in zip(raw, value, strict=True)]
    relative = isinstance(raw, str) and raw.startswith(_RUN_DIR) and isinstance(value, str)
    if relative and value.startswith(run_dir):
        return _RUN_DIR + escaped(value.removeprefix(run_dir))
    return _mapped(value, _escaped_if_text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of plain values, without tags and aliases.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give the directory of a training run")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for token in yaml.scan(text):
            depth += isinstance(token, _STARTS) - isinstance(token, _ENDS)
            if depth > _MOST_DEPTH:
                raise ValueError(f"it is nested more than {_MOST_DEPTH} times")
            # A tag can name an object. An alias of an alias of ... fills the memory.
            if isinstance(token, yaml.TagToken | yaml.AnchorToken | yaml.AliasToken):
                raise ValueError(f"line {token.start_mark.line + 1} has a tag, anchor or alias")
        content = yaml.load(text, Loader=get_yaml_loader())  # based on SafeLoader
        if not isinstance(content, dict):
            raise ValueError("it has no keys")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} is not a configuration that softfeat wrote: {error}. Get the run again"
        ) from error
    return content


def read_config(path: Path) -> DictConfig:
    """Reads the configuration of a run as data: nothing in it is computed or may be called.

    Args:
        path: File `config.yaml` of a run directory.

    Returns:
        Configuration. `run_dir` is the folder of the file. Other values are plain, or below
        `${run_dir}`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has an interpolation other than `${run_dir}`, or is damaged.
    """
    content = read_yaml(path) | {"run_dir": escaped(str(path.parent))}
    for key, value in _leaves(content):
        rest = value if key == "run_dir" else value.removeprefix(_RUN_DIR)
        if value == "???" or _INTERPOLATION.search(rest):
            raise ValueError(
                f"{path}: {key}: {_short(value)} is not a value. Interpolations in a file of a run "
                "directory are not resolved, because it may come from a stranger: write the value "
                "there"
            )
    try:
        cfg = OmegaConf.create(content)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error}: get the run again") from error
    assert isinstance(cfg, DictConfig)
    return cfg


def _leaves(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Lists all texts of a tree, with their dotted keys."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _leaves(key)  # a key may not be an interpolation either
            yield from _leaves(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, str):
        yield where, node


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def untrusted(node: Any, where: str = "") -> dict[str, str]:
    """Finds the settings of a configuration that only the user may choose.

    Args:
        node: Plain tree of settings.
        where: Dotted key of the tree.

    Returns:
        The reason for each setting, by dotted key.

    >>> list(untrusted({"loss": {"_target_": "os.system"}}))
    ['loss._target_']
    """
    found: dict[str, str] = {}
    if isinstance(node, list):
        for index, value in enumerate(node):
            found |= untrusted(value, f"{where}.{index}")
    if not isinstance(node, dict):
        return found
    target = node.get("_target_")
    for key, value in sorted(node.items(), key=lambda item: item[0] != "_target_"):
        here = f"{where}.{key}" if where else str(key)
        reason = None
        if key == "_target_" and not (isinstance(value, str) and value in KNOWN):
            reason = "is none of the classes and functions that configurations of softfeat name"
        elif str(key).startswith("_") and str(key).endswith("_") and key not in _HYDRA:
            reason = f"is none of {', '.join(_HYDRA)}, the special keys that a run may have"
        elif target is not None and key in _PLACES and not _below_run_dir(value):
            reason = f"is not below {_RUN_DIR}, where the files of a run belong"
        elif target is not None and key == "filename" and set(str(value)) & set("/\\"):
            reason = "is not the name of a file without a folder"
        elif target == _LOGGER and key not in (*_HYDRA, *_LOGGER_ARGUMENTS):
            reason = "can send results elsewhere"
        if reason is not None:
            found[here] = f"{_short(value)} {reason}"
        found |= untrusted(value, here)
    return found


def _below_run_dir(place: Any) -> bool:
    if not isinstance(place, str) or not f"{place}/".startswith(f"{_RUN_DIR}/"):
        return False
    return ".." not in Path(place).parts


def checked_config(
    path: Path, by_hand: Collection[str] = (), section: str | None = None
) -> DictConfig:
    """Reads the configuration of a run that is about to be instantiated.

    Args:
        path: File `config.yaml` of a run directory.
        by_hand: Dotted keys that the user sets on the command line. They are not checked.
        section: The part that is going to be instantiated; None for all of it.

    Returns:
        Configuration, as `read_config`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It names something to call that is not in `KNOWN`, or another setting that only
            the user may choose; or the run directory has links to the outside.
    """
    cfg = read_config(path)
    content = OmegaConf.to_container(cfg)
    assert isinstance(content, dict)
    for key, reason in untrusted({section: content.get(section)} if section else content).items():
        if not any(f"{key}.".startswith(f"{each}.") for each in by_hand):
            raise ValueError(
                f"{path}: {key}: {reason}. A run directory may come from a stranger, so this is "
                f"refused. If the run is yours, set the key yourself: {key}=..."
            )
    if not isinstance(cfg.get("data"), DictConfig):
        raise ValueError(f"{path} has no settings below data: get the run again")
    refuse_links(path.parent)
    _choose_cache(cfg, path.parent, by_hand)
    return cfg


def refuse_links(run_dir: Path) -> None:
    """Checks that what is written to a run directory stays there.

    Raises:
        ValueError: A file or folder in it is a link to something outside.
    """
    inside = run_dir.resolve()
    for path in run_dir.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside of the run directory, where a "
                "command would write: replace the link by a copy"
            )


def default_cache() -> str:
    """Names the cache folder of this machine, as `conf/data/default.yaml` does."""
    return os.environ.get("SOFTFEAT_CACHE", ".cache/softfeat")


def _choose_cache(cfg: DictConfig, run_dir: Path, by_hand: Collection[str]) -> None:
    """Replaces a cache that is not the user's own by the default one.

    The run's cache is used if it is a cache already and not in the run directory. So nobody but the
    user made it. Scenes are written below `data.root`, which is then the cache, too.
    """
    layout = cfg.data.get("layout")
    scenes = isinstance(layout, DictConfig) and str(layout.get("_target_")).endswith(".Scenes")
    for key in ("cache_dir", "features_dir", *(["root"] if scenes else [])):
        if f"data.{key}" in by_hand or cfg.data.get(key) is None:
            continue
        folder = Path(str(cfg.data[key]))
        own = any(any(folder.glob(name)) for name in _CACHE)
        if own and not folder.resolve().is_relative_to(run_dir.resolve()):
            continue
        if key == "features_dir":  # then in the cache
            cfg.data[key] = None
            continue
        cfg.data[key] = escaped(default_cache())
        if folder != Path(default_cache()):
            print(
                f"{run_dir}/config.yaml: data.{key}: {folder} is no cache of this machine, so "
                f"{default_cache()} is used; data.{key}=FOLDER chooses another",
                file=sys.stderr,
            )


def resumed_config(run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """Reads the configuration of an earlier run, wherever its directory is now.

    Args:
        run_dir: Directory of the run.
        overrides: `key=value` settings to change; `resume=...` and `prepared=...` are ignored.

    Raises:
        FileNotFoundError: The run has no checkpoint to resume from.
        ValueError: An override sets something that a resumed run has to keep, or the configuration
            is not safe (see `checked_config`).
    """
    if not (run_dir / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(
            f"nothing to resume: no {run_dir}/checkpoints/last.ckpt. Start the training again; "
            "it may use the same run_dir"
        )
    return prepared_config(run_dir, overrides)


def prepared_config(run_dir: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads the configuration of a run that may not have started yet; see `resumed_config`."""
    parsed = [OverridesParser.create().parse_override(text) for text in overrides]
    changes = {o.key_or_group: o for o in parsed if o.key_or_group not in ("resume", "prepared")}
    path = run_dir / "config.yaml"
    repeatable = untrusted(read_yaml(path))  # what a file may not choose, the user may
    for key, change in changes.items():
        if change.is_delete() or not (key.startswith(_CHANGEABLE) or key in repeatable):
            keys = ", ".join(key.rstrip(".") for key in _CHANGEABLE)
            raise ValueError(
                f"{change.input_line}: a resumed run can only change {keys}; start a new one"
            )
    cfg = checked_config(path, changes)
    if missing := [key for key in _REQUIRED if key not in cfg]:
        raise ValueError(
            f"{path} is not the configuration of a training: it has no {', '.join(missing)}. Get "
            "the run again"
        )
    for key, change in changes.items():
        OmegaConf.update(cfg, key, change.value(), force_add=True)
    return cfg
