"""Traces that compare by what they compute, so that an equal one finds the compiled programs.

What a user's function reads from outside, such as a global, stands in its trace as a constant. A
function is therefore traced anew whenever it may have changed, and its programs are looked up by
the trace: by its operations, and by the contents of its constants.
"""

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex_core
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from jax import Array
from jax.core import Tracer

Key = tuple[Any, ...]

# JAX and NumPyro keep what they are about to trace in global state: one trace at a time
trace_lock = threading.RLock()


class Traced:
    """A traced function of flat arguments; two whose operations and constants agree are one object.

    It holds constants of its own: an array that its owner changes later does not change it.

    Attributes
    ----------
    jaxpr
        The trace, closed.
    """

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr

    def __call__(self, *args: Any) -> Sequence[Array]:
        """Return the results, a flat list."""
        return jex_core.jaxpr_as_fun(self.jaxpr)(*args)

    @cached_property
    def cost(self) -> int:
        """Array elements read and written by one evaluation: a measure of its work."""
        return _cost(self.jaxpr.jaxpr)

    @cached_property
    def primitives(self) -> frozenset[str]:
        """Names of all operations, those of inner functions included."""
        return frozenset(_primitives(self.jaxpr.jaxpr))

    def is_like(self, other: "Traced") -> bool:
        """Return whether it computes what another does, leaving aside what cannot be compared."""
        return self is other or _key(self.jaxpr, False) == _key(other.jaxpr, False)


_known: "weakref.WeakValueDictionary[Key, Traced]" = weakref.WeakValueDictionary()


def interned(jaxpr: Any) -> Traced:
    """Return the one `Traced` that stands for all closed jaxprs equal to this one."""
    key = _key(jaxpr, True)
    with trace_lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = Traced(_owning(jaxpr))
    return found


def traced(function: Callable[..., Any], *args: Any) -> tuple[Traced, Any]:
    """Trace a function of pytrees of arrays, of which only shapes and dtypes matter.

    Returns
    -------
    traced
        Of the leaves of the arguments.
    shape
        The tree that the function returns, of shapes and dtypes.
    """
    jaxpr, shape = fresh_jaxpr(function, *args)
    return interned(jaxpr), shape


def fresh_jaxpr(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Return the closed jaxpr of a function as it is now, and the shape of its result.

    JAX remembers the traces of functions that it knows: of this one, of those that the user has
    jitted, and of bodies of loops that are not made anew. Where a part is what it was in an
    earlier trace, all is traced once more without that memory.
    """

    def anew(*args: Any) -> Any:
        return function(*args)

    with trace_lock:
        found = jax.make_jaxpr(anew, return_shape=True)(*args)
        parts = list(_own_parts(found[0].jaxpr))
        if any(_remembered.get(id(part)) is part for part in parts):
            with _memory(object()):
                found = jax.make_jaxpr(anew, return_shape=True)(*args)
        _remembered.update((id(part), part) for part in parts)
        return found


_memory = jax.make_user_context(None)  # JAX finds its traces again only where this is the same
_remembered: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()
_LIBRARIES = tuple(str(Path(m.__file__).parent) for m in (jax, numpyro, optax) if m.__file__)


def _own_parts(jaxpr: Any) -> Iterator[Any]:
    """Yield the inner jaxprs that are of functions of the user's."""
    for eqn in jaxpr.eqns:
        for inner in inner_jaxprs(eqn):
            part = getattr(inner, "jaxpr", inner)
            source = part.debug_info.func_src_info if part.debug_info else ""
            if not source or not any(library in source for library in _LIBRARIES):
                yield inner
                yield part
            yield from _own_parts(part)


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """Yield the jaxprs in the parameters of an equation, closed or not."""
    for param in eqn.params.values():
        for item in param if isinstance(param, (tuple, list)) else (param,):
            if _is_jaxpr(item):
                yield item


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jex_core.ClosedJaxpr, jex_core.Jaxpr))


class _Same:
    """What is equal to nothing but itself, and by its type alone where that is overlooked."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


# rules of differentiation, which are functions: parameters of these names, replaced by a trace
RULES = {
    "custom_jvp_call": ("jvp_jaxpr_fun",),
    "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
}


PLAIN = (bool, int, str)


def _key(jaxpr: Any, strict: bool, rules: bool = True) -> Key:
    """Return what two jaxprs have in common exactly if they compute the same.

    Parameters
    ----------
    jaxpr
        Closed or not.
    strict
        Whether functions that cannot be looked into are told apart by identity, or are overlooked.
    rules
        Whether custom rules of differentiation are looked into.
    """
    inner = jaxpr.jaxpr
    number: dict[int, int] = {}

    def bind(variables: Sequence[Any]) -> Key:
        for v in variables:
            number[id(v)] = len(number)
        return tuple(v.aval for v in variables)

    def atom(v: Any) -> Any:
        if isinstance(v, jex_core.Literal):
            return v.aval, _content(v.val)
        return number[id(v)]

    def equation(eqn: Any) -> Key:
        name = eqn.primitive.name
        functions = RULES.get(name, ())
        params = tuple(
            (k, _param(p, strict, rules)) for k, p in eqn.params.items() if k not in functions
        )
        inputs = tuple(map(atom, eqn.invars))
        derivative = _rule(eqn, strict) if functions and rules else None
        return name, params, inputs, bind(eqn.outvars), derivative

    head = bind(inner.constvars), tuple(map(_content, _consts(jaxpr))), bind(inner.invars)
    return *head, tuple(map(equation, inner.eqns)), tuple(map(atom, inner.outvars))


def _consts(jaxpr: Any) -> Sequence[Any]:
    return getattr(jaxpr, "consts", ())


def _param(value: Any, strict: bool, rules: bool) -> Any:
    if value is None or type(value) in PLAIN:
        return type(value), value
    if _is_jaxpr(value):
        return _key(_closed(value), strict, rules)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_param(item, strict, rules) for item in value)
    if isinstance(value, dict):
        return tuple((k, _param(item, strict, rules)) for k, item in value.items())
    if isinstance(value, (np.ndarray, jax.Array)):
        return _content(value)
    if isinstance(value, (float, np.floating)):
        return type(value), value.hex() if isinstance(value, float) else value.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value) if strict else type(value)
    # functions are compared by identity, and so are objects without equality of their own
    opaque = callable(value) or type(value).__hash__ is object.__hash__
    return type(value) if opaque and not strict else (type(value), value)


def _closed(jaxpr: Any) -> Any:
    return jaxpr if hasattr(jaxpr, "jaxpr") else _Open(jaxpr)


class _Open:
    """A jaxpr that takes its constants as arguments, in the form of a closed one."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr


def _rule(eqn: Any, strict: bool) -> Any:
    """Return the key of what an equation with custom rules is differentiated to."""
    floats = [np.issubdtype(v.aval.dtype, np.inexact) for v in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    some = [shape for shape, is_float in zip(shapes, floats, strict=True) if is_float]
    results = [v.aval for v in eqn.outvars]

    def derivative(args: list[Any], directions: list[Any], backward: list[Any]) -> Any:
        def function(*moving: Any) -> list[Any]:
            given = iter(moving)
            values = [next(given) if f else arg for f, arg in zip(floats, args, strict=True)]
            out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
            out = out if eqn.primitive.multiple_results else [out]
            return [o for o in out if np.issubdtype(o.dtype, np.inexact)]

        at = [arg for f, arg in zip(floats, args, strict=True) if f]
        if eqn.primitive.name == "custom_jvp_call":
            return jax.jvp(function, at, directions)
        return jax.vjp(function, *at)[1](backward)

    backward = [
        jax.ShapeDtypeStruct(r.shape, r.dtype)
        for r in results
        if np.issubdtype(r.dtype, np.inexact)
    ]
    try:
        jaxpr = jax.make_jaxpr(derivative)(shapes, some, backward)
    except Exception:  # the user's own rule: its error is raised where it is differentiated
        return _Same(eqn) if strict else None
    return _key(jaxpr, strict, rules=False)


# a JAX array never changes: its digest is kept as long as it lives
_digests: dict[int, tuple[Any, Key]] = {}


def _content(value: Any) -> Any:
    """Return what stands for the contents of a constant."""
    if isinstance(value, Tracer):
        return _Same(value)
    if not isinstance(value, jax.Array):
        return _digest(np.asarray(value))
    known = _digests.get(id(value))
    if known is not None:
        return known[1]
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        content = (str(value.dtype), _digest(np.asarray(jax.random.key_data(value))))
    else:
        content = _digest(np.asarray(value))
    place = id(value)
    _digests[place] = weakref.ref(value, lambda _: _digests.pop(place, None)), content
    return content


def _digest(array: np.ndarray) -> Key:
    if array.nbytes <= 32:
        return str(array.dtype), array.shape, array.tobytes()
    flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return str(array.dtype), array.shape, hashlib.sha256(flat.data).digest()


def _owning(value: Any) -> Any:
    """Return a jaxpr, or a parameter, that shares no memory with arrays that may change."""
    if isinstance(value, (tuple, list)):
        items = [_owning(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if not _is_jaxpr(value):
        return value
    inner, consts = getattr(value, "jaxpr", value), _consts(value)
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


def _cost(jaxpr: Any) -> int:
    """Return the work of a jaxpr: the largest operand or result of every operation, summed."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = list(inner_jaxprs(eqn))
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        if inner:
            total += repeats * sum(_cost(getattr(sub, "jaxpr", sub)) for sub in inner)
        else:
            sizes = [math.prod(v.aval.shape) for v in (*eqn.invars, *eqn.outvars)]
            total += max(sizes, default=0)
    return total
