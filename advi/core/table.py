"""A small table of named rows, printed in text and HTML."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

MAX_PRINTED_ROWS = 40


@dataclass(frozen=True)
class Table:
    """Numbers in named columns, one named row for each scalar coordinate.

    Attributes
    ----------
    rows
        Names of the rows.
    columns
        Name of the column to its numbers, (n,).
    digits
        Significant digits that are printed.

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
        return [["", *self.columns], *cut(len(self.rows), self._row)]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in cells
        )

    def _repr_html_(self) -> str:
        return html_table(self._cells())


def cut(num: int, row: Callable[[int], list[str]]) -> list[list[str]]:
    """Return rows of text by number, the middle ones of many replaced by one that counts them.

    Examples
    --------
    >>> cut(1000, lambda i: [f"x[{i}]", "0"])[19:22]
    [['x[19]', '0'], ['... 960 more', ''], ['x[980]', '0']]
    """
    if num <= MAX_PRINTED_ROWS:
        return [row(index) for index in range(num)]
    half = MAX_PRINTED_ROWS // 2
    top, bottom = (list(map(row, r)) for r in (range(half), range(num - half, num)))
    gap = [f"... {num - 2 * half} more", *[""] * (len(top[0]) - 1)]
    return [*top, gap, *bottom]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as an HTML table, the first row its header."""
    text = ""
    for index, row in enumerate(rows):
        tag = "td" if index else "th"
        text += f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
    return f"<table>{text}</table>"
