"""`python -m src.NAME` in a checkout is `softfeat.commands.NAME`."""

from importlib import import_module

import pytest

from tests.helpers.paths import ROOT

NAMES = sorted(path.stem for path in (ROOT / "src").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shim_is_the_command(name: str) -> None:
    assert import_module(f"src.{name}").main is import_module(f"softfeat.commands.{name}").main


def test_there_are_shims() -> None:
    assert "train" in NAMES
