"""Indices outside of their array.

JAX clamps them when it reads and drops them when it writes, without a word. Where a trace computes
an index from the data by arithmetic alone, it is computed here on the host and compared with the
length of the axis.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex_core
import numpy as np

from advi.core.jaxprs.equality import constants
from advi.core.jaxprs.known_values import Known, applied, constant_of, input_at, is_number
from advi.core.jaxprs.linear_operations import CALLS
from advi.core.jaxprs.loops import carried
from advi.core.jaxprs.traced import Traced
from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.trace import LogJoint


class Site(NamedTuple):
    """An index that is computed from inputs alone, and the range that it must lie in."""

    index_values: Known
    column: int | None  # of an index of several columns
    last: int  # the largest index that is inside
    length: int  # of the axis
    array: int | None  # the input that is indexed


def check_indices(
    traced: Traced,
    values: Sequence[Any],
    names: Sequence[str],
    what: str = "log_joint",
    constants_too: bool = True,
) -> None:
    """Raise ValueError if an index that comes from known inputs is outside of its array.

    `values` are those of the trace's inputs, None if unknown; `names` theirs, "data leaf 'g'";
    `what` the function that was traced. A forecast reads beyond the data by constant indices, and
    does not take what it finds there: without `constants_too` they are not looked at.
    """
    hidden = {i for i, value in enumerate(values) if value is None}
    for site in _sites(traced):
        if hidden & site.index_values.leaves or not (constants_too or site.index_values.leaves):
            continue
        index = site.index_values.value(values)
        if site.column is not None:
            index = index[..., site.column]
        bad = (index < 0) | (index > site.last)
        if not bad.any():
            continue
        first = np.argwhere(bad)[0]
        at = f" at row {first[0]}" if len(first) else ""
        sources = ", ".join(names[i] for i in sorted(site.index_values.leaves))
        array = "an array" if site.array is None else names[site.array]
        raise ValueError(
            f"{what}: an index from {sources or 'a constant'} is {index[tuple(first)]}{at}, and "
            f"points into {array} along an axis of length {site.length}; expected 0 to "
            f"{site.last} ({int(bad.sum())} of {bad.size} are outside). JAX would read the nearest "
            "entry, or drop what is written. Codes begin at 0; give a code that is new an entry "
            "of its own, and where it is to be left out, one that is inside and a mask."
        )


@lru_cache(maxsize=64)
def _sites(traced: Traced) -> tuple[Site, ...]:
    inner = traced.jaxpr.jaxpr
    sites: list[Site] = []
    inputs = [input_at(i) if is_number(v.aval) else None for i, v in enumerate(inner.invars)]
    _walk(traced.jaxpr, inputs, list(range(len(inner.invars))), sites)
    return tuple(sites)


def _walk(
    jaxpr: Any, inputs: Sequence[Known | None], origins: Sequence[int | None], sites: list[Site]
) -> list[Known | None]:
    """Gather the sites of a jaxpr; return its results that are known.

    `origins` maps its inputs to those of the whole trace.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Any, Known | None] = dict(zip(inner.invars, inputs, strict=True))
    origin: dict[Any, int | None] = dict(zip(inner.invars, origins, strict=True))
    for v, constant in zip(inner.constvars, constants(jaxpr), strict=False):
        known[v] = constant_of(constant) if is_number(v.aval) else None

    def of(v: Any) -> Known | None:
        if isinstance(v, jex_core.Literal):
            return constant_of(v.val) if is_number(v.aval) else None
        return known.get(v)

    def origin_of(v: Any) -> int | None:
        return None if isinstance(v, jex_core.Literal) else origin.get(v)

    for eqn in inner.eqns:
        name, args = eqn.primitive.name, [of(v) for v in eqn.invars]
        from_ = [origin_of(v) for v in eqn.invars]
        results: list[Known | None] = [None] * len(eqn.outvars)
        if name in CALLS:
            body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            results = _walk(body, args, from_, sites)
        elif name == "scan":
            _walk_scan(eqn, args, from_, sites)
        elif name == "gather":
            sites += _gathered(eqn, args[1], from_[0])
        elif name.startswith("scatter"):
            sites += _scattered(eqn, args[1], from_[0])
        elif name == "dynamic_slice":
            sites += _sliced(eqn, args[1:], from_[0])
        elif all(arg is not None for arg in args) and len(eqn.outvars) == 1:
            results = [applied(eqn, [arg for arg in args if arg is not None])]
        if name in ("convert_element_type", "copy", "stop_gradient"):
            origin[eqn.outvars[0]] = from_[0]
        known |= dict(zip(eqn.outvars, results, strict=True))
    return [of(v) for v in inner.outvars]


def _walk_scan(
    eqn: Any, args: Sequence[Known | None], from_: Sequence[int | None], sites: list[Site]
) -> None:
    """Gather the sites in a loop, whose scalars are known for all steps at once."""
    body = eqn.params["jaxpr"]
    avals = [v.aval for v in getattr(body, "jaxpr", body).invars]
    inputs: list[Known | None] = []
    for arg, outer, aval in zip(args, eqn.invars, avals, strict=True):
        same = outer.aval.shape == aval.shape
        if arg is None or arg.steps or not (same or aval.shape == ()):
            inputs.append(None)
        else:
            inputs.append(arg if same else arg._replace(steps=True))
    # a carried value has the shape of a constant of the loop, but changes
    carry = carried(eqn)
    inputs = [None if i in carry else known for i, known in enumerate(inputs)]
    origins = [
        o if outer.aval.shape == aval.shape and i not in carry else None
        for i, (o, outer, aval) in enumerate(zip(from_, eqn.invars, avals, strict=True))
    ]
    _walk(body, inputs, origins, sites)


def _sites_of(
    index: Known | None, axes: Sequence[int], sizes: Sequence[int], shape: Any, array: int | None
) -> list[Site]:
    if index is None:
        return []
    # in a loop an index of one column is a scalar for every step
    columns = [None] * (len(axes) == 1) if index.steps else list(range(len(axes)))
    return [
        Site(index, column, shape[axis] - size, shape[axis], array)
        for column, axis, size in zip(columns, axes, sizes, strict=False)
    ]


def _gathered(eqn: Any, index: Known | None, array: int | None) -> list[Site]:
    numbers, mode = eqn.params["dimension_numbers"], str(eqn.params["mode"])
    # intended clipping collapses its axis; vmap of x[i] does not
    if "CLIP" in mode and numbers.collapsed_slice_dims:
        return []
    fill = eqn.params["fill_value"]  # jnp.take's default is NaN
    if "FILL" in mode and fill is not None and not np.isnan(fill):
        return []
    axes = [int(axis) for axis in numbers.start_index_map]
    sizes = [eqn.params["slice_sizes"][axis] for axis in axes]
    return _sites_of(index, axes, sizes, eqn.invars[0].aval.shape, array)


def _scattered(eqn: Any, index: Known | None, array: int | None) -> list[Site]:
    numbers, mode = eqn.params["dimension_numbers"], str(eqn.params["mode"])
    axes = [int(axis) for axis in numbers.scatter_dims_to_operand_dims]
    if "CLIP" in mode or not set(axes) <= set(numbers.inserted_window_dims):
        return []
    return _sites_of(index, axes, [1] * len(axes), eqn.invars[0].aval.shape, array)


def _sliced(eqn: Any, starts: Sequence[Known | None], array: int | None) -> list[Site]:
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    return [
        Site(start, None, length - size, length, array)
        for start, length, size in zip(starts, shape, sizes, strict=True)
        if start is not None
    ]


def check_data_indices(
    model: Model, log_joint: LogJoint, spec: DataSpec, data: Any, what: str = "log_joint"
) -> None:
    """Raise ValueError, beginning with `what`, if a log-joint's index from its data is outside."""
    names = [f"latent {name!r}" for name in model.latents]
    names += [f"data leaf {name!r}" for name in spec.names]
    values = [None] * len(model.latents) + jax.tree.leaves(data)
    check_indices(log_joint.flat, values, names, what)
