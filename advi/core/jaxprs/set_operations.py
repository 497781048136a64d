"""Sums, products and writes of arrays, as the sets of coordinates go through them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from advi.core.jaxprs.coordinate_sets import (
    Flow,
    Pairs,
    gathered_into,
    mixed,
    passed_on,
    require_memory,
    union,
)


def _reduced(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of sums and extremes over axes."""
    shape, axes = eqn.invars[0].aval.shape, eqn.params["axes"]
    kept = [n for axis, n in enumerate(shape) if axis not in axes]
    out = np.arange(math.prod(kept)).reshape([1 if k in axes else n for k, n in enumerate(shape)])
    into = np.broadcast_to(out, shape).ravel()
    sets = gathered_into(args[0].sets, into, out.size)
    if eqn.primitive.name == "reduce_prod":
        pairs.mix(sets)
    return sets


def _cumulated(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of cumulative sums, products, and extremes."""
    shape, axis = eqn.invars[0].aval.shape, eqn.params["axis"]
    places = np.arange(math.prod(shape)).reshape(shape)
    if eqn.params.get("reverse", False):
        places = np.flip(places, axis)
    lines = np.moveaxis(places, axis, -1).reshape(-1, shape[axis])
    require_memory(lines.size * shape[axis])
    later, earlier = np.tril_indices(shape[axis])
    into, source = lines[:, later].ravel(), lines[:, earlier].ravel()
    sets = passed_on(into, source, places.size, args[0].sets)
    if eqn.primitive.name in ("cumprod", "cumlogsumexp"):
        pairs.mix(sets)
    return sets


def _scattered(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of an array into which others are written, added or multiplied."""
    operand, index, updates = args
    if index.value is None:
        size = math.prod(eqn.outvars[0].aval.shape)
        return mixed([operand.sets, updates.sets], [size], pairs)[0]
    numbers = eqn.params["dimension_numbers"]
    shape, written = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    batching = getattr(numbers, "operand_batching_dims", ())
    windows = iter(numbers.update_window_dims)
    sizes = [
        1 if axis in numbers.inserted_window_dims or axis in batching else written[next(windows)]
        for axis in range(len(shape))
    ]
    places = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    targets = lax.gather_p.bind(
        places,
        np.asarray(index.value, np.int32),
        dimension_numbers=lax.GatherDimensionNumbers(
            offset_dims=numbers.update_window_dims,
            collapsed_slice_dims=numbers.inserted_window_dims,
            start_index_map=numbers.scatter_dims_to_operand_dims,
            operand_batching_dims=batching,
            start_indices_batching_dims=getattr(numbers, "scatter_indices_batching_dims", ()),
        ),
        slice_sizes=tuple(sizes),
        indices_are_sorted=False,
        unique_indices=False,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
        fill_value=-1,
    )
    into = np.asarray(targets).ravel()
    inside = np.flatnonzero(into >= 0)
    added = None
    if updates.sets is not None:
        added = passed_on(into[inside], inside, places.size, updates.sets)
    if eqn.primitive.name in ("scatter-mul", "scatter_mul"):
        pairs.meet(operand.sets, added)
        pairs.mix(added)
    return union([operand.sets, added])


def _product(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of a product of matrices, which leaves out what zeros multiply."""
    (lhs_k, rhs_k), (lhs_b, rhs_b) = eqn.params["dimension_numbers"]
    sides = []
    for arg, v, contracted, batch in zip(
        args, eqn.invars, (lhs_k, rhs_k), (lhs_b, rhs_b), strict=True
    ):
        shape = v.aval.shape
        free = [k for k in range(len(shape)) if k not in contracted and k not in batch]
        order = (*batch, *free, *contracted)
        sizes = [math.prod(shape[k] for k in axes) for axes in (batch, free, contracted)]
        places = np.arange(math.prod(shape)).reshape(shape).transpose(order).reshape(sizes)
        some = np.ones(sizes, bool)
        if arg.sets is None and arg.value is not None:
            some = arg.value.ravel()[places] != 0
        sides.append((arg.sets, places, some))
    (left, left_at, left_some), (right, right_at, right_some) = sides
    batch, rows, inner = left_at.shape
    columns = right_at.shape[1]
    require_memory(batch * rows * inner * columns)
    b, m, n, k = np.nonzero(left_some[:, :, None] & right_some[:, None])
    into = (b * rows + m) * columns + n
    size = batch * rows * columns
    parts = []
    if left is not None:
        parts.append(passed_on(into, left_at[b, m, k], size, left))
    if right is not None:
        parts.append(passed_on(into, right_at[b, n, k], size, right))
    if left is not None and right is not None:
        by_left = np.repeat(np.arange(batch * inner).reshape(batch, 1, inner), rows, 1)
        by_right = np.repeat(np.arange(batch * inner).reshape(batch, 1, inner), columns, 1)
        pairs.meet(
            passed_on(by_left.ravel(), left_at.ravel(), batch * inner, left),
            passed_on(by_right.ravel(), right_at.ravel(), batch * inner, right),
        )
    return union(parts)


def _solved(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of solutions of triangular systems, each column for itself."""
    matrix, right = args
    shape = eqn.invars[1].aval.shape
    places = np.arange(math.prod(shape)).reshape(shape)
    if not eqn.params["left_side"]:
        places = np.swapaxes(places, -1, -2)
    columns = np.swapaxes(places, -1, -2).reshape(-1, places.shape[-2])  # of one system each
    system = np.empty(places.size, int)
    system[columns] = np.arange(len(columns))[:, None]
    of_right = gathered_into(right.sets, system, len(columns))
    of_matrix = _of_each_matrix(matrix, eqn.invars[0].aval.shape)
    if of_matrix is not None:
        pairs.mix(of_matrix)
        of_matrix = of_matrix[np.repeat(np.arange(of_matrix.shape[0]), places.shape[-1])]
        pairs.meet(of_matrix, of_right)
    return union([of_matrix, of_right])[system]


def _factorised(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Any:
    """Return the sets of Cholesky factors, each matrix for itself."""
    shape = eqn.invars[0].aval.shape
    sets = _of_each_matrix(args[0], shape)
    pairs.mix(sets)
    require_memory(sets.nnz * shape[-1] ** 2)
    return sets[np.repeat(np.arange(sets.shape[0]), shape[-1] * shape[-2])]


def _of_each_matrix(arg: Flow, shape: Sequence[int]) -> Any:
    """Return the unions of the sets of every matrix of a stack (..., n, m)."""
    size = shape[-1] * shape[-2]
    num = math.prod(shape) // max(size, 1)
    return gathered_into(arg.sets, np.repeat(np.arange(num), size), num)


SPECIAL = {
    "triangular_solve": _solved,
    "cholesky": _factorised,
    "reduce_sum": _reduced,
    "reduce_max": _reduced,
    "reduce_min": _reduced,
    "reduce_prod": _reduced,
    "cumsum": _cumulated,
    "cummax": _cumulated,
    "cummin": _cumulated,
    "cumprod": _cumulated,
    "cumlogsumexp": _cumulated,
    "scatter": _scattered,
    "scatter-add": _scattered,
    "scatter_add": _scattered,
    "scatter-mul": _scattered,
    "scatter_mul": _scattered,
    "scatter-min": _scattered,
    "scatter-max": _scattered,
    "dot_general": _product,
}
