"""Traces that compare by value, so that an equal one finds the compiled programs.

Values that a user's function reads from outside, such as a global, are constants of its trace. A
function is therefore traced again whenever it may have changed, and its programs are looked up by
the trace: by its operations, and by the contents of its constants.
"""

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.extend.core as jex_core
import numpy as np
from jax import Array
from jax.core import Tracer

from advi.core.jaxprs.conversions import forget_conversions
from advi.core.jaxprs.equality import Key, constants, inner_jaxprs, is_jaxpr, key_of
from advi.core.lazy import folders

# JAX and NumPyro keep the state of a trace in globals: one trace at a time
trace_lock = threading.RLock()


class Traced:
    """A traced function of flat arguments; two whose operations and constants agree are one object.

    Its constants are copies: an array that its owner changes later does not change it.
    """

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr  # closed

    def __call__(self, *args: Any) -> Sequence[Array]:
        return jex_core.jaxpr_as_fun(self.jaxpr)(*args)

    @cached_property
    def cost(self) -> int:
        """Array elements read and written by one evaluation: a measure of its work."""
        return _cost(self.jaxpr.jaxpr)

    def cost_of(self, *names: str) -> int:
        """Return the part of the cost that is of the operations so named."""
        return _cost(self.jaxpr.jaxpr, frozenset(names))

    @cached_property
    def primitives(self) -> frozenset[str]:
        """Names of all operations, those of inner functions included."""
        return frozenset(_primitives(self.jaxpr.jaxpr))

    def is_like(self, other: "Traced") -> bool:
        """Return whether two compute the same, leaving aside functions without a trace."""
        return self is other or key_of(self.jaxpr, False) == key_of(other.jaxpr, False)


_known: "weakref.WeakValueDictionary[Key, Traced]" = weakref.WeakValueDictionary()


def interned(jaxpr: Any) -> Traced:
    """Return the one `Traced` of all closed jaxprs equal to this one."""
    key = key_of(jaxpr, True)
    with trace_lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = Traced(_owning(jaxpr))
    return found


def traced(function: Callable[..., Any], *args: Any) -> tuple[Traced, Any]:
    """Trace a function of pytrees of arrays, of which only shapes and dtypes matter.

    Returns the trace, a function of the leaves, and the result's tree of shapes and dtypes.
    """
    jaxpr, shape = fresh_jaxpr(function, *args)
    return interned(jaxpr), shape


def fresh_jaxpr(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Return the closed jaxpr of a function as it is now, and the shape of its result.

    JAX caches the traces of functions that it knows: of this one, of the user's jitted ones, and
    of bodies of loops that are not created again. Where a part is that of an earlier trace, or a
    converted NumPy array may be, all is traced once more without the cache.
    """

    def uncached(*args: Any) -> Any:
        return function(*args)

    with trace_lock:
        found = jax.make_jaxpr(uncached, return_shape=True)(*args)
        parts = list(_own_parts(found[0].jaxpr, folders(*LIBRARIES)))
        again = forget_conversions(found[0])
        if again or any(_seen.get(id(part)) is part for part in parts):
            with _cache(object()):
                found = jax.make_jaxpr(uncached, return_shape=True)(*args)
            forget_conversions(found[0])
        _seen.update((id(part), part) for part in parts)
        return found


_cache = jax.make_user_context(None)  # JAX takes traces from its cache only where this is the same
_seen: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()
LIBRARIES = ("jax", "numpyro", "optax")


def _own_parts(jaxpr: Any, libraries: tuple[str, ...]) -> Iterator[Any]:
    """Yield the inner jaxprs of the user's own functions, not those of libraries by folder."""
    for eqn in jaxpr.eqns:
        for inner in inner_jaxprs(eqn):
            part = getattr(inner, "jaxpr", inner)
            source = part.debug_info.func_src_info if part.debug_info else ""
            if not source or not any(library in source for library in libraries):
                yield inner
                yield part
            yield from _own_parts(part, libraries)


def _owning(value: Any) -> Any:
    """Return a jaxpr, or a parameter, that shares no memory with arrays that may change."""
    if isinstance(value, (tuple, list)):
        items = [_owning(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if not is_jaxpr(value):
        return value
    inner, consts = getattr(value, "jaxpr", value), constants(value)
    eqns = [_owning_eqn(eqn) for eqn in inner.eqns]
    if any(new is not old for new, old in zip(eqns, inner.eqns, strict=True)):
        inner = inner.replace(eqns=eqns)
    elif not consts:
        return value
    if not hasattr(value, "jaxpr"):
        return inner
    own = [c if isinstance(c, (Array, Tracer)) else np.array(c) for c in consts]
    return value.replace(jaxpr=inner, consts=own)


def _owning_eqn(eqn: Any) -> Any:
    params = {name: _owning(param) for name, param in eqn.params.items()}
    same = all(params[name] is param for name, param in eqn.params.items())
    return eqn if same else eqn.replace(params=params)


def _primitives(jaxpr: Any) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in inner_jaxprs(eqn):
            yield from _primitives(getattr(inner, "jaxpr", inner))


def _cost(jaxpr: Any, names: frozenset[str] | None = None) -> int:
    """Return the work of a jaxpr: the largest operand or result of every operation, summed.

    Of the operations with these names, or of all.
    """
    total = 0
    for eqn in jaxpr.eqns:
        inner = list(inner_jaxprs(eqn))
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        if inner:
            total += repeats * sum(_cost(getattr(sub, "jaxpr", sub), names) for sub in inner)
        elif names is None or eqn.primitive.name in names:
            sizes = [math.prod(v.aval.shape) for v in (*eqn.invars, *eqn.outvars)]
            total += max(sizes, default=0)
    return total
