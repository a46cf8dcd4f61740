import ast

import pytest

from faults.mutator import changed, list_changes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = b - c", {"a = b + c"}),
        ("a = b <= c < d", {"a = b < c < d", "a = b <= c <= d"}),
        ("a = b and c", {"a = b or c"}),
        ("a = not b", {"a = b"}),
        ("a = True", {"a = False"}),
        ("a = 0.0", {"a = 1.0"}),
        ("a += b", {"a -= b"}),
        ("a = b in c", {"a = b not in c"}),
        ("a = b if c else d", {"a = b if not c else d"}),
        ("f(a)", {"pass"}),
        ("a = f(b, c=d, e=g)", {"a = f(b, e=g)", "a = f(b, c=d)"}),
        ("while a:\n    break", {"while a:\n    continue"}),
        ("if a:\n    b = c", {"if not a:\n    b = c"}),
        ("raise ValueError(f'{a + 1}')", {"pass"}),
    ],
)
def test_each_kind_of_change(before: str, after: set[str]) -> None:
    texts = {changed(before, number) for number in range(len(list_changes(before)))}
    assert texts == after


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1"""',
        "a: Literal[1]",
        "def f(a: Annotated[int, 1]) -> Literal[2]:\n    pass",
        "@cache(1)\ndef f():\n    pass",
        "if TYPE_CHECKING:\n    a = 1",
        "class A(Protocol):\n    a = 1",
        "a = f'{1 + 1}'",
    ],
)
def test_what_no_test_could_notice_stays(source: str) -> None:
    assert list_changes(source) == []


def test_a_change_keeps_its_key_when_other_lines_change() -> None:
    source = "def f(a):\n    return a + 1\n"
    moved = "b = c\n\n\n" + source
    assert [c.key for c in list_changes(source)] == [c.key for c in list_changes(moved)]
    assert [c.line for c in list_changes(moved)] == [5, 5]


def test_every_change_of_a_module_compiles() -> None:
    source = (
        "def f(a, b=1, *, c=2.0):\n    for x in a:\n        if x[1:] == -b:\n            continue\n"
    )
    texts = [changed(source, number) for number in range(len(list_changes(source)))]
    assert len(set(texts)) == len(texts)
    assert all(text != ast.unparse(ast.parse(source)) for text in texts)
    for text in texts:
        compile(text, "changed", "exec")
