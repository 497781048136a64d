"""Values of a trace that its inputs determine by arithmetic alone, computed on the host."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Evaluate = Callable[[Sequence[Any]], np.ndarray]  # from the inputs' values

MAX_ELEMENTS = 2**24  # of an index array; larger ones are not computed

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.bitwise_not,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases),
    "copy": np.asarray,
    "stop_gradient": np.asarray,
}


class Known(NamedTuple):
    """A value of a trace that its inputs determine, without any latent."""

    value: Evaluate
    leaves: frozenset[int]  # the inputs that it comes from
    steps: bool = False  # whether it is a scalar in a loop, and `value` holds that of every step


def input_at(i: int) -> Known:
    """Return the value of an input."""
    return Known(lambda values: np.asarray(values[i]), frozenset([i]))


def constant_of(value: Any) -> Known:
    """Return a constant."""
    return Known(lambda _: np.asarray(value), frozenset())


def is_number(aval: Any) -> bool:
    """Return whether an array holds numbers, not keys."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)


def applied(eqn: Any, args: Sequence[Known]) -> Known | None:
    """Return the result of arithmetic on known values, or None of other operations."""
    name, params, aval = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    steps = any(arg.steps for arg in args)
    function = ELEMENTWISE.get(name)
    if function is None and steps:
        if math.prod(aval.shape) != 1 or name not in ("broadcast_in_dim", "reshape", "squeeze"):
            return None
        function = np.asarray
    elif function is None:
        function = rearranged(name, params, aval)
    if name == "convert_element_type":
        whole = np.issubdtype(aval.dtype, np.integer)
        function = (lambda x: np.trunc(x).astype(np.int64)) if whole else np.asarray
    if function is None or math.prod(aval.shape) > MAX_ELEMENTS:
        return None

    def value(values: Sequence[Any], apply: Callable[..., Any] = function) -> np.ndarray:
        # in 64 bits: a sum that wraps around in 32 is outside in any case
        return np.asarray(apply(*(_wide(arg.value(values)) for arg in args)))

    return Known(value, frozenset().union(*(arg.leaves for arg in args)), steps)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64) if np.issubdtype(array.dtype, np.integer) else array


def rearranged(name: str, params: dict[str, Any], aval: Any) -> Callable[..., Any] | None:
    """Return NumPy's function for an operation that rearranges entries."""
    if name == "broadcast_in_dim":
        return lambda x: _broadcast(x, params["broadcast_dimensions"], aval.shape)
    if name in ("reshape", "squeeze", "expand_dims"):
        return lambda x: x.reshape(aval.shape)
    if name == "concatenate":
        return lambda *parts: np.concatenate(parts, params["dimension"])
    if name == "transpose":
        return lambda x: x.transpose(params["permutation"])
    if name == "iota":
        axis = params["dimension"]
        return lambda: _broadcast(np.arange(aval.shape[axis]), [axis], aval.shape)
    if name == "slice":
        spans = zip(
            params["start_indices"],
            params["limit_indices"],
            params["strides"] or [1] * len(aval.shape),
            strict=True,
        )
        parts = tuple(slice(*span) for span in spans)
        return lambda x: x[parts]
    return None


def _broadcast(x: np.ndarray, axes: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Return x broadcast to a shape, in which its axes are those named."""
    lengths = [1] * len(shape)
    for axis, length in zip(axes, x.shape, strict=True):
        lengths[axis] = length
    return np.broadcast_to(x.reshape(lengths), shape)
