"""A key of a jaxpr that compares by value: two are equal exactly if the computations are."""

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex_core
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from advi.core.identity import Identity

Key = tuple[Any, ...]


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """Yield the jaxprs in the parameters of an equation, closed or not."""
    for param in eqn.params.values():
        for item in param if isinstance(param, (tuple, list)) else (param,):
            if is_jaxpr(item):
                yield item


def is_jaxpr(value: Any) -> bool:
    """Return whether a value is a jaxpr, closed or not."""
    return isinstance(value, (jex_core.ClosedJaxpr, jex_core.Jaxpr))


# rules of differentiation, which are functions: parameters of these names, replaced by a trace
RULES = {
    "custom_jvp_call": ("jvp_jaxpr_fun",),
    "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
}
PLAIN = (bool, int, str)


def key_of(jaxpr: Any, strict: bool, rules: bool = True) -> Key:
    """Return a key that two jaxprs, closed or not, share exactly if they compute the same.

    Functions without a trace are compared by identity if `strict`, else not at all. With `rules`
    custom rules of differentiation are compared too.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
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
        params = {k: p for k, p in eqn.params.items() if k not in functions}
        inputs = tuple(map(atom, eqn.invars))
        derivative = _rule(eqn, strict) if functions and rules else None
        return name, _param(params, strict, rules), inputs, bind(eqn.outvars), derivative

    head = bind(inner.constvars), tuple(map(_content, constants(jaxpr))), bind(inner.invars)
    return *head, tuple(map(equation, inner.eqns)), tuple(map(atom, inner.outvars))


def constants(jaxpr: Any) -> Sequence[Any]:
    """Return the values of a jaxpr's constants; one that is not closed has none."""
    return getattr(jaxpr, "consts", ())


def _param(value: Any, strict: bool, rules: bool) -> Any:
    if value is None or type(value) in PLAIN:
        return type(value), value
    if is_jaxpr(value):
        return key_of(value, strict, rules)
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
        return Identity(value) if strict else type(value)
    # functions are compared by identity, and so are objects without equality of their own
    opaque = callable(value) or type(value).__hash__ is object.__hash__
    return type(value) if opaque and not strict else (type(value), value)


def _rule(eqn: Any, strict: bool) -> Any:
    """Return the key of the derivative of an equation with custom rules."""
    floats = [np.issubdtype(v.aval.dtype, np.inexact) for v in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    some = [shape for shape, is_float in zip(shapes, floats, strict=True) if is_float]

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

    results = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
    backward = [result for result in results if np.issubdtype(result.dtype, np.inexact)]
    try:
        jaxpr = jax.make_jaxpr(derivative)(shapes, some, backward)
    except Exception:  # the user's own rule: its error is raised where it is differentiated
        return Identity(eqn) if strict else None
    return key_of(jaxpr, strict, rules=False)


# a JAX array never changes: its digest is kept as long as it lives
_digests: dict[int, tuple[Any, Key]] = {}


def _content(value: Any) -> Any:
    """Return a key of the contents of a constant."""
    if isinstance(value, Tracer):
        return Identity(value)
    if not isinstance(value, jax.Array):
        return _digest(np.asarray(value))
    identity = id(value)
    if identity in _digests:
        return _digests[identity][1]
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        content = (str(value.dtype), _digest(jax.device_get(jax.random.key_data(value))))
    else:
        content = _digest(jax.device_get(value))
    _digests[identity] = weakref.ref(value, lambda _: _digests.pop(identity, None)), content
    return content


def _digest(array: np.ndarray) -> Key:
    if array.nbytes <= 32:
        return str(array.dtype), array.shape, array.tobytes()
    flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return str(array.dtype), array.shape, hashlib.sha256(flat.data).digest()
