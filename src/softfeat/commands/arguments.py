"""Names of files as arguments of Hydra commands: taken as text, or an error that says how."""

import re
import shlex
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException


def quoted(text: str) -> str:
    r"""Puts quotes around a text, so that Hydra takes it as it is.

    >>> print(quoted('a="b".jpg'))
    "a=\"b\".jpg"
    """
    escaped = re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + match[2].replace('"', '\\"'), text)
    return f'"{escaped}"'.replace("${", r"\${")


def as_texts(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Quotes the values of some keys that Hydra would take for numbers, dates, true or null.

    Args:
        arguments: Arguments of a Hydra command.
        keys: Keys whose values are names. `input=null` stays null, because it has a meaning.

    Raises:
        ValueError: Hydra cannot read an argument, or takes a name for several. The message says how
            to quote it.
    """
    sweeps = any(argument in ("-m", "--multirun") for argument in arguments)
    return [
        _as_text(argument, keys, sweeps) if "=" in argument.lstrip("-") == argument else argument
        for argument in arguments
    ]


def _as_text(argument: str, keys: Sequence[str], sweeps: bool) -> str:
    key, _, text = argument.partition("=")
    better = f"{key}={quoted(text)}"
    advice = f"put quotes around it, twice: {shlex.quote(better)}"
    try:
        override: Override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise ValueError(f"{argument} is no value that Hydra can read; {advice}") from error
    if key not in keys or (text in ("", "null") and key == "input"):
        return argument
    if override.is_sweep_override():
        if sweeps:
            return argument
        raise ValueError(f"{argument} is a list of values to Hydra; for one name, {advice}")
    value = override.value()
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise ValueError(f'{argument}: put quotes around names in a list: \'{key}=["1","2"]\'')
    return better if value is None or isinstance(value, int | float) else argument


def take_as_texts(*keys: str) -> None:
    """Changes the arguments of this process as `as_texts` does."""
    sys.argv[1:] = as_texts(sys.argv[1:], keys)
