"""Which second derivatives of a traced function may differ from zero, by the flow of its data.

Every entry of every array of the trace has the set of coordinates of x that it depends on, a row
of a sparse matrix. An operation that is linear passes these sets on; one that is not, such as an
exponential or a product, adds the pairs of coordinates that meet in it. The pattern that is found
holds at any x, and may have more pairs than the Hessian: an operation that is not known here is
taken to mix all that goes into it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex_core
import numpy as np
import scipy
from jax import lax
from numpy.typing import NDArray

from advi.core.jaxprs.coordinate_sets import (
    Flow,
    Pairs,
    empty_sets,
    identity,
    mixed,
    spread,
    taken,
    union,
)
from advi.core.jaxprs.equality import constants
from advi.core.jaxprs.known_values import applied, constant_of, is_number, rearranged
from advi.core.jaxprs.linear_operations import CALLS, LINEAR, NONLINEAR, WITHOUT_DERIVATIVE
from advi.core.jaxprs.loops import carried
from advi.core.jaxprs.set_operations import SPECIAL

MEMORY = 8  # steps that a loop may look back, for all to be taken at once


def hessian_pattern(jaxpr: Any, values: Sequence[Any]) -> Any:
    """Return the pattern (D, D) of the Hessian of a closed jaxpr's result by its first input.

    The result is a scalar. The first input is a vector (D,), whose value is not needed; `values`
    are those of the others.
    TooDenseError if more pairs would be added than the memory is good for.
    """
    [x, *_] = jaxpr.jaxpr.invars
    [dim] = x.aval.shape
    pairs = Pairs(dim)
    inputs = [Flow(identity(dim))]
    inputs += [Flow(None, np.asarray(value)) for value in values]
    _walk(jaxpr, inputs, pairs)
    return pairs.symmetric()


def _walk(jaxpr: Any, inputs: Sequence[Flow], pairs: Pairs) -> list[Flow]:
    """Return the flow into the results of a jaxpr, closed or not."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Any, Flow] = dict(zip(inner.invars, inputs, strict=True))
    for v, constant in zip(inner.constvars, constants(jaxpr), strict=False):
        known[v] = Flow(None, np.asarray(constant) if is_number(v.aval) else None)

    def of(v: Any) -> Flow:
        if isinstance(v, jex_core.Literal):
            return Flow(None, np.asarray(v.val) if is_number(v.aval) else None)
        return known[v]

    for eqn in inner.eqns:
        known |= zip(eqn.outvars, _results(eqn, [of(v) for v in eqn.invars], pairs), strict=True)
    return [of(v) for v in inner.outvars]


def _results(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> Sequence[Flow]:
    name = eqn.primitive.name
    if name in CALLS:
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        return _walk(body, args, pairs)
    if all(arg.sets is None for arg in args):
        return _constants(eqn, args)
    if name in WITHOUT_DERIVATIVE:
        return [Flow(None)] * len(eqn.outvars)
    if name == "scan":
        return _scan(eqn, args, pairs)
    if name == "cond":
        results = [_walk(branch, args[1:], pairs) for branch in eqn.params["branches"]]
        return [Flow(union(f.sets for f in flows)) for flows in zip(*results, strict=True)]
    sizes = [math.prod(v.aval.shape) for v in eqn.invars]
    sets = [arg.sets for arg in args]
    if name in LINEAR or name in NONLINEAR or name in ("mul", "div", "integer_pow"):
        shape = eqn.outvars[0].aval.shape
        broadcast = [spread(s, v.aval.shape, shape) for s, v in zip(sets, eqn.invars, strict=True)]
        return [Flow(_elementwise(eqn, broadcast, pairs))]
    if name in SPECIAL:
        return [Flow(SPECIAL[name](eqn, args, pairs))]
    source = _source(eqn, args)
    if source is not None:
        return [Flow(taken(sets, sizes, source, pairs.dim))]
    sizes = [math.prod(v.aval.shape) for v in eqn.outvars]
    return [Flow(found) for found in mixed(sets, sizes, pairs)]


def _constants(eqn: Any, args: Sequence[Flow]) -> list[Flow]:
    """Return what arithmetic alone gives of an operation that no coordinate goes into."""
    unknown = any(arg.value is None for arg in args) or len(eqn.outvars) != 1
    if unknown or not is_number(eqn.outvars[0].aval):
        return [Flow(None)] * len(eqn.outvars)
    found = applied(eqn, [constant_of(arg.value) for arg in args])
    return [Flow(None, None if found is None else found.value([]))]


def _elementwise(eqn: Any, sets: Sequence[Any], pairs: Pairs) -> Any:
    name = eqn.primitive.name
    if name == "select_n":
        return union(sets[1:])
    if name == "mul":
        pairs.meet(*sets)
    elif name == "div":
        pairs.meet(*sets)
        pairs.mix(sets[1])
    elif name == "integer_pow":
        if eqn.params["y"] not in (0, 1):
            pairs.mix(sets[0])
    elif name in NONLINEAR:
        pairs.mix(union(sets))
    return union(sets)


def _scan(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> list[Flow]:
    """Return the flow through a loop: all steps at once where its memory is short."""
    values = [args[i].value for i in carried(eqn)]
    counts = any(value is not None and value.dtype.kind in "iu" for value in values)
    if not counts and eqn.params["length"] > MEMORY:
        found = _all_steps(eqn, args, pairs)
        if found is not None:
            return found
    return _step_by_step(eqn, args, pairs)


def _all_steps(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> list[Flow] | None:
    """Return the flow through all steps of a loop together; None if its memory is long.

    What is carried into the steps is found by going through them again, until that changes nothing.
    """
    params = eqn.params
    length, (num_consts, num_carry) = params["length"], _numbers(eqn)
    consts, first = args[:num_consts], args[num_consts : num_consts + num_carry]
    avals = [v.aval for v in eqn.invars]
    batched = [*avals[num_consts : num_consts + num_carry]]
    axes = [None] * num_consts + [0] * (len(args) - num_consts)
    inputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals[:num_consts]]
    inputs += [jax.ShapeDtypeStruct((length, *a.shape), a.dtype) for a in batched]
    inputs += [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals[num_consts + num_carry :]]
    body = jax.make_jaxpr(jax.vmap(jex_core.jaxpr_as_fun(params["jaxpr"]), axes))(*inputs)
    sizes = [math.prod(a.shape) for a in batched]

    def carried_in(ends: Sequence[Flow]) -> list[Flow]:
        """Return what each step begins with, from what each ends with."""
        found = []
        for start, end, size in zip(first, ends, sizes, strict=True):
            empty = empty_sets(size, pairs.dim)
            rows = end.sets if end.sets is not None else empty_sets(size * length, pairs.dim)
            kept = rows[size:] if params["reverse"] else rows[: size * (length - 1)]
            parts = [empty if start.sets is None else start.sets, kept]
            found.append(
                Flow(scipy.sparse.vstack(parts[::-1] if params["reverse"] else parts, "csr"))
            )
        return found

    carry = carried_in([Flow(None)] * num_carry)
    for _ in range(MEMORY):
        results = _walk(body, [*consts, *carry, *args[num_consts + num_carry :]], pairs)
        again = carried_in(results[:num_carry])
        if _num_entries(again) == _num_entries(carry):  # they only grow
            break
        carry = again
    else:
        return None
    last = slice(0, 1) if params["reverse"] else slice(length - 1, length)
    ends = [
        Flow(None if end.sets is None else end.sets[last.start * size : last.stop * size])
        for end, size in zip(results[:num_carry], sizes, strict=True)
    ]
    return [*ends, *(Flow(result.sets) for result in results[num_carry:])]


def _numbers(eqn: Any) -> tuple[int, int]:
    """Return how many inputs of a loop are constant, and how many are carried."""
    carry = carried(eqn)
    return carry.start, len(carry)


def _num_entries(flows: Sequence[Flow]) -> int:
    return sum(flow.sets.nnz for flow in flows if flow.sets is not None)


def _step_by_step(eqn: Any, args: Sequence[Flow], pairs: Pairs) -> list[Flow]:
    """Return the flow through a loop, one step after another."""
    params = eqn.params
    body, length, (num_consts, num_carry) = params["jaxpr"], params["length"], _numbers(eqn)
    consts, carry = list(args[:num_consts]), list(args[num_consts : num_consts + num_carry])
    stacked = args[num_consts + num_carry :]
    outputs: list[list[Flow]] = []
    steps = range(length)
    for t in reversed(steps) if params["reverse"] else steps:
        now = [_entry(arg, t, length) for arg in stacked]
        results = _walk(body, [*consts, *carry, *now], pairs)
        carry = results[:num_carry]
        outputs.append(results[num_carry:])
    if params["reverse"]:
        outputs.reverse()
    found = []
    for k, v in enumerate(eqn.outvars[num_carry:]):
        size = math.prod(v.aval.shape) // max(length, 1)
        rows = [step[k].sets for step in outputs]
        if all(r is None for r in rows):
            found.append(Flow(None))
            continue
        empty = empty_sets(size, pairs.dim)
        found.append(Flow(scipy.sparse.vstack([empty if r is None else r for r in rows], "csr")))
    return [*carry, *found]


def _entry(arg: Flow, t: int, length: int) -> Flow:
    """Return what goes into one step of a loop."""
    if arg.sets is not None:
        size = arg.sets.shape[0] // length
        return Flow(arg.sets[t * size : (t + 1) * size])
    return Flow(None, None if arg.value is None else arg.value[t])


def _source(eqn: Any, args: Sequence[Flow]) -> NDArray[Any] | None:
    """Return which entry of all operands, one after another, each entry of the result is.

    It is -1 for those of none, and None of an operation that does not rearrange entries.
    """
    shapes = [v.aval.shape for v in eqn.invars]
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    places = [
        start + np.arange(math.prod(shape)).reshape(shape)
        for start, shape in zip(starts, shapes, strict=False)
    ]
    name, params, aval = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    function = rearranged(name, params, aval)
    if function is not None:
        return np.asarray(function(*places)).ravel()
    if name == "rev":
        return np.flip(places[0], params["dimensions"]).ravel()
    if name == "gather" and args[1].value is not None:
        moved = eqn.primitive.bind(
            places[0].astype(np.int32), np.asarray(args[1].value, np.int32),
            **{**params, "fill_value": -1},
        )  # fmt: skip
        return np.asarray(moved).ravel()
    if name in ("dynamic_slice", "dynamic_update_slice"):
        moved_from = 1 if name == "dynamic_slice" else 2
        if any(arg.value is None for arg in args[moved_from:]):
            return None
        window = params["slice_sizes"] if name == "dynamic_slice" else shapes[1]
        part = tuple(
            slice(first := int(np.clip(np.asarray(arg.value), 0, whole - size)), first + size)
            for arg, whole, size in zip(args[moved_from:], shapes[0], window, strict=True)
        )
        if name == "dynamic_slice":
            return places[0][part].ravel()
        places[0][part] = places[1]
        return places[0].ravel()
    if name == "pad":
        padded = lax.pad(places[0].astype(np.int32), np.int32(-1), params["padding_config"])
        found = np.asarray(padded).ravel()
        return np.where(found < 0, starts[1], found)  # the padding's own set
    return None
