"""Classes and folders of libraries that are imported only where they are used."""

import sys
from pathlib import Path


def known_class(name: str) -> type | tuple[()]:
    """Return a class by its full name, or the empty tuple, which has no instances.

    Where its module has not been imported, no value can be of the class.

    Examples
    --------
    >>> from fractions import Fraction
    >>> isinstance(Fraction(1, 2), known_class("fractions.Fraction"))
    True
    >>> known_class("unheard_of.Fraction")
    ()
    """
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, ())


def folders(*libraries: str) -> tuple[str, ...]:
    """Return the folders of those of some libraries that have been imported."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in libraries)
    return tuple(str(Path(file).parent) for file in files if file)
