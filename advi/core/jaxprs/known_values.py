"""Values of a trace that its inputs determine by arithmetic alone, computed on the host."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Evaluate = Callable[[Sequence[Any]], np.ndarray]  # from the inputs' values

MAX_ELEMENTS = 2**24  # of an index array; one that is larger is not looked at

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
    """A value of a trace that its inputs determine, without any latent.

    Attributes
    ----------
    value
        From the values of the inputs.
    leaves
        The inputs that it comes from.
    steps
        Whether it is a scalar in a loop, and the value holds that of every step.
    """

    value: Evaluate
    leaves: frozenset[int]
    steps: bool = False


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
    """Return the known result of arithmetic on known values, or None of what is not looked at."""
    name, params, aval = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    steps = any(arg.steps for arg in args)
    function = ELEMENTWISE.get(name)
    if function is None and steps:
        if math.prod(aval.shape) != 1 or name not in ("broadcast_in_dim", "reshape", "squeeze"):
            return None
        function = np.asarray
    elif function is None:
        function = _shaped(name, params, aval)
    if name == "convert_element_type":
        whole = np.issubdtype(aval.dtype, np.integer)
        function = (lambda x: np.trunc(x).astype(np.int64)) if whole else np.asarray
    if function is None or math.prod(aval.shape) > MAX_ELEMENTS:
        return None
    apply: Callable[..., Any] = function

    def value(values: Sequence[Any]) -> np.ndarray:
        # as wide as they come: a sum that wraps around in 32 bits is outside in any case
        return np.asarray(apply(*(_wide(arg.value(values)) for arg in args)))

    return Known(value, frozenset().union(*(arg.leaves for arg in args)), steps)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64) if np.issubdtype(array.dtype, np.integer) else array


def _shaped(name: str, params: dict[str, Any], aval: Any) -> Callable[..., Any] | None:
    """Return NumPy's function for an operation that arranges entries anew."""
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]

        def broadcast(x: np.ndarray) -> np.ndarray:
            shape = [1] * len(aval.shape)
            for axis, length in zip(axes, x.shape, strict=True):
                shape[axis] = length
            return np.broadcast_to(x.reshape(shape), aval.shape)

        return broadcast
    if name in ("reshape", "squeeze", "expand_dims"):
        return lambda x: x.reshape(aval.shape)
    if name == "concatenate":
        return lambda *parts: np.concatenate(parts, params["dimension"])
    if name == "transpose":
        return lambda x: x.transpose(params["permutation"])
    if name == "iota":
        shape = [1] * len(aval.shape)
        shape[params["dimension"]] = -1
        return lambda: np.broadcast_to(
            np.arange(aval.shape[params["dimension"]]).reshape(shape), aval.shape
        )
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
