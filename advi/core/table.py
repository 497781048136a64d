"""A small table of named rows, printed in text and HTML."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import check_count, unknown

MAX_PRINTED_ROWS = 40
SHORT = 8  # rows of an array that is printed whole
ENDS = (3, 1)  # rows at either end of a longer one, and where there are many such arrays


@dataclass(frozen=True)
class Table:
    """Numbers in named columns, one named row for each scalar coordinate.

    Of more than 40 rows scalars and short arrays are printed first, then both ends of every longer
    array; of a sorted table both of its ends.

    Attributes
    ----------
    rows
        Names of the rows.
    columns
        Name of the column to its numbers, (n,).
    digits
        Significant digits that are printed.
    is_sorted
        Whether the rows are in the order of a column.

    Examples
    --------
    >>> import numpy as np
    >>> table = Table(("mu",), {"mean": np.array([1.5]), "sd": np.array([0.25])})
    >>> print(table)
        mean    sd
    mu   1.5  0.25
    >>> table["mu"]["sd"]
    0.25
    """

    rows: tuple[str, ...]
    columns: dict[str, NDArray[Any]]
    digits: int = 3
    is_sorted: bool = False

    def __getitem__(self, name: str) -> Any:
        """Return a column (n,) by its name, or a row as a dict by its name."""
        if name in self.columns:
            return self.columns[name]
        if name in self.rows:
            index = self.rows.index(name)
            return {column: float(values[index]) for column, values in self.columns.items()}
        raise KeyError(f"no column or row {name!r}; columns: {', '.join(self.columns)}")

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return row name to column name to number."""
        return {row: self[row] for row in self.rows}

    def _row(self, index: int) -> list[str]:
        numbers = (f"{values[index]:.{self.digits}g}" for values in self.columns.values())
        return [self.rows[index], *numbers]

    def _cells(self) -> list[list[str]]:
        lines = [[index] for index in range(len(self.rows))]
        if len(lines) > MAX_PRINTED_ROWS and not self.is_sorted:
            lines = by_array(self.rows)
        return [["", *self.columns], *cut(lines, self._row)]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in cells
        )

    def _repr_html_(self) -> str:
        return html_table(self._cells())


def largest(table: Table, sort: str | None, top: int | None) -> Table:
    """Return the rows of a table by a column, the largest first and NaN last, and of them the top.

    By "-mean" the smallest mean is first. Raises ValueError if there is no such column, or `top` is
    not a positive integer.

    Examples
    --------
    >>> table = Table(("a", "b", "c"), {"mean": np.array([1.0, 3.0, 2.0])})
    >>> largest(table, "mean", 2).rows, largest(table, "-mean", 1).rows
    (('b', 'c'), ('a',))
    """
    order = np.arange(len(table.rows))
    if sort is not None:
        column = str(sort).removeprefix("-")
        if column not in table.columns:
            raise ValueError(f"sort: {unknown('column', sort, table.columns)}")
        sign = 1 if str(sort).startswith("-") else -1
        order = np.argsort(sign * table.columns[column], kind="stable")
    if top is not None:
        check_count("top", top)
        order = order[:top]
    columns = {name: values[order] for name, values in table.columns.items()}
    rows = tuple(table.rows[index] for index in order)
    return Table(rows, columns, table.digits, table.is_sorted or sort is not None)


def by_array(names: Sequence[str]) -> list[list[int]]:
    """Return the rows of every printed line: one, or those that the line counts.

    Scalars and short arrays come first.

    Examples
    --------
    >>> [len(line) for line in by_array([*(f"x[{i}]" for i in range(10)), "tau"])]
    [1, 1, 1, 1, 4, 1, 1, 1]
    """
    arrays: dict[str, list[list[int]]] = {}
    for index, name in enumerate(names):
        arrays.setdefault(name.rpartition("[")[0] or name, []).append([index])
    lines = []
    for ends in ENDS:
        short = [array for array in arrays.values() if len(array) <= SHORT]
        long = [joined(array, ends) for array in arrays.values() if len(array) > SHORT]
        lines = list(chain(*short, *long))
        if len(lines) <= MAX_PRINTED_ROWS:
            break
    return lines


def joined(lines: Sequence[list[int]], ends: int) -> list[list[int]]:
    """Return lines of rows, those between both ends as one."""
    return [*lines[:ends], list(chain(*lines[ends:-ends])), *lines[-ends:]]


def cut(lines: Sequence[list[int]], row: Callable[[int], list[str]]) -> list[list[str]]:
    """Return the text of lines, each of one row or counting several; of many the middle counted.

    Examples
    --------
    >>> cut([[i] for i in range(1000)], lambda i: [f"x[{i}]", "0"])[19:22]
    [['x[19]', '0'], ['... 960 more', ''], ['x[980]', '0']]
    """
    if len(lines) > MAX_PRINTED_ROWS:
        lines = joined(lines, MAX_PRINTED_ROWS // 2)
    blank = [""] * (len(row(0)) - 1) if lines else []
    return [row(line[0]) if len(line) == 1 else [f"... {len(line)} more", *blank] for line in lines]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as an HTML table, the first row its header."""
    text = ""
    for index, row in enumerate(rows):
        tag = "td" if index else "th"
        text += f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
    return f"<table>{text}</table>"
