"""Arrays of numbers: anything that means more than its numbers is refused."""

from collections.abc import Iterable
from inspect import getattr_static
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.errors import describe

PLAIN = (bool, int, float, complex, np.generic)  # entries of a list without further meaning
NO_UNIT = ("", "dimensionless")  # as astropy and Pint write it


def numbers(what: str, value: Any) -> Any:
    """Return a value's numbers, if it has no further meaning that would be lost.

    `numpy.asarray` drops a mask or a unit in silence; here TypeError names it: masked or missing
    entries, a unit, categories, named fields or columns, a sparse matrix, a subclass of NumPy's
    arrays. `what` begins the message: "data leaf 'y'". A JAX array is returned as it is, others
    in the machine's byte order.

    Examples
    --------
    >>> numbers("y", np.ma.array([1, 2], mask=False))
    array([1, 2])
    >>> numbers("y", np.ma.array([1, 2], mask=[True, False]))
    Traceback (most recent call last):
    TypeError: y: got 1 masked entry of 2 in a MaskedArray; ...
    """
    if isinstance(value, jax.Array):
        return value
    _refuse_more(what, value)
    try:
        array = np.asanyarray(value)
    except Exception as error:  # whatever an __array__ of somebody else's raises
        raise TypeError(
            f"{what}: got {describe(value)}, not an array: {error} A list stands for one array; "
            "put several arrays into a tuple or a dict."
        ) from None
    if array.dtype.kind == "O" and isinstance(numpy := _dtype(value, "numpy_dtype"), np.dtype):
        array = np.asarray(value, numpy)  # a nullable column, of which nothing is missing
    _refuse_dtype(what, array, value)
    if array is not value:
        _refuse_more(what, array)
    known = type(array) in (np.ndarray, np.memmap) or isinstance(array, np.ma.MaskedArray)
    if not known and str(_unit(array)) not in NO_UNIT:
        raise TypeError(
            f"{what}: got a {type(array).__name__}, a kind of array of its own; expected plain "
            "numbers. Write numpy.asarray(x) if they are all that it means."
        )
    plain = np.asarray(array)
    return plain if plain.dtype.isnative else plain.astype(plain.dtype.newbyteorder("="))


def real_numbers(what: str, value: Any) -> Any:
    """Return `numbers`, if all are real.

    Examples
    --------
    >>> real_numbers("init", 1j)
    Traceback (most recent call last):
    TypeError: init: got 1j (complex); expected real numbers.
    """
    array = numbers(what, value)
    if not (array.dtype == bool or jnp.issubdtype(array.dtype, np.number)) or jnp.issubdtype(
        array.dtype, np.complexfloating
    ):
        raise TypeError(f"{what}: got {describe(value)}; expected real numbers.")
    return array


def on_host(array: Any, dtype: Any = None) -> np.ndarray:
    """Return an array as a NumPy array, fetched explicitly from its device."""
    return np.asarray(jax.device_get(array), dtype)


def _refuse_dtype(what: str, array: np.ndarray, value: Any) -> None:
    """Raise TypeError unless an array is of numbers."""
    if array.dtype.names is not None:
        raise TypeError(
            f"{what}: got an array with the fields {', '.join(array.dtype.names)}; expected "
            "numbers. Give a dict of its fields, {name: x[name] for name in x.dtype.names}."
        )
    if array.dtype.kind in "Mm":
        raise TypeError(
            f"{what}: got {describe(value)}; expected numbers. Give times as numbers, e.g. days, "
            "(x - x.min()) / numpy.timedelta64(1, 'D')."
        )
    if array.dtype == bool or jnp.issubdtype(array.dtype, np.number):
        return
    if not array.ndim:
        hint = ""
        if isinstance(value, str):
            hint = " A word that chooses a part of a model is no data: close over it, or bind it, "
            hint += "advi.from_numpyro(model, name=word)."
        raise TypeError(f"{what}: got {describe(value)}; expected numbers.{hint}")
    entries = array.ravel()[:1000] if array.dtype == object else ()
    kinds = sorted({type(entry).__name__ for entry in entries})
    inside = f" ({', '.join(kinds)})" if kinds else ""
    raise TypeError(
        f"{what}: got {describe(value)}{inside}; expected numbers. Encode text or categories as "
        "integers, e.g. numpy.unique(column, return_inverse=True)[1], write numpy.asarray(x, "
        "float) for decimals or fractions, give a table as a dict of its numeric columns, and "
        "leave out what the log-joint does not use."
    )


def _refuse_more(what: str, value: Any) -> None:
    """Raise TypeError if a value means more than its numbers."""
    if isinstance(value, (list, tuple)):
        if not all(issubclass(kind, PLAIN) for kind in set(map(type, value))):
            for entry in value:
                if not isinstance(entry, PLAIN):
                    _refuse_more(what, entry)
        return
    if type(value) is np.ndarray or isinstance(value, (*PLAIN, str, bytes)):
        return
    kind = type(value).__name__
    if isinstance(columns := _own(value, "column_names", "columns"), Iterable):
        raise TypeError(
            f"{what}: got a {kind} with the columns {_listed(columns)}; expected arrays. Give its "
            "columns by name, {name: x[name] for name in [...]}, or x.to_numpy() for one matrix."
        )
    if _has(value, "toarray", "todense") and not isinstance(value, np.ndarray):
        raise TypeError(
            f"{what}: got a sparse {kind}, which is no array; expected one. Give x.toarray(), or "
            "its values and their indices as separate arrays."
        )
    if _has(value, "categories") or _dtype(value, "categories") is not None:
        raise TypeError(
            f"{what}: got a {kind} of categories; expected numbers. Give their numbers, "
            "x.cat.codes of a column, x.codes of a Categorical (-1 is a missing one)."
        )
    for count, word in ((_num_masked(value), "masked"), (num_missing(value), "missing")):
        if count:
            entries = "entry" if count == 1 else "entries"
            raise TypeError(
                f"{what}: got {count} {word} {entries} of {np.size(value)} in a {kind}; expected "
                "none, for a log-joint sees the numbers alone. Leave these rows out, or fill them "
                "in and give the mask as an array of its own."
            )
    unit = _unit(value)
    if unit is not None and str(unit) not in NO_UNIT:
        raise TypeError(
            f"{what}: got a {kind} in the unit {unit}; expected plain numbers, for a log-joint "
            "sees no unit. Give them in the unit that the model means, such as x.to_value(unit) "
            "of astropy, x.to(unit).magnitude of Pint."
        )


def _unit(value: Any) -> Any:
    if _dtype(value, "kind") in ("M", "m"):  # the resolution of times
        return None
    return _own(value, "unit", "units")


def _num_masked(value: Any) -> int:
    mask = _own(value, "mask")
    if mask is None or np.asarray(mask).dtype != bool:
        return 0
    return int(np.count_nonzero(np.broadcast_to(np.asarray(mask), np.shape(value))))


def num_missing(value: Any) -> int:
    """Return the number of missing entries of a column, of which NaN is none."""
    if isinstance(count := _own(value, "null_count", call=True), int):  # Polars, Arrow
        return count
    if _dtype(value, "na_value") is None:  # pandas' columns of NumPy's dtypes have NaN
        return 0
    return int(np.count_nonzero(_own(value, "isna", call=True)))


def _has(value: Any, *names: str) -> bool:
    """Whether an object has an attribute that is not one of its own labels."""
    return any(getattr_static(value, name, None) is not None for name in names)


def _own(value: Any, *names: str, call: bool = False) -> Any:
    """Return the first of some attributes that an object has; a method's result, if `call`."""
    for name in names:
        if _has(value, name):
            found = getattr(value, name)
            return found if not callable(found) else found() if call else None
    return None


def _dtype(value: Any, name: str) -> Any:
    return getattr(getattr(value, "dtype", None), name, None)


def _listed(columns: Iterable[Any]) -> str:
    names = [repr(name) for name in columns]
    return ", ".join([*names[:5], "..."] if len(names) > 5 else names)
