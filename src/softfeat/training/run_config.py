"""The configuration of a run, as a file that stays valid when the run directory is moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from softfeat.atomic import replaced

# What a resumed run may change. The rest is in the optimiser's state or decides the result.
_CHANGEABLE = ("trainer.", "data.root", "data.cache_dir", "data.num_workers", "logger.mode")
_RUN_DIR = "${run_dir}"


def save_config(cfg: DictConfig, path: Path) -> None:
    """Writes a configuration with all values resolved, except those that contain `${run_dir}`.

    Args:
        cfg: Configuration with the key `run_dir`; not changed.
        path: YAML file; its folder is made if needed.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        OmegaConf.save(OmegaConf.create(_relative(raw, resolved)), partial)


def _relative(raw: Any, resolved: Any) -> Any:
    """Takes resolved values, and raw ones where they are relative to the run directory."""
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _relative(raw[key], value) for key, value in resolved.items()}
    return raw if isinstance(raw, str) and _RUN_DIR in raw else resolved


def resumed_config(run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """Reads the configuration of an earlier run, wherever its directory is now.

    Args:
        run_dir: Directory of the run.
        overrides: `key=value` settings to change; `resume=...` is ignored.

    Raises:
        FileNotFoundError: The run has no checkpoint to resume from.
        ValueError: An override sets something that a resumed run has to keep.
    """
    if not (run_dir / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(
            f"nothing to resume: no {run_dir}/checkpoints/last.ckpt. Start the training again; "
            "it may use the same run_dir"
        )
    # "+key=value" adds a key to the configuration; here it means the same as "key=value".
    changes = [o.lstrip("+") for o in overrides if not o.startswith("resume=")]
    for change in changes:
        if not change.startswith(_CHANGEABLE):
            keys = ", ".join(key.rstrip(".") for key in _CHANGEABLE)
            raise ValueError(f"{change}: a resumed run can only change {keys}; start a new one")
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cfg.run_dir = str(run_dir)
    cfg.merge_with_dotlist(changes)
    return cfg
