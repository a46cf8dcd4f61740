"""Names as arguments of Hydra commands."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from softfeat.commands.arguments import as_texts, quoted

KEYS = ("input", "output", "checkpoint")


def value_of(override: str) -> object:
    """What the configuration gets from an argument."""
    return OmegaConf.create(
        {"input": OverridesParser.create().parse_override(override).value()}
    ).input


@pytest.mark.parametrize(
    "name",
    [
        "2024_06_01",
        "123",
        "1e5",
        "null",
        "true",
        "1.10",
        "007",
        "nan",
        "-1",
        "a.jpg",
        "NULL",
        "-.5",
    ],
)
def test_names_that_look_like_numbers_are_text(name: str) -> None:
    (argument,) = as_texts([f"output={name}"], KEYS)
    assert value_of(argument) == name


def test_other_arguments_stay() -> None:
    others = ["layers=3", "-m", "--config-dir", "x", "input=null", "input=", "input=[a,b]", "~seed"]
    assert as_texts(others, KEYS) == others
    assert as_texts(["-m", "input=a,b"], KEYS) == ["-m", "input=a,b"]


@pytest.mark.parametrize(
    "name", ["a=b.jpg", "a,b.jpg", "it's.jpg", "photo (1).jpg", "naïve.jpg", 'say "x".jpg', "~"]
)
def test_the_error_says_how_to_quote(name: str) -> None:
    with pytest.raises(ValueError, match="put quotes around it") as raised:
        as_texts([f"input={name}", "seed=1"], KEYS)
    (argument,) = shlex.split(str(raised.value).rpartition(": ")[2])
    assert value_of(argument) == name


def test_other_keys_get_the_advice_as_well() -> None:
    with pytest.raises(ValueError, match="put quotes around it"):
        as_texts(["select.point=[1,2"], KEYS)


def test_numbers_in_lists_need_quotes() -> None:
    with pytest.raises(ValueError, match="in a list"):
        as_texts(["input=[2024_06_01]"], KEYS)


@settings(max_examples=15)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0$")))
@example("${a}.jpg")
@example("ends with \\")
@example('a\\"b')
def test_quotes_keep_a_name(name: str) -> None:
    assert value_of(f"input={quoted(name)}") == name
