"""Printed names change nothing on a terminal, and shortened names fit a file system."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softfeat.names import folded, printable, shortened

NAMES = st.one_of(
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1),
    st.binary(min_size=1).map(lambda b: b.replace(b"/", b"").replace(b"\0", b"")).map(os.fsdecode),
)


@given(NAMES)
def test_what_is_printed_is_text_in_one_line(name: str) -> None:
    text = printable(name)
    assert text.encode("utf-8").decode("utf-8") == text
    assert len(text.splitlines()) <= 1
    dangerous = {c for c in text if unicodedata.category(c).startswith("C")} - {"\u200c", "\u200d"}
    assert not dangerous


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("naïve 猫 [bold] %s 👩‍👩‍👧.jpg", "naïve 猫 [bold] %s 👩‍👩‍👧.jpg"),
        ("\x1b[31mred\x07\n.jpg", r"\x1b[31mred\x07\n.jpg"),
        ("gpj.\u202e", r"gpj.\u202e"),
        (os.fsdecode(b"\xff.jpg"), r"\xff.jpg"),
        ("\x9b2J\u2028", r"\x9b2J\u2028"),
    ],
)
def test_names_are_shown_as_they_are_where_that_is_safe(name: str, text: str) -> None:
    assert printable(name) == text


def test_some_characters_may_stay() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(NAMES, NAMES, st.integers(10, 255))
def test_short_names_stay_and_long_ones_differ(name: str, other: str, longest: int) -> None:
    short = shortened(name, longest)
    assert len(os.fsencode(short)) <= longest
    assert (short == name) == (len(os.fsencode(name)) <= longest)
    assert (shortened(other, longest) == short) == (name == other)


def test_a_name_is_cut_between_characters() -> None:
    short = shortened("猫" * 80)
    assert short.startswith("猫" * 60)
    assert len(short.encode()) <= 200


@given(NAMES)
def test_case_and_composition_make_no_difference(name: str) -> None:
    assert folded(folded(name)) == folded(name)
    assert folded(unicodedata.normalize("NFD", name)) == folded(name)
