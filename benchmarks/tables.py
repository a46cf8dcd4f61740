"""How results are shown: as tables in Markdown and on the terminal."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from softfeat.tables import markdown_table

Ratio = Mapping[str, float | None]

_STATISTICS = {  # columns by their keys in a result
    "median": "median",
    "q1": "lower quartile",
    "q3": "upper quartile",
    "min": "min",
    "max": "max",
}
NOT_REACHED = "not reached"
_WIDTH = 100  # columns of the terminal


def size_text(sizes: Iterable[int]) -> str:
    """Joins sizes: `224x320`."""
    return "x".join(map(str, sizes))


def ratio_rows(ratios: Iterable[tuple[Mapping[str, str], Ratio]]) -> list[dict[str, str]]:
    """Makes a table with a column for every statistic that occurs.

    Args:
        ratios: Pairs of the first cells of a row and the statistics of the ratio: any of `median`,
            `q1`, `q3`, `min` and `max`. None stands for a quality that was not reached.

    Returns:
        Rows of equal keys. A cell is empty where a ratio lacks the statistic.
    """
    pairs = list(ratios)
    keys = [key for key in _STATISTICS if any(key in ratio for _, ratio in pairs)]
    return [
        {**labels, **{_STATISTICS[key]: _ratio_cell(ratio, key) for key in keys}}
        for labels, ratio in pairs
    ]


def _ratio_cell(ratio: Ratio, key: str) -> str:
    if key not in ratio:
        return ""
    value = ratio[key]
    return NOT_REACHED if value is None else f"{value:.1f}"


def _rows_of_ratios(result: Mapping[str, Any]) -> list[dict[str, str]]:
    return ratio_rows(({"ratio": name}, ratio) for name, ratio in result["ratios"].items())


def markdown(result: Mapping[str, Any]) -> str:
    """Formats a result as a section in Markdown; `benchmarks/README.md` explains its fields."""
    lines = [f"### {result['title']}", "", markdown_table(result["rows"])]
    for title, rows in result.get("tables", {}).items():
        lines += ["", f"{title}:", "", markdown_table(rows)]
    if result["ratios"]:
        lines += ["", markdown_table(_rows_of_ratios(result))]
    conditions = {**result["settings"], **result["machine"]}
    lines += ["", "; ".join(f"{k}: {v}" for k, v in conditions.items()) + "."]
    return "\n".join(lines) + "\n"


def show(result: Mapping[str, Any]) -> None:
    """Prints the tables of a result, at most 100 columns wide."""
    tables = {result["title"]: result["rows"], **result.get("tables", {})}
    if result["ratios"]:
        tables["Ratios"] = _rows_of_ratios(result)
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    console = Console(width=width, markup=False, highlight=False)
    for title, rows in tables.items():
        console.print(_terminal_table(title, rows))


def _terminal_table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Makes a table, transposed where it is too wide and that makes it narrower."""
    grid = [list(map(str, cells)) for cells in (rows[0], *(row.values() for row in rows))]
    transposed = [list(column) for column in zip(*grid, strict=True)]
    if _WIDTH < _width(grid) > _width(transposed):
        grid = transposed
    header, *body = grid
    table = Table(*header, title=title)
    for line in body:
        table.add_row(*line)
    return table


def _width(grid: Sequence[Sequence[str]]) -> int:
    """Columns that a table takes when no cell is wrapped."""
    columns = list(zip(*grid, strict=True))
    return sum(max(map(len, column)) for column in columns) + 3 * len(columns) + 1
