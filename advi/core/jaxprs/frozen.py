"""A user's function as it was when a fit began."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advi.core.jaxprs.traced import Traced, trace_lock, traced


class ChangedError(ValueError):
    """Values that a function reads from outside have changed since the fit."""

    def __init__(
        self, what: str, needed: str = "for arrays of other shapes than the fit had"
    ) -> None:
        super().__init__(
            f"{what} reads something from outside, such as a global variable, which has changed "
            f"since the fit, and this needs it {needed}. Set it back to what it was, or fit again: "
            "every fit reads it anew."
        )


class Frozen:
    """A function of arrays as it is when first traced: values read from outside are kept.

    Two are equal, and share compiled code, if their first traces are; `args` are the arguments of
    a first call, `what` names the function in messages. ChangedError on a call with shapes of
    which there is no trace, if the function has changed meanwhile.
    """

    def __init__(self, function: Callable[..., Any], what: str, *args: Any) -> None:
        self.function, self.what = function, what
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self._first = jax.tree.map(_shape, args)
        self._traces: dict[Any, tuple[Traced, Any]] = {}
        self._key = self._trace(*self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(self, *args: Any) -> Any:
        flat, treedef = self._trace(*args)
        return treedef.unflatten(flat(*jax.tree.leaves(args)))

    def _trace(self, *args: Any) -> tuple[Traced, Any]:
        """Return the trace, and the tree of the results."""
        leaves, treedef = jax.tree.flatten(args)
        key = treedef, tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves)
        with trace_lock:
            if key not in self._traces:
                if self._traces:
                    again = traced(self.function, *self._first)[0]
                    if not again.is_like(self._key[0]):
                        raise ChangedError(self.what)
                flat, out = traced(self.function, *jax.tree.map(_shape, args))
                self._traces[key] = flat, jax.tree.structure(out)
            return self._traces[key]


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), _dtype(leaf))


def _dtype(leaf: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(leaf.dtype if hasattr(leaf, "dtype") else type(leaf))
