"""Tables for the terminal and for Markdown documents."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from softfeat.names import printable


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Prints names and values as a table of two columns."""
    table = Table("", "", title=_text(title), show_header=False)
    for name, value in rows.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(_text(name), _text(shown))
    Console().print(table)


def _text(text: str) -> Text:
    """The text as it is: rich would take [x] in a file name for markup."""
    return Text(printable(text, keep="\n"))


def print_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Prints metrics by name, without those of single classes, which would fill pages."""
    print_table(title, {k: v for k, v in sorted(metrics.items()) if "/iou/" not in k})


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Formats rows with equal keys as a Markdown table.

    >>> print(markdown_table([{"way": "a|b", "s": 1}]))
    | way | s |
    | --- | --- |
    | a/b | 1 |
    """
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    cells = ([str(value).replace("|", "/") for value in row.values()] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])
