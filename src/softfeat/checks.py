"""Checks of settings. An error names the setting and the values that it takes."""

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any


def number(
    key: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Checks that a setting is a finite number in a range.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.
        low: Least value.
        high: Greatest value.
        above: Bound that the value has to exceed.
        below: Bound that the value has to stay below.

    Raises:
        ValueError: It is not.

    >>> number("data.augmentation.flip", 5, 0, 1)
    Traceback (most recent call last):
    ValueError: data.augmentation.flip=5: set it to a number, from 0 to 1
    """
    inside = _is_number(value, Real) and low <= value <= high
    inside = inside and (above is None or value > above) and (below is None or value < below)
    if not inside:
        raise _error(key, value, f"a number{_range(low, high, above, below)}")


def whole(key: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Checks that a setting is a whole number in a range.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.
        low: Least value.
        high: Greatest value.

    Raises:
        ValueError: It is not.

    >>> whole("data.batch_size", 0, 1)
    Traceback (most recent call last):
    ValueError: data.batch_size=0: set it to a whole number, 1 or more
    """
    if not (_is_number(value, Integral) and low <= value <= high):
        raise _error(key, value, f"a whole number{_range(low, high)}")


def whole_numbers(
    key: str, value: Any, low: float, high: float = math.inf, count: int | None = None
) -> None:
    """Checks that a setting is a list of whole numbers in a range.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.
        low: Least number.
        high: Greatest number.
        count: Length of the list; None for any length from 1.

    Raises:
        ValueError: It is not.

    >>> whole_numbers("data.image_size", 64, 16, count=2)
    Traceback (most recent call last):
    ValueError: data.image_size=64: set it to a list of 2 whole numbers, 16 or more
    """
    right = _is_list(value, count) and all(
        _is_number(each, Integral) and low <= each <= high for each in value
    )
    if not right:
        length = f"{count} " if count else ""
        raise _error(key, value, f"a list of {length}whole numbers{_range(low, high)}")


def flag(key: str, value: Any) -> None:
    """Checks that a setting is true or false.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, bool):
        raise _error(key, value, "true or false")


def text(key: str, value: Any, or_null: bool = False) -> None:
    """Checks that a setting is text, such as a path.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.
        or_null: Whether it may be null.

    Raises:
        ValueError: It is not.
    """
    if not (isinstance(value, str | Path) and str(value).strip()) and not (
        or_null and value is None
    ):
        raise _error(key, value, f"a name or path{' or null' * or_null}")


def one_of(key: str, value: Any, choices: Collection[Any]) -> None:
    """Checks that a setting is one of its choices.

    Args:
        key: Name of the setting, as a user writes it.
        value: Its value.
        choices: All values that it takes.

    Raises:
        ValueError: It is not.

    >>> one_of("data.balance", "odd", ["photos", "sqrt", "even"])
    Traceback (most recent call last):
    ValueError: data.balance=odd: choose photos, sqrt or even
    """
    if isinstance(value, bool) or not any(value == choice for choice in choices):
        *others, last = map(_shown, choices)
        names = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{key}={_shown(value)}: choose {names}")


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


def _is_list(value: Any, count: int | None) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return len(value) == count if count else len(value) > 0


def _range(low: float, high: float, above: float | None = None, below: float | None = None) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f", from {low} to {high}"
    limits = [f"{low} or more"] * math.isfinite(low) + [f"{high} or less"] * math.isfinite(high)
    limits += [f"above {above}"] * (above is not None) + [f"below {below}"] * (below is not None)
    return f", {' and '.join(limits)}" if limits else ""


def _error(key: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{key}={_shown(value)}: set it to {wanted}")


def _shown(value: Any) -> str:
    """Writes a value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)
