"""A small table of named rows, printed in text and HTML."""

import html
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

    def _cells(self) -> list[list[str]]:
        shown = list(range(len(self.rows)))
        if len(shown) > MAX_PRINTED_ROWS:
            half = MAX_PRINTED_ROWS // 2
            shown = [*shown[:half], -1, *shown[-half:]]
        cells = [["", *self.columns]]
        for index in shown:
            if index < 0:
                cells.append(
                    [f"... {len(self.rows) - MAX_PRINTED_ROWS} more", *("" for _ in self.columns)]
                )
            else:
                numbers = (f"{values[index]:.{self.digits}g}" for values in self.columns.values())
                cells.append([self.rows[index], *numbers])
        return cells

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in cells
        )

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        rows = [_html_row("th", head), *(_html_row("td", row) for row in body)]
        return f"<table>{''.join(rows)}</table>"


def _html_row(tag: str, row: list[str]) -> str:
    cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    return f"<tr>{cells}</tr>"
