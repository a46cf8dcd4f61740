"""The benchmark of many photos, with commands that only pretend to work."""

import sys
from collections.abc import Sequence

import pytest

from benchmarks import many_photos as module
from benchmarks.many_photos import Run, many_photos
from benchmarks.tables import markdown


def test_long_runs_and_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line per photo, as `softfeat` prints it, and other lines."""
    calls = []

    def command(arguments: Sequence[str]) -> list[str]:
        calls.append(list(arguments))
        program = "import sys, time\nfor n in range(6): print(f'{n + 1}/6 photo', file=sys.stderr)"
        return [sys.executable, "-c", f"{program}\nprint('6 done', file=sys.stderr)"]

    monkeypatch.setattr(module, "_command", command)
    result = many_photos(2, 1, 2, 6, 6, 3)
    assert len(result["rows"]) == 10
    assert len(result["ratios"]) == 2
    assert [call[0] for call in calls[-2:]] == ["extract", "segment"]
    assert {call[-1] for call in calls if "--engine" in call} == {"ray"}
    assert "| command | photos | ms a photo |" in markdown(result | {"machine": {}})


def test_parts_of_a_long_run() -> None:
    finished = [1.0 + 0.1 * n for n in range(11)]
    memory = [(0.5, 9, 9), (1.5, 100_000_000, 300_000_000), (1.9, 50_000_000, 400_000_000)]
    rows = module._rows("extract", Run(finished, memory))
    assert rows[0]["photos"] == "1 to 2"
    assert rows[-1]["photos"] == "9 to 11"
    assert {row["ms a photo"] for row in rows} == {"100"}
    assert (rows[-1]["MB of the command"], rows[-1]["MB with its processes"]) == ("50", "400")


def test_a_command_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "_command", lambda _: [sys.executable, "-c", "raise SystemExit('no')"]
    )
    with pytest.raises(RuntimeError, match="extract failed: no"):
        module._watched(["extract"], 3)
