"""Tables as data: a DataFrame, a Dataset or a structured array is a dict of its columns.

A column of categories becomes their codes, and the names of the categories are kept beside.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr

from advi.core.arrays import num_missing
from advi.core.axes import NOTHING, Categories, Label, Labels, labels_of
from advi.core.errors import describe, listed

PANDAS, POLARS, ARROW, XARRAY = "pandas", "polars", "pyarrow", "xarray"
MAKE_CATEGORIES = {
    PANDAS: "data[{!r}].astype('category')",
    POLARS: "data[{!r}].cast(polars.Categorical)",
    ARROW: "data[{!r}].dictionary_encode()",
}


class Names(NamedTuple):
    """The names that tables bring along."""

    categories: Labels = NOTHING  # column to the names of its categories, in the order of codes
    coords: Mapping[str, Any] = NOTHING  # dimension of a Dataset to the labels along it


NO_NAMES = Names()


def without_tables(data: Any, known: Labels = NOTHING) -> Any:
    """Return data in which every table is a dict of its columns, and categories are their codes.

    Tables are DataFrames of pandas and Polars, tables of Arrow, Datasets of xarray, and NumPy's
    structured arrays. `known` has the names of categories by column, in the order of their codes:
    those of a fit, by which all further data are coded. TypeError if a column has missing entries,
    holds text, or has categories that are not known; ValueError if the name of a category is not.

    Examples
    --------
    >>> without_tables(np.array([(1, 0.5)], [("n", int), ("x", float)]))
    {'n': array([1]), 'x': array([0.5])}
    """
    return _Coder(known, learns=False).code(data)


def tables_and_names(data: Any, known: Labels = NOTHING) -> tuple[Any, Names]:
    """Return the data of a fit as `without_tables` does, and the names that they bring along.

    Categories that are not known have the order of the first column of that name.
    """
    coder = _Coder(known, learns=True)
    return coder.code(data), Names(coder.categories, coder.coords)


def leaves_with_paths(data: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Return the leaves of data with their paths, and the tree; a list is one leaf, an array."""
    try:
        return jax.tree_util.tree_flatten_with_path(
            data, is_leaf=lambda node: isinstance(node, (list, Iterator))
        )
    except ValueError as error:  # JAX sorts the keys of a dict
        raise TypeError(
            f"data: got {describe(data)}, whose names cannot be sorted; expected dicts with names "
            f"of one type, such as str ({error})."
        ) from None


def unknown_categories(name: str) -> TypeError:
    """Return the error for categories in a column that had none in a fit."""
    return TypeError(
        f"data: got categories in the column {name!r}, which the fit does not know as such; "
        "expected the numbers that it was fitted to, or the columns that are used alone."
    )


class _Coder:
    """Turns tables into columns and categories into codes; one that learns keeps their names."""

    def __init__(self, known: Labels, learns: bool) -> None:
        self._known, self._learns = known, learns
        self.categories: dict[str, tuple[Any, ...]] = {}
        self.coords: dict[str, Any] = {}

    def code(self, data: Any) -> Any:
        if isinstance(data, (np.ndarray, jax.Array)) and not getattr(data.dtype, "names", None):
            return data
        paths, treedef = leaves_with_paths(data)
        return treedef.unflatten([self._leaf(*pair) for pair in paths])

    def _leaf(self, path: Any, leaf: Any) -> Any:
        """Return a dict of the columns of a table, or the codes of a column of categories."""
        if isinstance(leaf, np.ndarray):
            if leaf.dtype.names:
                return {name: leaf[name] for name in leaf.dtype.names}
            return self._numbers(_column_name(path, leaf), leaf)
        library, kind = type(leaf).__module__.partition(".")[0], type(leaf).__name__
        if (library, kind) == (XARRAY, "Dataset"):
            return self._of_dataset(leaf)
        if (library, kind) in ((PANDAS, "DataFrame"), (POLARS, "DataFrame")):
            return self._columns({name: leaf[name] for name in leaf.columns}, kind, library)
        if (library, kind) == (ARROW, "Table"):
            return self._columns({n: leaf.column(n) for n in leaf.column_names}, kind, library)
        if _has_categories(leaf):
            name = _column_name(path, leaf)
            return self._columns({name: leaf}, kind, library)[name]
        return self._numbers(_column_name(path, leaf), leaf)

    def _columns(self, columns: Mapping[Any, Any], kind: str, library: str) -> dict[Any, Any]:
        """Return the columns, of numbers; TypeError if one is of text, or has missing entries."""
        text = [name for name, column in columns.items() if _is_text(column)]
        if text:
            named = ", ".join(map(repr, text))
            raise TypeError(
                f"data: got a {kind} with text in the columns {named}; expected numbers or "
                "categories. Leave out columns that the model does not use, and make categories "
                f"of others: {MAKE_CATEGORIES[library].format(text[0])}."
            )
        counts = {name: n for name, column in columns.items() if (n := num_missing(column))}
        if counts:
            named = ", ".join(f"{name!r} ({count:,})" for name, count in counts.items())
            raise TypeError(
                f"data: got a {kind} with missing values in the columns {named}; expected none, "
                "for a log-joint sees numbers alone. Leave these rows or columns out, or fill them "
                "in and give the mask as a column of its own."
            )
        return {
            name: self._codes(str(name), column)
            if _has_categories(column)
            else self._numbers(str(name), _array(column))
            for name, column in columns.items()
        }

    def _numbers(self, name: str, column: Any) -> Any:
        """Return a column of numbers; ValueError if these may be names of categories or codes."""
        known = self._known.get(name, ())
        whole = isinstance(known, Categories) and all(str(label).isdigit() for label in known)
        if known and whole and not self._learns:
            raise ValueError(
                f"data: got numbers in the column {name!r}, whose categories in the fit are whole "
                f"numbers, {listed([str(label) for label in known])}, so that names and codes "
                "cannot be told apart; expected categories, such as "
                f"data[{name!r}].astype('category')."
            )
        return column

    def _codes(self, name: str, column: Any) -> np.ndarray:
        """Return the codes (n,) of a column's categories, of known ones by their names."""
        codes, given = _categories_of(column)
        own = labels_of(f"categories of the column {name!r}", given)
        known = self.categories.get(name, self._known.get(name))
        if known is None:
            if not self._learns:
                raise unknown_categories(name)
            self.categories[name] = known = Categories(own)
        elif self._learns:
            self.categories[name] = Categories(known)
        if own == known:
            return codes.astype(np.int32)
        places = {str(label): place for place, label in enumerate(known)}
        table = np.array([places.get(str(label), -1) for label in own], np.int32)
        strange = [own[k] for k in np.unique(codes) if table[k] < 0]
        if strange:
            names = listed([repr(label) for label in strange])
            raise ValueError(
                f"data: got {names} in the column {name!r}; expected its known categories, "
                f"{listed([repr(label) for label in known])}. Those of a fit are the categories of "
                f"its data, of a stream those of its first batch, or coords={{{name!r}: [...]}}."
            )
        return table[codes]

    def _of_dataset(self, dataset: Any) -> dict[str, Any]:
        """Return the variables of a Dataset, along known coords in the order of these."""
        for dim in map(str, dataset.dims):
            if dim in dataset.coords:
                labels = dataset.coords[dim].values
                if self._learns:
                    self.coords.setdefault(dim, self._known.get(dim, labels))
                if (order := _order(labels, self._known.get(dim, ()))) is not None:
                    dataset = dataset.isel({dim: order})
        return {str(name): variable.values for name, variable in dataset.data_vars.items()}


def _order(labels: Any, known: Sequence[Label]) -> list[int] | None:
    """Return where the known labels are, if these are the same ones in another order."""
    try:
        own = list(map(str, labels_of("coords", labels))) if len(known) == len(labels) else []
    except (TypeError, ValueError):
        return None
    wanted = list(map(str, known))
    if own == wanted or sorted(own) != sorted(wanted):
        return None
    return [own.index(text) for text in wanted]


def _column_name(path: Any, column: Any) -> str:
    """Return the name of a column in a dict, or by itself."""
    if path and hasattr(path[-1], "key"):
        return str(path[-1].key)
    own = getattr(column, "name", None)
    return own if isinstance(own, str) and own else keystr(path, simple=True) or "data"


def _dtype_name(column: Any) -> str:
    return str(getattr(column, "dtype", getattr(column, "type", ""))).lower()


def _has_categories(column: Any) -> bool:
    """Return whether something is a column of categories: of pandas, Polars or Arrow."""
    library = type(column).__module__.partition(".")[0]
    name = _dtype_name(column)
    if library == PANDAS:
        return name == "category"
    if library == POLARS:
        return name.startswith(("categorical", "enum"))
    return library == ARROW and name.startswith("dictionary")


def _categories_of(column: Any) -> tuple[np.ndarray, Iterable[Any]]:
    """Return the codes (n,) of a column without missing entries, and the categories."""
    library = type(column).__module__.partition(".")[0]
    if library == PANDAS:
        values = getattr(column, "array", column)
        return np.asarray(values.codes), values.categories
    if library == ARROW:
        if hasattr(column, "chunks"):
            column = column.unify_dictionaries().combine_chunks()
        return np.asarray(column.indices), column.dictionary.to_pylist()
    if _dtype_name(column).startswith("enum"):
        return column.to_physical().to_numpy(), column.dtype.categories.to_list()
    # the codes of Polars' other kind depend on what the process has read before
    names, codes = np.unique(column.cast(str).to_numpy().astype(str), return_inverse=True)
    return codes, names.tolist()


def _array(column: Any) -> Any:
    """Return a column in one piece."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _is_text(column: Any) -> bool:
    """Return whether a column is of text."""
    name = _dtype_name(column)
    if name == "object":
        return any(isinstance(entry, str) for entry in column)
    if name.startswith("dictionary"):  # of Arrow in pandas, where it is no category
        return not _has_categories(column)
    return name.startswith(("str", "large_string", "utf8")) and not name.startswith("struct")
