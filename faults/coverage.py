"""Sums up branch coverage: python -m faults.coverage REPORT [OUTPUT].

`make coverage` measures it first. REPORT is the JSON of the package coverage. The result is
OUTPUT/faults_coverage.json, in outputs/faults if OUTPUT is left out.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import show
from softfeat.atomic import replaced
from softfeat.revision import revision
from softfeat.training.machine import machine

WANTED = 90.0  # percent of the branches
_NUMBERS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def summarise(report: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a result from a report of the package coverage.

    Args:
        report: Content of its JSON, measured with branches.

    Returns:
        The fields of a result, see `benchmarks/README.md`, and `branches`, percent of all branches.

    Raises:
        ValueError: The report has no branches of the product.
    """
    packages: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_NUMBERS, 0))
    for name, file in report["files"].items():
        inside = name.replace("\\", "/").partition("softfeat/")[2].split("/")
        package = inside[0] if len(inside) > 1 else "softfeat"
        for number in _NUMBERS:
            packages[package][number] += file["summary"].get(number, 0)
    total = {number: sum(counts[number] for counts in packages.values()) for number in _NUMBERS}
    if not total["num_branches"]:
        raise ValueError("the report has no branches of softfeat: measure it with make coverage")
    rows = [_row(f"`{name}`", counts) for name, counts in sorted(packages.items())]
    return {
        "title": "Coverage by the tests",
        "rows": [*rows, _row("**all**", total)],
        "tables": {},
        "ratios": {},
        "settings": {"tests": "those not marked slow", "revision": revision()},
        "branches": round(100 * total["covered_branches"] / total["num_branches"], 2),
    }


def _row(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    def share(covered: str, number: str) -> str:
        return f"{100 * counts[covered] / counts[number]:.1f} %" if counts[number] else ""

    return {
        "package": name,
        "lines": counts["num_statements"],
        "covered lines": share("covered_lines", "num_statements"),
        "branches": counts["num_branches"],
        "covered branches": share("covered_branches", "num_branches"),
    }


def main(report: Path, output: Path = Path("outputs/faults")) -> int:
    """Writes and prints the result; returns the exit status, 1 if too little is covered."""
    result = summarise(json.loads(report.read_text("utf-8"))) | {"machine": machine()}
    show(result)
    output.mkdir(parents=True, exist_ok=True)
    with replaced(output / "faults_coverage.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["branches"] < WANTED:
        print(f"{result['branches']} % of the branches are covered, less than {WANTED:g} %")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
