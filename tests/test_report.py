import json
import re
from pathlib import Path

import pytest

from src.report import collect, fill
from src.train import train
from tests.conftest import tiny_run


def test_the_readme_table_is_what_the_run_wrote(folder_root: Path, tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    metrics = train(tiny_run(folder_root, run, "name=tiny"))
    collect(run, results / "runs")
    readme = "before\n<!-- runs: tiny -->\nold\n<!-- end -->\nafter\n"
    filled = fill(readme, results)
    assert f"**{metrics['test/pair_auc']:.3f}**" in filled
    assert "old" not in filled
    assert filled.startswith("before\n<!-- runs: tiny -->")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert fill(filled, results) == filled


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics\.json"):
        collect(tmp_path, tmp_path / "results")


def test_the_readme_is_up_to_date() -> None:
    """Every figure in it comes from a file in docs/results."""
    readme = Path("README.md").read_text()
    assert fill(readme, Path("docs/results")) == readme
    assert re.search(r"<!-- runs: .+ -->", readme)
    assert re.search(r"<!-- benchmark: pooling -->", readme)
    for path in Path("docs/results/runs").glob("*.json"):
        assert json.loads(path.read_text())["metrics"]["steps"] > 0
