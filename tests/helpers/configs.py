"""Finds keys of a configuration that nothing reads."""

import inspect
import re
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tests.helpers.paths import CONF


def unread_keys(node: Any, sources: str, where: str = "") -> list[str]:
    """Keys next to a `_target_` that it does not take and that no command in `sources` reads."""
    unread = []
    if isinstance(node, dict):
        if "_target_" in node:
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            kinds = {p.kind for p in parameters.values()}
            known = set(parameters) | {"_target_", "_partial_", "_convert_"}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                keys = [f"{where}.{k}" for k in node if k not in known]
                unread += [key for key in keys if f"cfg{key}" not in sources]
        for key, value in node.items():
            unread += unread_keys(value, sources, f"{where}.{key}")
    return unread


def check_keys(cfg: DictConfig, sources: str) -> None:
    """Checks that something in `sources` or conf/ reads every key of a configuration."""
    cfg = OmegaConf.create({k: v for k, v in cfg.items() if k != "hydra"})
    plain = OmegaConf.to_container(cfg)
    assert not unread_keys(plain, sources)
    text = "".join(p.read_text() for p in CONF.rglob("*.yaml"))
    for key, value in plain.items():  # type: ignore[union-attr]
        if not isinstance(value, dict):
            read = rf"cfg\.{key}\b" in sources or re.search(
                rf"cfg\.{key}\b|\$\{{{key}\}}", sources + text
            )
            assert read, f"nothing reads {key}"
