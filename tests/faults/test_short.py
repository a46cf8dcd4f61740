"""The short form of a part, which `make faults` tries in full."""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run_module

SHORT = {"corpus": ["count=40"]}  # the other parts take longer than a test may


@pytest.mark.slow
@pytest.mark.parametrize("part", SHORT)
def test_nothing_is_lost(part: str, tmp_path: Path) -> None:
    folders = [f"work={tmp_path / 'work'}", f"output={tmp_path}"]
    result = run_module("faults", f"part={part}", *SHORT[part], *folders)
    file = tmp_path / f"faults_{part}.json"
    assert file.is_file(), result.stderr
    content = json.loads(file.read_text())
    assert content["failed"] == 0, content["tables"]
    assert result.returncode == 0, result.stderr
