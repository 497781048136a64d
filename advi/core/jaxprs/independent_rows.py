"""Whether a traced function of rows computes each row's result from that row alone.

Every array of the trace has an axis that runs over the rows, or none. An operation that keeps the
rows apart passes the axis on; of one that is not known to do so, the rows are taken to be mixed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex_core
import numpy as np

from advi.core.jaxprs.equality import RULES, constants, inner_jaxprs, is_jaxpr
from advi.core.jaxprs.linear_operations import CALLS, LINEAR, NONLINEAR, WITHOUT_DERIVATIVE

Axis = int | None  # of the rows in an array; None: it does not depend on them
MIXED = -1  # the rows are mixed, or an entry depends on its place among them

ELEMENTWISE = (LINEAR | NONLINEAR | WITHOUT_DERIVATIVE | {"mul", "div", "integer_pow"}) - {
    "argmax",
    "argmin",
    "iota",
    "optimization_barrier",
    "reduce_and",
    "reduce_or",
}


def same_for_each_row(whole: Any, part: Any, num_whole: int, num_part: int) -> bool:
    """Return whether two closed jaxprs compute the same, for two numbers of rows.

    They have the same operations on the same operands, and differ in the lengths of axes alone.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def traced(f, n):
    ...     return jax.make_jaxpr(f)(jax.ShapeDtypeStruct((n,), jnp.float32))
    >>> for f in (lambda y: 2 * y, lambda y: y / len(y)):
    ...     print(same_for_each_row(traced(f, 900), traced(f, 30), 900, 30))
    True
    False
    """
    return _Comparison(num_whole, num_part).same(whole, part)


class _Comparison:
    """A comparison of values in two traces, for two numbers of rows."""

    def __init__(self, num_whole: int, num_part: int) -> None:
        self.numbers = num_whole, num_part

    def same(self, a: Any, b: Any) -> bool:
        if type(a) is not type(b):
            return False
        if is_jaxpr(a):
            return self._same_jaxprs(a, b)
        if isinstance(a, (tuple, list)):
            return len(a) == len(b) and all(map(self.same, a, b))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(self.same(a[k], b[k]) for k in a)
        if isinstance(a, int) and not isinstance(a, bool):
            return a == b or (a, b) == self.numbers
        if isinstance(a, float) or (hasattr(a, "shape") and hasattr(a, "dtype")):
            return _equal(a, b)
        return callable(a) or bool(a == b)

    def _same_jaxprs(self, a: Any, b: Any) -> bool:
        numbers: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
        first, second = getattr(a, "jaxpr", a), getattr(b, "jaxpr", b)

        def bound(v: Any, w: Any) -> bool:
            for known, variable in zip(numbers, (v, w), strict=True):
                known[variable] = len(known)
            return v.aval.dtype == w.aval.dtype and self.same(v.aval.shape, w.aval.shape)

        def read(v: Any, w: Any) -> bool:
            if isinstance(v, jex_core.Literal) or isinstance(w, jex_core.Literal):
                return type(v) is type(w) and _equal(v.val, w.val)
            return numbers[0][v] == numbers[1][w]

        def pairs(test: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
            return len(left) == len(right) and all(map(test, left, right))

        def equations(left: Any, right: Any) -> bool:
            left_params, right_params = _without_rules(left), _without_rules(right)
            return (
                left.primitive is right.primitive
                and pairs(read, left.invars, right.invars)
                and self.same(left_params, right_params)
                and pairs(bound, left.outvars, right.outvars)
            )

        return (
            pairs(_equal, constants(a), constants(b))
            and pairs(bound, first.constvars, second.constvars)
            and pairs(bound, first.invars, second.invars)
            and pairs(equations, first.eqns, second.eqns)
            and pairs(read, first.outvars, second.outvars)
        )


def _without_rules(eqn: Any) -> dict[str, Any]:
    functions = RULES.get(eqn.primitive.name, ())
    return {name: param for name, param in eqn.params.items() if name not in functions}


def _equal(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def row_axes(jaxpr: Any, axes: Sequence[Axis], num_rows: int) -> list[Axis]:
    """Return the axis of the rows in every result of a jaxpr, by the axes of its inputs.

    It is `MIXED` where an entry may depend on other rows than its own.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known = dict(zip(inner.invars, axes, strict=True))

    def axis_of(v: Any) -> Axis:
        return None if isinstance(v, jex_core.Literal) else known.get(v)

    for eqn in inner.eqns:
        given = [axis_of(v) for v in eqn.invars]
        found = _results(eqn, given, num_rows)
        known.update(zip(eqn.outvars, found, strict=True))
    return [axis_of(v) for v in inner.outvars]


def _results(eqn: Any, axes: Sequence[Axis], num_rows: int) -> Sequence[Axis]:
    name, mixed = eqn.primitive.name, [MIXED] * len(eqn.outvars)
    if MIXED in axes:
        return mixed
    if name in CALLS:
        return row_axes(next(iter(inner_jaxprs(eqn))), axes, num_rows)
    if name == "broadcast_in_dim":
        return [_broadcast(eqn, axes[0], num_rows)]
    if all(axis is None for axis in axes):
        return [None] * len(eqn.outvars)
    if name in ELEMENTWISE:
        return [_elementwise(eqn, axes)]
    if name in RULE_OF:
        return [RULE_OF[name](eqn, axes)] * len(eqn.outvars)
    return mixed


def _elementwise(eqn: Any, axes: Sequence[Axis]) -> Axis:
    """Return the axis that all operands share; those without rows have one entry along it."""
    [axis, *others] = {axis for axis in axes if axis is not None}
    shapes = [v.aval.shape for v, own in zip(eqn.invars, axes, strict=True) if own is None]
    return MIXED if others or any(shape and shape[axis] != 1 for shape in shapes) else axis


def _broadcast(eqn: Any, axis: Axis, num_rows: int) -> Axis:
    """Return the axis after a broadcast, which may have made that of the rows."""
    places, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    if axis is not None:
        return places[axis]
    kept = dict(zip(places, eqn.invars[0].aval.shape, strict=True))
    new = [k for k, n in enumerate(shape) if n == num_rows and kept.get(k, 1) == 1]
    return new[0] if len(new) == 1 else None


def _reduced(eqn: Any, axes: Sequence[Axis]) -> Axis:
    return _removed(axes[0], eqn.params["axes"])


def _squeezed(eqn: Any, axes: Sequence[Axis]) -> Axis:
    return _removed(axes[0], eqn.params["dimensions"])


def _removed(axis: Any, removed: Sequence[int]) -> Axis:
    return MIXED if axis in removed else axis - sum(k < axis for k in removed)


def _along(name: str) -> Callable[[Any, Sequence[Axis]], Axis]:
    """Return the rule of an operation along an axis, or several, that is a parameter of it."""

    def rule(eqn: Any, axes: Sequence[Axis]) -> Axis:
        along = eqn.params[name]
        [axis, *others] = set(axes)
        return MIXED if others or axis in np.atleast_1d(along) else axis

    return rule


def _transposed(eqn: Any, axes: Sequence[Axis]) -> Axis:
    return tuple(eqn.params["permutation"]).index(axes[0])


def _reshaped(eqn: Any, axes: Sequence[Axis]) -> Axis:
    """Return the axis of as many entries, with as many before it."""
    axis: Any = axes[0]
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    sizes = math.prod(before[:axis]), before[axis]
    places = (k for k in range(len(after)) if (math.prod(after[:k]), after[k]) == sizes)
    return next(places, MIXED) if eqn.params.get("dimensions") is None else MIXED


def _product(eqn: Any, axes: Sequence[Axis]) -> Axis:
    (lhs_k, rhs_k), (lhs_b, rhs_b) = eqn.params["dimension_numbers"]
    left, right = axes
    if left is not None and right is not None:
        pairs = list(zip(lhs_b, rhs_b, strict=True))
        return pairs.index((left, right)) if (left, right) in pairs else MIXED
    side = 0 if right is None else 1
    axis: Any = axes[side]
    contracted, batch = (lhs_k, rhs_k)[side], (lhs_b, rhs_b)[side]
    if axis in contracted or axis in batch:
        return MIXED
    free = [
        [k for k in range(len(v.aval.shape)) if k not in ks and k not in bs]
        for v, ks, bs in zip(eqn.invars, (lhs_k, rhs_k), (lhs_b, rhs_b), strict=True)
    ]
    return len(batch) + side * len(free[0]) + free[side].index(axis)


def _sliced(eqn: Any, axes: Sequence[Axis]) -> Axis:
    """Return the axis after a part is taken, if it is taken of other axes."""
    axis: Any = axes[0]
    whole = eqn.invars[0].aval.shape[axis] == eqn.outvars[0].aval.shape[axis]
    alone = all(other is None for other in axes[1:])
    forward = (eqn.params.get("strides") or (1,) * (axis + 1))[axis] == 1
    return axis if whole and alone and forward else MIXED


def _padded(eqn: Any, axes: Sequence[Axis]) -> Axis:
    axis, of_padding = axes
    untouched = axis is not None and eqn.params["padding_config"][axis] == (0, 0, 0)
    return axis if untouched and of_padding is None else MIXED


def _gathered(eqn: Any, axes: Sequence[Axis]) -> Axis:
    numbers, (operand, index) = eqn.params["dimension_numbers"], axes
    num = len(eqn.outvars[0].aval.shape)
    of_index = [k for k in range(num) if k not in numbers.offset_dims]
    if index is not None:
        batching = numbers.operand_batching_dims, numbers.start_indices_batching_dims
        apart = operand is None and index not in batching[1]
        paired = (operand, index) in zip(*batching, strict=True)
        return of_index[index] if (apart or paired) and index < len(of_index) else MIXED
    shape = eqn.invars[0].aval.shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [k for k in range(len(shape)) if k not in gone]
    if operand not in kept or eqn.params["slice_sizes"][operand] != shape[operand]:
        return MIXED
    return numbers.offset_dims[kept.index(operand)]


RULE_OF: dict[str, Callable[[Any, Sequence[Axis]], Axis]] = {
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        _reduced,
    ),
    **dict.fromkeys(("argmax", "argmin"), _reduced),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"), _along("axis")
    ),
    **dict.fromkeys(("concatenate", "sort"), _along("dimension")),
    "rev": _along("dimensions"),
    "squeeze": _squeezed,
    "transpose": _transposed,
    "reshape": _reshaped,
    "dot_general": _product,
    "slice": _sliced,
    "dynamic_slice": _sliced,
    "pad": _padded,
    "gather": _gathered,
}
