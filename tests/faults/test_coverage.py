import json
from pathlib import Path
from typing import Any

import pytest

from faults.coverage import main, summarise


def report(covered: int) -> dict[str, Any]:
    counts = {"num_statements": 10, "covered_lines": 9}
    none = counts | {"num_branches": 0, "covered_branches": 0}
    files = {
        "src/softfeat/ops/a.py": counts | {"num_branches": 8, "covered_branches": covered},
        "src/softfeat/ops/b.py": counts | {"num_branches": 2, "covered_branches": 2},
        "src/softfeat/cli.py": none,
    }
    return {"files": {name: {"summary": summary} for name, summary in files.items()}}


def test_packages_are_summed_up() -> None:
    result = summarise(report(covered=6))
    ops = next(row for row in result["rows"] if row["package"] == "`ops`")
    assert (ops["lines"], ops["branches"], ops["covered branches"]) == (20, 10, "80.0 %")
    own = next(row for row in result["rows"] if row["package"] == "`softfeat`")
    assert own["covered branches"] == ""
    assert result["branches"] == 80
    with pytest.raises(ValueError, match="make coverage"):
        summarise({"files": {}})


@pytest.mark.parametrize(("covered", "status"), [(6, 1), (7, 0)])
def test_too_little_is_a_failure(covered: int, status: int, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report(covered)))
    assert main(file, tmp_path / "out") == status
    result = json.loads((tmp_path / "out" / "faults_coverage.json").read_text())
    assert result["branches"] == 10 * covered + 20
