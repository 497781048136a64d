"""Tables as data: a DataFrame, a Dataset or a structured array is a dict of its columns."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from advi.core.arrays import num_missing

PANDAS, POLARS, ARROW, XARRAY = "pandas", "polars", "pyarrow", "xarray"


def without_tables(data: Any) -> Any:
    """Return data in which every table is a dict of its columns.

    Tables are DataFrames of pandas and Polars, tables of Arrow, Datasets of xarray, and NumPy's
    structured arrays. TypeError if a column has missing entries, or holds text or categories.

    Examples
    --------
    >>> without_tables(np.array([(1, 0.5)], [("n", int), ("x", float)]))
    {'n': array([1]), 'x': array([0.5])}
    """
    if isinstance(data, (np.ndarray, jax.Array)) and not getattr(data.dtype, "names", None):
        return data
    return jax.tree.map(_columns, data, is_leaf=lambda node: isinstance(node, (list, Iterator)))


def _columns(leaf: Any) -> Any:
    """Return a dict of the columns of a table; any other leaf as it is."""
    library = type(leaf).__module__.partition(".")[0]
    if isinstance(leaf, np.ndarray):
        return {name: leaf[name] for name in leaf.dtype.names} if leaf.dtype.names else leaf
    kind = type(leaf).__name__
    if library == XARRAY and kind == "Dataset":
        return {str(name): variable.values for name, variable in leaf.data_vars.items()}
    if (library, kind) in ((PANDAS, "DataFrame"), (POLARS, "DataFrame")):
        columns = {name: leaf[name] for name in leaf.columns}
    elif (library, kind) == (ARROW, "Table"):
        columns = {name: leaf.column(name).combine_chunks() for name in leaf.column_names}
    else:
        return leaf
    return _of_numbers(columns, kind)


def _of_numbers(columns: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the columns; TypeError if one is of text or categories, or has missing entries."""
    text = [name for name, column in columns.items() if _is_text(column)]
    if text:
        named = ", ".join(map(repr, text))
        raise TypeError(
            f"data: got a {kind} with text or categories in the columns {named}; expected "
            "numbers. Leave out columns that the model does not use, and give codes of categories, "
            f"such as data[{text[0]!r}].astype('category').cat.codes of pandas."
        )
    missing = {name: count for name, column in columns.items() if (count := num_missing(column))}
    if missing:
        counts = ", ".join(f"{name!r} ({count:,})" for name, count in missing.items())
        raise TypeError(
            f"data: got a {kind} with missing values in the columns {counts}; expected none, for a "
            "log-joint sees numbers alone. Leave these rows or columns out, or fill them in and "
            "give the mask as a column of its own."
        )
    return dict(columns)


def _is_text(column: Any) -> bool:
    """Return whether a column is of text, or of categories, whose codes may differ by table."""
    dtype = getattr(column, "dtype", getattr(column, "type", None))
    name = str(dtype).lower()
    if name == "object":
        return any(isinstance(entry, str) for entry in column)
    return name.startswith(("str", "large_string", "utf8", "categor", "enum", "dictionary"))
