import math
from typing import Any

import pytest

from softfeat import checks


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_numbers_in_their_range_pass(value: float) -> None:
    checks.number("key", value, 0, 1)


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, math.nan, math.inf, -math.inf, "0.5", None, True, [], {}]
)
def test_other_values_are_refused_with_the_key(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^a\.key=.*: set it to a number, from 0 to 1$"):
        checks.number("a.key", value, 0, 1)


def test_open_bounds() -> None:
    checks.number("key", 1e-9, above=0, below=1)
    for value in (0, 1):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            checks.number("key", value, above=0, below=1)


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None, [1], math.nan])
def test_whole_numbers(value: Any) -> None:
    checks.whole("key", 1, 1)
    with pytest.raises(ValueError, match="whole number, 1 or more"):
        checks.whole("key", value, 1)


@pytest.mark.parametrize("value", [1, "11", [], [1], [1, 0], [1, True], [1, 2.0], None])
def test_lists_of_whole_numbers(value: Any) -> None:
    checks.whole_numbers("key", [1, 2], 1, count=2)
    with pytest.raises(ValueError, match="list of 2 whole numbers, 1 or more"):
        checks.whole_numbers("key", value, 1, count=2)


@pytest.mark.parametrize("value", [0, 1, "true", None, []])
def test_flags(value: Any) -> None:
    checks.flag("key", False)
    with pytest.raises(ValueError, match="true or false"):
        checks.flag("key", value)


def test_choices_and_text() -> None:
    checks.one_of("key", "a", ("a", "b"))
    for value in ("c", None, [], 1, True):
        with pytest.raises(ValueError, match="choose a or b"):
            checks.one_of("key", value, ("a", "b"))
    checks.text("key", "a")
    checks.text("key", None, or_null=True)
    for value in (1, None, "", " ", [], True):
        with pytest.raises(ValueError, match="name or path"):
            checks.text("key", value)
