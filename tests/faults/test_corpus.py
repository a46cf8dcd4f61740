from pathlib import Path

import numpy as np
import pytest

from faults.corpus import Corpus, _compare, _message
from faults.labelled import RULES as SETS
from faults.pictures import RULES, Odd
from faults.processes import Ended

GREY = np.full((2, 3, 3), 90, np.uint8)


def said(text: str, code: int = 1) -> Ended:
    return Ended(code, 1.0, "", text)


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (said("error: a/pic7.png: truncated picture; replace the file"), "reported"),
        (said("error: pic7.png is truncated"), "unclear"),
        (said("error: a file is truncated; replace it"), "unclear"),
        (said("", 0), "lost"),
        (said("pic7.photo is left out: rename it", 0), "reported"),
    ],
)
def test_messages_name_the_file_and_a_remedy(ended: Ended, verdict: str) -> None:
    assert _message(ended, "pic7")[0] == verdict


@pytest.mark.parametrize(
    ("odd", "verdict"),
    [
        (Odd(Path("a"), GREY), "used"),
        (Odd(Path("a"), GREY + 1), "wrong"),
        (Odd(Path("a"), GREY + 1, tolerance=1), "used"),
        (Odd(Path("a"), GREY[:1]), "wrong"),
        (Odd(Path("a"), None), "wrong"),
        (Odd(Path("a"), GREY + 9, may_differ=True), "used"),
    ],
)
def test_pictures_are_compared_with_the_right_ones(odd: Odd, verdict: str) -> None:
    assert _compare(GREY, odd)[0] == verdict


def test_every_rule_is_tried_before_any_is_tried_twice() -> None:
    rules = RULES | SETS
    cases = Corpus(1000, 60).cases(0)
    assert len({case.name for case in cases}) == len(cases) == 1000
    assert {case.settings["rule"] for case in cases[: len(rules)]} == set(rules)
    assert [c.name for c in cases] != [c.name for c in Corpus(1000, 60).cases(1)]
    assert [c.name for c in Corpus(10, 60).cases(0)] == [c.name for c in cases[:10]]


def test_a_photo_and_a_set_are_tried(tmp_path: Path) -> None:
    part = Corpus(1000, 300)
    by_rule = {case.settings["rule"]: case for case in reversed(part.cases(0))}
    for rule, verdict in (("truncated png", "reported"), ("label RGB", "reported")):
        folder = tmp_path / rule
        folder.mkdir()
        outcome = part.attempt(by_rule[rule], 0, folder)
        assert outcome.verdict == verdict, outcome.detail
