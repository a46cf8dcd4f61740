"""How the configuration of a run is written and read again, wherever the run is."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from softfeat.training.run_config import (
    default_cache,
    override,
    prepared_config,
    read_config,
    resolved,
    save_config,
)
from tests.helpers.paths import CONF
from tests.helpers.trainings import tiny_run

NAMES = [
    "plain",
    "two words",
    "a=b",
    "a,b",
    "[a]",
    "{a: b}",
    "#1",
    "it's",
    'say "a"',
    "${run_dir}",
    "${a",
    r"\${a}",
    "back\\slash\\",
    "größe ✓",
    "~",
    "null",
    "a: b",
    "%d*?",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_the_command_line(name: str) -> None:
    parsed = OverridesParser.create().parse_override(override("resume", f"/x/{name}"))
    assert OmegaConf.create({"resume": parsed.value()}).resume == f"/x/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_run_may_have_any_name_and_move(name: str, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / name
    save_config(tiny_run(tmp_path / "photos", run), run / "config.yaml")
    run.rename(moved)
    for _ in range(2):  # and once more, when it has been saved in its new place
        cfg = prepared_config(moved, [])
        save_config(cfg, moved / "config.yaml")
        plain = resolved(cfg)
        assert str(plain.run_dir) == str(moved)
        assert str(plain.callbacks.last.dirpath) == f"{moved}/checkpoints"
        assert str(plain.data.root) == str(tmp_path / "photos")
        assert str(run) not in (moved / "config.yaml").read_text().replace(str(moved), "")
    again = tmp_path / "again"
    moved.rename(again)
    assert resolved(prepared_config(again)).callbacks.last.dirpath == f"{again}/checkpoints"


def test_a_saved_value_is_resolved_and_stays_as_it_is(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {
            "run_dir": str(tmp_path),
            "name": "a",
            "text": r"\${name}",
            "folders": ["${run_dir}/${name}", "${run_dir}", "${name}"],
        }
    )
    save_config(cfg, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert OmegaConf.to_container(read_config(tmp_path / "config.yaml")) == {
        "run_dir": str(tmp_path),
        "name": "a",
        "text": r"\${name}",
        "folders": ["${run_dir}/a", "${run_dir}", "a"],
    }
    save_config(read_config(tmp_path / "config.yaml"), tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == text


def test_the_default_cache_is_that_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    value = OmegaConf.load(CONF / "data" / "default.yaml")
    for folder in (None, "/elsewhere"):
        if folder is not None:
            monkeypatch.setenv("SOFTFEAT_CACHE", folder)
        else:
            monkeypatch.delenv("SOFTFEAT_CACHE", raising=False)
        assert value.cache_dir == default_cache()
    assert default_cache() == "/elsewhere"
