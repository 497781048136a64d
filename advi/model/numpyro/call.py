"""A NumPyro model with the arguments that are bound: a function of the data alone."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import numpy as np
from numpyro.primitives import Messenger

from advi.core.arrays import on_host
from advi.core.identity import identified
from advi.data.spec import DataSpec, leaf_name


class Call(Protocol):
    """A NumPyro model as a function of the data alone."""

    def __call__(self, data: Any) -> Any:
        """Run the model."""
        ...

    def check(self, data: Any) -> None:
        """Raise TypeError unless the model can be called with the data."""
        ...

    def argument(self, leaf: str) -> str:
        """Return the model's own name for the argument that a data leaf is, or is a part of."""
        ...

    @property
    def bound(self) -> str:
        """Arrays that are bound, in words, or ""."""
        ...


def inside_handlers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that NumPyro's effect handlers are around."""
    while isinstance(function, Messenger) and function.fn is not None:
        function = function.fn
    return function


@dataclass(frozen=True, eq=False)
class BoundCall:
    """A model with bound arguments, called with data: a dict by name, a tuple by position.

    A dict of several names, none of which is an argument's, is the one argument of a model that has
    one. Two are equal if model and arguments are; arrays are compared by identity.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def _key(self) -> tuple[Any, ...]:
        values = (*self.args, *self.kwargs.values())
        return (
            identified(self.function),
            tuple(self.kwargs),
            tuple((type(value), identified(value)) for value in values),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundCall) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        function = inside_handlers(self.function)
        return getattr(function, "__name__", type(function).__name__)

    def __call__(self, data: Any) -> Any:
        args, kwargs = self._arguments(data)
        return self.function(*args, **kwargs)

    def check(self, data: Any) -> None:
        twice = sorted(set(self.kwargs) & set(data)) if isinstance(data, Mapping) else []
        if twice:
            raise TypeError(
                f"data: {twice[0]!r} was given to from_numpyro already; expected each argument of "
                "the model once."
            )
        args, kwargs = self._arguments(data)
        signature = inspect.signature(inside_handlers(self.function))
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            known = signature.parameters
            if strange := [name for name in kwargs if name not in known]:
                raise TypeError(
                    f"data: {self!r} takes {signature}, and has no argument "
                    f"{', '.join(map(repr, strange))}; expected names of its arguments alone. "
                    "Leave out columns that the model does not take, such as by "
                    f"data.drop(columns={strange}) of a frame."
                ) from None
            hint = ""
            if "missing" in str(error):
                hint = " What new data lack, such as an outcome, needs a default: y=None."
            raise TypeError(
                f"data: {self!r} takes {signature}, and would get {len(args)} arguments by "
                f"position and {list(kwargs) or 'none'} by name: {error}. A dict of data is passed "
                "by name, a tuple by position, an array as the next argument, after what was given "
                f"to from_numpyro.{hint}"
            ) from None

    @property
    def bound(self) -> str:
        values = [*((f"argument {k}", v) for k, v in enumerate(self.args)), *self.kwargs.items()]
        arrays = [f"{name} {np.shape(v)}" for name, v in values if hasattr(v, "shape") and v.shape]
        return f", and bound beforehand are {', '.join(arrays)}" if arrays else ""

    def argument(self, leaf: str) -> str:
        first = leaf.partition(".")[0]
        position = 0 if first == "data" else int(first) if first.isdigit() else None
        free = self._free
        return free[position] if position is not None and position < len(free) else first

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(inside_handlers(self.function)).parameters
        except (TypeError, ValueError):  # a built-in
            return {}

    @property
    def _free(self) -> list[str]:
        """Names of the arguments that data give by position, as far as the signature says them."""
        parameters = self._parameters.values()
        if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            return []
        named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return [name for name in named[len(self.args) :] if name not in self.kwargs]

    def _is_table(self, data: Mapping[str, Any]) -> bool:
        """Return whether a dict, of several names that are no arguments, is the one argument."""
        parameters = self._parameters
        by_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        is_one = len(self._free) == 1 < len(data) and not by_name
        return is_one and parameters.keys().isdisjoint(data)

    def _arguments(self, data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if data is None:
            return self.args, self.kwargs
        free = self._free
        if isinstance(data, Mapping) and not self._is_table(data):
            return self.args, {**self.kwargs, **data}
        values = data if isinstance(data, tuple) else (data,)
        if self.kwargs and len(values) <= len(free):  # arguments before them may be bound by name
            return self.args, {**dict(zip(free, values, strict=False)), **self.kwargs}
        return (*self.args, *values), self.kwargs


@dataclass(frozen=True)
class Wrapped:
    """What a call around another has from it."""

    call: Call

    def __repr__(self) -> str:
        return repr(self.call)

    def check(self, data: Any) -> None:
        self.call.check(data)

    def argument(self, leaf: str) -> str:
        return self.call.argument(leaf)

    @property
    def bound(self) -> str:
        return self.call.bound


@dataclass(frozen=True, repr=False)
class StaticCall(Wrapped):
    """A call in which numbers among the data, such as sizes and flags, are Python's.

    They decide about shapes and branches, and have no part in a trace.
    """

    static: tuple[tuple[str, Any], ...]  # path and value of data leaves

    def __call__(self, data: Any) -> Any:
        static = dict(self.static)
        paths, treedef = jax.tree_util.tree_flatten_with_path(data)
        return self.call(treedef.unflatten(static.get(leaf_name(p), leaf) for p, leaf in paths))


def argument_path(call: Call, leaf: str) -> str:
    """Return the path of a data leaf from its argument, whether this is given by name or not."""
    first, dot, rest = leaf.partition(".")
    return f"{call.argument(first)}{dot}{rest}"


def numbers_among(data: Any, spec: DataSpec) -> tuple[tuple[str, Any], ...]:
    """Return the path and the value of every integer and flag among the data."""
    leaves = zip(spec.names, spec.treedef.flatten_up_to(data), spec.leaves, strict=True)
    return tuple(
        (name, on_host(leaf).item())
        for name, leaf, (shape, dtype) in leaves
        if not shape and np.dtype(dtype).kind in "iub"
    )


def without_static(call: Any) -> Any:
    """Return a call that takes all numbers from its data."""
    if isinstance(call, StaticCall):
        return without_static(call.call)
    return replace(call, call=without_static(call.call)) if hasattr(call, "call") else call


def static_data(call: Any) -> tuple[tuple[str, Any], ...]:
    """Return the path and value of the data leaves that a call takes as Python's numbers."""
    if isinstance(call, StaticCall):
        return call.static
    return static_data(call.call) if hasattr(call, "call") else ()
