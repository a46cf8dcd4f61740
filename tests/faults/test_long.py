import json
from pathlib import Path

import numpy as np
import pytest

from faults.cases import Case, Outcome
from faults.long import Long, Recorder, level


@pytest.mark.parametrize(("growth", "is_level"), [(0.0, True), (0.5, True), (5.0, False)])
def test_growth_within_the_tolerance_is_level(growth: float, is_level: bool) -> None:
    rng = np.random.default_rng(0)
    measured = 100 + growth * np.linspace(0, 1.25, 1000) + 0.3 * rng.standard_normal(1000)
    value = level(measured.tolist(), 0.02)
    assert value["level"] is is_level
    assert value["low"] <= value["slope"] <= value["high"]


def test_the_start_does_not_count() -> None:
    measured = [float(n) for n in range(100)] + [100.0] * 400
    assert level(measured, 0)["level"]
    assert not level([*measured, *(100.0 + n for n in range(400))], 0)["level"]


def test_items_are_measured(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "measured.json"))
    opened = []
    for _ in range(3):
        opened.append((tmp_path / "x").open("w"))
        recorder.measure()
    recorder.write()
    for file in opened:
        file.close()
    measured = json.loads((tmp_path / "measured.json").read_text())
    files = measured["open files"]
    assert files == [files[0], files[0] + 1, files[0] + 2]
    assert len(measured["time"]) == len(measured["memory"]) == 3
    assert measured["memory"][0] > 10


def test_what_grows_is_a_failure() -> None:
    part = Long(5000, 500, 0.02, 60)
    assert [case.name for case in part.cases(0)] == ["5000 training steps", "500 photos"]
    values = {"memory": level([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.02)}
    summary = part.summary([Outcome("500 photos", "x", "grows", values=values)])
    assert summary["failed"] == 1
    assert summary["rows"][0]["level"] == "**no**"
    early = part.summary([Outcome("500 photos", "x", "ended early", "killed")])
    assert early["rows"] == [{"run": "500 photos", "error": "killed"}]
    assert early["failed"] == 1


@pytest.mark.parametrize(
    ("runs", "verdict", "count"),
    [
        (["time", ""], "level", 2),
        (["time", "time", "time", ""], "grows", 3),
        (["memory", ""], "grows", 1),
        (["memory, time", ""], "grows", 1),
    ],
)
def test_a_time_must_grow_in_three_runs(
    runs: list[str],
    verdict: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def attempt(part: Long, case: Case, seed: int, folder: Path) -> Outcome:
        assert folder.is_dir()
        growing = runs[len(tried)]
        tried.append(folder)
        return Outcome(case.name, case.fault, "grows" if growing else "level", growing)

    monkeypatch.setattr(Long, "_attempt_once", attempt)
    outcome = Long(5, 5, 0.02, 60, runs=3).attempt(Case("5 photos", "5 photos"), 0, tmp_path)
    assert (outcome.verdict, len(set(tried)), outcome.failed) == (
        verdict,
        count,
        verdict == "grows",
    )
