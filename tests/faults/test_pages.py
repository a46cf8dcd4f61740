"""Verdicts on pages that are open at once."""

import pytest

from faults.cases import Outcome
from faults.pages import Pages


def test_two_runs() -> None:
    abrupt = [case.settings["abrupt"] for case in Pages(8, 300, 0.2, 60).cases(0)]
    assert abrupt == [False, True]


@pytest.mark.parametrize(("verdict", "failed"), [("used", 0), ("grows", 1), ("crash", 1)])
def test_growth_and_errors_are_failures(verdict: str, failed: int) -> None:
    values = {"visits": 9, "before": 100.0, "after": 150.0, "grown": 0.5}
    summary = Pages(8, 300, 0.2, 60).summary([Outcome("a", "a", verdict, "why", values=values)])
    assert summary["failed"] == failed
    assert summary["rows"][0]["growth"] == "50%"
    assert summary["rows"][0]["errors"] == ("why" if verdict == "crash" else "none")
