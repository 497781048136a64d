"""Names of the axes of values, the labels along them, and the names of entries."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import describe, listed, unknown

Label = str | int | float | bool
Labels = Mapping[str, tuple[Label, ...]]  # by the name of an axis, or of a column


class Categories(tuple[Label, ...]):
    """Labels that are the names of a column's categories, in the order of their codes."""


NOTHING: Mapping[str, Any] = MappingProxyType({})
MISSING = ("NoneType", "NAType", "NaTType")
ROW = "row"  # axis of the rows of local latents, unless it has another name
NUMBERS = re.compile(r"\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]")


class Axes(NamedTuple):
    """Names of the axes of values, by the name of the value, and labels by the name of an axis."""

    dims: Mapping[str, tuple[str, ...]] = NOTHING
    coords: Labels = NOTHING

    def names(self, name: str, ndim: int) -> tuple[str, ...]:
        """Return the names of a value's axes; without any they are NAME_dim_0 and so on.

        Examples
        --------
        >>> axes = Axes({"eta": ("county",)})
        >>> axes.names("eta", 1), axes.names("beta", 2)
        (('county',), ('beta_dim_0', 'beta_dim_1'))
        """
        found = self.dims.get(name, ())
        return found if len(found) == ndim else tuple(f"{name}_dim_{k}" for k in range(ndim))

    def labels(self, name: str, shape: Sequence[int]) -> list[tuple[Label, ...] | None]:
        """Return the labels along every axis of a value, None along one that has none."""
        named = zip(self.names(name, len(shape)), shape, strict=True)
        # of other data, a row axis may have another length
        along = ((self.coords.get(axis), length) for axis, length in named)
        return [labels if labels and len(labels) == n else None for labels, n in along]

    def lengths(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Return the length of every axis; ValueError if values disagree on one."""
        found: dict[str, tuple[int, str]] = {}
        for name, shape in shapes.items():
            for axis, length in zip(self.names(name, len(shape)), shape, strict=True):
                before, of = found.setdefault(axis, (length, name))
                if before != length:
                    raise ValueError(
                        f"dims: the axis {axis!r} has {before} entries in {of!r}, and {length} in "
                        f"{name!r}; expected one length. Give one of them another name."
                    )
        return {axis: length for axis, (length, _) in found.items()}


NO_AXES = Axes()


def all_named(name: str, axes: Sequence[str | None], by_row: bool) -> tuple[str, ...]:
    """Return the names of a latent's axes, where None has none: its number within a row.

    Examples
    --------
    >>> all_named("eta", (None, "year", None), by_row=True)
    ('row', 'year', 'eta_dim_1')
    """
    numbered = enumerate(axes, -1 if by_row else 0)
    unnamed = ((ROW if k < 0 else f"{name}_dim_{k}", axis) for k, axis in numbered)
    return tuple(number if axis is None else axis for number, axis in unnamed)


def entry_names(name: str, shape: Sequence[int], axes: Axes = NO_AXES) -> tuple[str, ...]:
    """Return the names of an array's entries, by their labels or else their numbers.

    Examples
    --------
    >>> entry_names("eta", (2,)), entry_names("tau", ())
    (('eta[0]', 'eta[1]'), ('tau',))
    >>> axes = Axes({"eta": ("county", "year")}, {"county": ("Aitkin", "Anoka"), "year": (2020,)})
    >>> entry_names("eta", (2, 1), axes)
    ('eta[Aitkin, 2020]', 'eta[Anoka, 2020]')
    """
    along = axes.labels(name, shape)
    texts = [map(str, ls or range(n)) for ls, n in zip(along, shape, strict=True)]
    comma = ", " if any(along) else ","
    indices = itertools.product(*texts)
    return tuple(f"{name}[{comma.join(index)}]" if index else name for index in indices)


def numbered_entry(entry: str, name: str, shape: Sequence[int], axes: Axes) -> int | None:
    """Return the place of an entry in the flat value by its numbers, such as "eta[3]".

    None where it is no entry, or where labels are whole numbers themselves.

    Examples
    --------
    >>> axes = Axes({"eta": ("county",)}, {"county": ("Aitkin", "Anoka")})
    >>> numbered_entry("eta[1]", "eta", (2,), axes), numbered_entry("eta[2]", "eta", (2,), axes)
    (1, None)
    """
    match = NUMBERS.fullmatch(entry.removeprefix(name))
    along = axes.labels(name, shape)
    if match is None or any(str(label).isdigit() for labels in along for label in labels or ()):
        return None
    index = tuple(map(int, match[1].split(",")))
    inside = len(index) == len(shape) and all(k < n for k, n in zip(index, shape, strict=True))
    return int(np.ravel_multi_index(index, tuple(shape))) if inside else None


def check_coords(coords: Any) -> dict[str, tuple[Label, ...]]:
    """Return labels by the name of an axis; TypeError or ValueError if they are none."""
    if coords is None:
        return {}
    if not isinstance(coords, Mapping) or not all(isinstance(axis, str) for axis in coords):
        raise TypeError(
            f"coords: got {describe(coords)}; expected a dict from names of axes to their labels, "
            'such as {"county": ["Aitkin", "Anoka"]}.'
        )
    return {axis: labels_of(f"coords of {axis!r}", labels) for axis, labels in coords.items()}


def labels_of(what: str, given: Any) -> tuple[Label, ...]:
    """Return labels as text or numbers; times become text.

    TypeError if they have not one dimension; ValueError if one is missing or there twice.

    Examples
    --------
    >>> labels_of("coords", np.array(["2020-01-01", "2020-02-01"], "datetime64[ns]"))
    ('2020-01-01', '2020-02-01')
    >>> labels_of("coords of 'county'", ["Aitkin", "Aitkin"])
    Traceback (most recent call last):
    ValueError: coords of 'county': got 'Aitkin' more than once; expected every label once.
    """
    expected = "expected labels in one dimension, such as a list"
    if isinstance(given, (str, bytes, Mapping, set, frozenset)):
        raise TypeError(f"{what}: got {describe(given)}; {expected}.")
    try:
        of_many_kinds = isinstance(given, (list, tuple)) and not _of_one_kind(given)
        array = np.asarray(given, object if of_many_kinds else None)
    except ValueError:
        raise TypeError(f"{what}: got {describe(given)}; {expected}.") from None
    if array.ndim != 1:
        raise TypeError(f"{what}: got {describe(given)}; {expected}.")
    if array.dtype.kind in "Mm":
        missing = np.isnat(array)
        is_date = array.dtype.kind == "M"
        array = np.datetime_as_string(array, unit="auto") if is_date else array.astype(str)
    else:
        missing = np.array([_is_missing(entry) for entry in array], bool)
    if missing.any():
        raise ValueError(f"{what}: got {missing.sum()} missing; expected a label for every entry.")
    labels = tuple(_label(entry) for entry in array.tolist())
    twice = [text for text, count in Counter(map(str, labels)).items() if count > 1]
    if twice:
        raise ValueError(
            f"{what}: got {listed([repr(text) for text in twice])} more than once; expected every "
            "label once."
        )
    return labels


def _of_one_kind(given: Iterable[Any]) -> bool:
    return len({type(entry) for entry in given}) <= 1


def _label(entry: Any) -> Label:
    return entry if isinstance(entry, (str, bool, int, float)) else str(entry)


def _is_missing(entry: Any) -> bool:
    is_float = isinstance(entry, (float, np.floating))
    return type(entry).__name__ in MISSING or (is_float and not math.isfinite(entry))


def check_dims(dims: Any, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[Any, ...]]:
    """Return the names of axes, None for one without a name; TypeError or ValueError if wrong."""
    if not isinstance(dims, Mapping):
        raise TypeError(
            f"dims: got {describe(dims)}; expected a dict from names of latents to the names of "
            'their axes, such as {"eta": ["county"]}.'
        )
    found = {}
    for name, given in dims.items():
        if name not in shapes:
            raise ValueError(f"dims: {unknown('latent', name, shapes)}")
        axes = (given,) if isinstance(given, str) else given
        are_names = isinstance(axes, (list, tuple)) and all(
            axis is None or (isinstance(axis, str) and axis) for axis in axes
        )
        if not are_names or len(axes) != len(shapes[name]):
            raise ValueError(
                f"dims: got {given!r} for {name!r}; expected a list of {len(shapes[name])} names, "
                f"one for each axis of its shape {tuple(shapes[name])}."
            )
        named = [axis for axis in axes if axis is not None]
        if len(set(named)) != len(named):
            raise ValueError(
                f"dims: got {given!r} for {name!r}; expected names that differ from one another."
            )
        taken = [axis for axis in named if axis in shapes]
        if taken:
            raise ValueError(
                f"dims: {taken[0]!r} is the name of a latent; expected another for an axis."
            )
        found[name] = tuple(axes)
    return found
