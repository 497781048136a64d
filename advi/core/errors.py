"""Values, names and shapes in error messages."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def describe(value: Any) -> str:
    """Return a short description of a value: its type, and its shape or itself.

    Examples
    --------
    >>> describe(np.zeros((2, 3)))
    'an array of shape (2, 3) and dtype float64'
    >>> describe("fast")
    "'fast' (str)"
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = " ".join(repr(value).split("\n"))
    if len(text) > 80:
        text = text[:77] + "..."
    return f"{text} ({type(value).__name__})"


def describe_error(error: BaseException) -> str:
    """Return the last line of an exception's traceback: "OSError: disk gone"."""
    try:
        text = str(error)
    except Exception:  # that of the user's own class
        text = "its text cannot be told"
    return f"{type(error).__name__}: {text}"


def check_bool(name: str, value: Any) -> None:
    """Raise TypeError unless a value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {describe(value)}; expected True or False.")


def check_count(name: str, number: Any, least: int = 1) -> None:
    """Raise ValueError unless a value is an integer, `least` or more."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(f"{name}: got {describe(number)}; expected an integer >= {least}.")


def check_positive(name: str, number: Any) -> None:
    """Raise ValueError unless a value is a finite number above zero."""
    real = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
    if not real or not 0 < number < np.inf:
        raise ValueError(f"{name}: got {describe(number)}; expected a number > 0.")


def check_names(what: str, names: Any) -> list[str]:
    """Return one name or several as a list, or raise TypeError or ValueError.

    Examples
    --------
    >>> check_names("names", "eta"), check_names("names", ("mu", "tau"))
    (['eta'], ['mu', 'tau'])
    """
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, Iterable) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{what}: got {describe(names)}; expected a name, or a list of names.")
    if not (found := list(found)):
        raise ValueError(f"{what}: got none; expected at least one.")
    return found


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known name and all of them.

    Examples
    --------
    >>> unknown("family", "fullrank", ["mean_field", "full_rank"])
    "unknown family 'fullrank'; did you mean 'full_rank'? Known: mean_field, full_rank."
    """
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {got!r}{hint} Known: {', '.join(names) or 'none'}."


def format_value(value: Any) -> str:
    """Return an array's values in one short line.

    Examples
    --------
    >>> format_value(1.0), format_value([0.25, 3.0])
    ('1', '[0.25, 3]')
    """
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array.item():.4g}"
    formatter: Any = {"all": lambda x: f"{x:.4g}"}
    return np.array2string(array, threshold=8, separator=", ", formatter=formatter)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names in one line, of many the first ones: "a, b and 2 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
