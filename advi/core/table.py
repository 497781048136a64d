"""A small table of named rows, printed in text and HTML."""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import check_count, unknown

MAX_PRINTED_ROWS = 40
SHORT = 8  # rows of an array that is printed whole
PLAIN = 1e6  # below it numbers are printed without an exponent
CONSTANT_DIGITS = 6
MAX_PLACES = 6  # after the decimal point of small numbers
NEGLIGIBLE = 1e-9  # an error of so little, relative to the number, is rounding
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
        Significant digits that are printed of columns without an error.
    is_sorted
        Whether the rows are in the order of a column.
    errors
        Name of a column to that of its error or sd, which may be itself: both are printed to the
        place of the second significant digit of the error.

    Examples
    --------
    >>> import numpy as np
    >>> table = Table(("mu",), {"mean": np.array([1.5]), "sd": np.array([0.25])})
    >>> print(table)
        mean    sd
    mu   1.5  0.25
    >>> table["mu"]["sd"], len(table), list(table)
    (0.25, 1, ['mu'])
    >>> columns = {"mean": np.array([-0.00293, 3.131]), "sd": np.array([1.0, 0.0104])}
    >>> print(Table(("a", "b"), columns, errors={"mean": "sd", "sd": "sd"}))
        mean     sd
    a    0.0    1.0
    b  3.131  0.010
    """

    rows: tuple[str, ...]
    columns: dict[str, NDArray[Any]]
    digits: int = 3
    is_sorted: bool = False
    errors: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

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

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`, with the names of the rows as its index.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.columns, index=list(self.rows))

    def _row(self, index: int) -> list[str]:
        return [self.rows[index], *(self._cell(name, index) for name in self.columns)]

    def _cell(self, name: str, index: int) -> str:
        number = float(self.columns[name][index])
        if name not in self.errors:
            return rounded(number, self.digits)
        return to_error(number, float(self.columns[self.errors[name]][index]))

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
    return replace(table, rows=rows, columns=columns, is_sorted=table.is_sorted or sort is not None)


def rounded(number: float, digits: int) -> str:
    """Return a number to some significant digits; below a million without an exponent.

    Examples
    --------
    >>> rounded(0.12345, 3), rounded(30000.0, 3), rounded(1234567.0, 3)
    ('0.123', '30000', '1.23e+06')
    """
    if 10**digits <= abs(number) < PLAIN:
        return f"{number:.0f}"
    return f"{number:z.{digits}g}"


def to_error(number: float, error: float) -> str:
    """Return a number to the place of the second significant digit of its error.

    Without an error, as of a constant, it has six significant digits.

    Examples
    --------
    >>> to_error(3.13159, 0.0123), to_error(-0.00293, 1.0), to_error(1234.5, 230.0)
    ('3.132', '0.0', '1234')
    >>> to_error(2.0, 0.0), to_error(2.5e8, 3.1e6), to_error(2.5e-6, 4.123e-6)
    ('2', '2.500e+08', '2.5e-06')
    """
    if not (math.isfinite(number) and NEGLIGIBLE * abs(number) < error < math.inf):
        return rounded(number, CONSTANT_DIGITS)
    places = 1 - int(f"{error:.1e}".partition("e")[2])
    size = int(f"{number or error:.0e}".partition("e")[2])
    if abs(number) >= PLAIN or (places > MAX_PLACES and size < -1):
        return f"{number:.{max(size + places, 0)}e}"
    return f"{number:z.{max(places, 0)}f}"


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
        arrays.setdefault(name.partition("[")[0], []).append([index])
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
