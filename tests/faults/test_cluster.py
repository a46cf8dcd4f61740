"""Verdicts on photos that a cluster segments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs ray: make install")

from faults.cases import Outcome
from faults.cluster import FAULTS, Cluster, _Trial

BAD = "crashes.png"


@pytest.fixture
def trial(tmp_path: Path) -> _Trial:
    trial = _Trial(tmp_path, "a process is killed", np.random.default_rng(0), 1)
    for number in range(24):
        (trial.output / str(number)).mkdir(parents=True)
        summary = {"photo": f"{number}.png", "files": {}}
        (trial.output / str(number) / "summary.json").write_text(json.dumps(summary))
    trial._look()
    return trial


def statuses(**errors: str) -> dict[str, dict[str, Any]]:
    good: dict[str, dict[str, Any]] = {f"{number}.png": {} for number in range(24)}
    return good | {name: {"error": text} for name, text in errors.items()}


def test_all_is_well(trial: _Trial) -> None:
    outcome = trial._verdict(statuses(), None)
    assert (outcome["verdict"], outcome["values"]["lost"]) == ("used", 0)
    named = trial._verdict(statuses(**{BAD: "its process died"}), BAD)
    assert (named["verdict"], named["values"]["bad photos named"]) == ("reported", 1)
    assert trial._verdict(statuses(), BAD)["verdict"] == "unclear"


def test_what_is_lost(trial: _Trial) -> None:
    assert trial._verdict(statuses(**{"3.png": "why"}), None)["detail"].endswith("3.png")
    (trial.output / "5" / "summary.json").unlink()
    outcome = trial._verdict(statuses(), None)
    assert (outcome["verdict"], outcome["values"]["lost"]) == ("lost", 1)


def test_what_is_done_twice(trial: _Trial) -> None:
    file = trial.output / "7" / "summary.json"
    text = file.read_text()
    file.unlink()
    trial._look()
    file.write_text(text)
    trial._look()
    outcome = trial._verdict(statuses(), None)
    assert (outcome["verdict"], outcome["values"]["done twice"]) == ("wrong", 1)


def test_a_row_for_each_fault() -> None:
    part = Cluster(2, 60)
    outcomes = [
        Outcome(case.name, case.fault, "used", values={"photos": 24, "lost": turn})
        for turn, case in enumerate(part.cases(0))
    ]
    summary = part.summary([*outcomes[:-1], Outcome("x", next(iter(FAULTS)), "hang")])
    assert [row["fault"] for row in summary["rows"]] == list(FAULTS)
    assert (summary["rows"][0]["times tried"], summary["rows"][0]["hangs"]) == (3, 1)
    assert summary["rows"][0]["lost"] == 6
    assert summary["failed"] == 1
