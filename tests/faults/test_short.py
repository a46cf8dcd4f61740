"""The short form of all parts, which `make faults` tries in full."""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run_module

SHORT = {
    "kills": ["count=8"],
    "corpus": ["count=40"],
    "resources": ["count=3"],
    "long": ["part.steps=40", "part.photos=10", "part.tolerance=0.2"],
    "pages": ["part.seconds=10", "part.pages=4"],
    "cluster": ["count=3"],
    "mutants": ["count=6", "part.modules=[ops/distance.py,ops/npair.py]", "part.wanted=0.5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("part", SHORT)
def test_nothing_is_lost(part: str, tmp_path: Path) -> None:
    if part == "pages":
        pytest.importorskip("gradio", reason="needs gradio: make install")
    if part == "cluster":
        pytest.importorskip("ray", reason="needs ray: make install")
    folders = [f"work={tmp_path / 'work'}", f"output={tmp_path}"]
    result = run_module("faults", f"part={part}", *SHORT[part], *folders)
    file = tmp_path / f"faults_{part}.json"
    assert file.is_file(), result.stderr
    content = json.loads(file.read_text())
    assert content["failed"] == 0, content["tables"]
    assert result.returncode == 0, result.stderr
