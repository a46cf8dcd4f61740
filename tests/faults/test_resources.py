from pathlib import Path

import pytest

from faults.processes import Ended
from faults.resources import SCENARIOS, Resources, judged


def test_each_scenario_is_tried_before_any_is_tried_twice() -> None:
    cases = Resources(3, 60).cases(0)
    assert len({case.name for case in cases}) == len(cases) == 3 * len(SCENARIOS)
    assert [case.settings["scenario"] for case in cases[: len(SCENARIOS)]] == list(SCENARIOS)


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (Ended(0, 1, "", ""), None),
        (Ended(1, 1, "", "error: the disk is full"), "reported"),
        (Ended(1, 1, "", "error: a list:\n- the disk is full"), "reported"),
        (Ended(1, 1, "", "the disk is not full\nerror: something"), "unclear"),
        (Ended(1, 1, "", "Traceback (most recent call last):\nOSError: full"), "crash"),
        (Ended(-7, 1, "", "full"), "crash"),
        (Ended(None, 1, "", "full"), "hang"),
    ],
)
def test_ends_are_judged(ended: Ended, verdict: str | None) -> None:
    outcome = judged(ended, "full")
    assert (outcome and outcome[0]) == verdict


def test_a_full_disk_is_tried_or_not_permitted(tmp_path: Path) -> None:
    part = Resources(1, 300)
    case = next(case for case in part.cases(0) if case.settings["scenario"] == "full disk: packed")
    outcome = part.attempt(case, 0, tmp_path)
    assert outcome.verdict in ("reported", "used", "not tried"), outcome.detail
