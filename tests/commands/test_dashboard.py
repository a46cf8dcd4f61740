import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import WorkspaceViewspec

from softfeat.commands import dashboard
from tests.helpers.commands import no_account, run_module
from tests.helpers.wandb_offline import OfflineRun, read


@pytest.fixture(scope="module")
def panels() -> dict[str, list[dict[str, Any]]]:
    """Return the panels of each section, as they would be sent to W&B."""
    view = dashboard.workspace("softfeat", "somebody")._to_model()
    text = view.spec.model_dump_json(by_alias=True, exclude_none=True)
    spec = WorkspaceViewspec.model_validate_json(text).model_dump(by_alias=True, exclude_none=True)
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def names(panels: list[dict[str, Any]]) -> Iterator[str]:
    """Return the keys that the panels of a section show, as regular expressions."""
    for panel in panels:
        config = panel["config"]
        yield from map(re.escape, config.get("metrics", []) + config.get("mediaKeys", []))
        if "metricRegex" in config:
            yield config["metricRegex"]


def has(node: Any, path: str) -> bool:
    for key in path.split("."):
        if key not in node:
            return False
        node = node[key]
    return True


def test_sections(panels: dict[str, list[dict[str, Any]]]) -> None:
    assert list(panels) == ["Training", "Segmentation", "Features", "System", "Sweeps"]
    shown = {name for section in panels.values() for name in names(section)}
    assert {"train/loss", "train/lr", "val/pair_auc", "val/iou/.*", "val/features"} <= shown
    for line in (p for section in panels.values() for p in section if "xAxis" in p["config"]):
        assert line["config"]["xAxis"] == "trainer/global_step"


def test_what_it_shows_is_logged(
    panels: dict[str, list[dict[str, Any]]], wandb_run: Path, hard_wandb_run: Path
) -> None:
    soft, hard = (
        {key for row in read(run / "wandb").history for key in row}
        for run in (wandb_run, hard_wandb_run)
    )
    for section in ("Training", "Segmentation", "Features", "System"):
        shown = list(names(panels[section]))
        assert shown
        for name in shown:
            assert any(re.fullmatch(name, key) for key in soft | hard), f"nothing logs {name}"
            if section in ("Features", "System"):
                assert any(re.fullmatch(name, key) for key in soft & hard), name
    assert "val/iou_table" in hard
    assert "val/iou_table" in str(panels["Segmentation"])


def test_sweeps_compare_what_a_run_has(
    panels: dict[str, list[dict[str, Any]]], wandb_run: Path
) -> None:
    logged: OfflineRun = read(wandb_run / "wandb")
    coordinates, comparer = panels["Sweeps"]
    assert comparer["viewType"] == "Run Comparer"
    accessors = [column["accessor"] for column in coordinates["config"]["columns"]]
    assert len(accessors) == 3
    for accessor in accessors:
        kind, _, path = accessor.partition(":")
        if kind == "config":  # W&B stores {"value": ...} below each key of the first level
            assert has(logged.config, path.replace(".value.", ".")), accessor
        else:
            assert has(logged.summary, path), accessor


def test_the_command_saves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Workspace] = []
    monkeypatch.setattr(dashboard, "has_credentials", lambda: True)
    monkeypatch.setattr(Workspace, "save", lambda self: saved.append(self))
    dashboard.main.__wrapped__(OmegaConf.create({"project": "photos", "entity": "us"}))
    assert [(w.entity, w.project) for w in saved] == [("us", "photos")]


def test_without_an_account_it_says_so_and_asks_nothing(tmp_path: Path) -> None:
    done = run_module("src.dashboard", env=no_account(tmp_path))
    assert done.returncode == 1
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("wandb_workspaces")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"\[dashboard\]"):
        dashboard.workspace("softfeat", "somebody")
