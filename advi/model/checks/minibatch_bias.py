"""Whether minibatches of a log-joint add up to the whole, as stochastic steps assume."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core.jax_config import compiled
from advi.core.types import Floats
from advi.data.batching import Batching, check_batch
from advi.data.source import gather_program
from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.real_density import real_log_density
from advi.model.trace import LogJoint, trace

Part = tuple[Model, LogJoint]  # for some number of rows

BATCH, MAX_ROWS = 16, 2**16  # small batches, in which errors are largest
TOLERANCE = 1e-3  # of the terms' size: single precision's rounding is below, errors are near 1/B
NEGLIGIBLE = 1e-2  # part of the largest gradient that is added to the unit of every other

TAKE_FROM_DATA = "Take every row, and the number of rows, from `data`."


class Differences(NamedTuple):
    """A partition of the rows against the whole, at P points; relative sizes are of the terms."""

    mean: Array  # (P,) relative: total of the batches, averaged, less the total of all rows
    gradient: Array  # (P,) the same of the gradient, the largest entry
    shared: Array  # (P,) nats: largest change of Terms.shared from the whole to a batch
    row: Array  # (P,) nats: largest change of any row


def bias(
    model: Model, data: Any, spec: DataSpec, X: Floats, rng: np.random.Generator
) -> tuple[str | None, str]:
    """Compare minibatches with the whole of their rows.

    The rows are partitioned into batches at random. Averaged over such a partition, the log
    density ``shared + N/B * sum(rows)`` and its gradient equal those of the whole up to rounding
    if, and at generic points only if, minibatches are unbiased. Of many rows a random
    `MAX_ROWS` stand for all. The log-joint returns `Terms` of at least two rows, and is finite at
    X (P, D).

    Returns
    -------
    problem
        The fault and its remedy, in a sentence; None if there is none.
    note
        The parts that were compared.
    """
    num_rows = trace(model, spec).num_rows
    assert num_rows is not None
    batch = min(BATCH, num_rows // 2)
    kept = min(num_rows, MAX_ROWS) // batch * batch
    whole_spec = spec.by_row(num_rows).with_length(kept)
    batch_spec = whole_spec.with_length(batch)
    note = f"minibatches of {batch} rows against the {kept} rows that they are parts of"
    if kept < num_rows:
        data = gather_program(whole_spec)(data, np.sort(rng.choice(num_rows, kept, replace=False)))
    try:
        parts = []
        for num, of_part in ((kept, whole_spec), (batch, batch_spec)):
            part = model.with_rows(num)
            parts.append((part, trace(part, of_part)))
            check_batch(Batching(num_rows, num), parts[-1][1].num_rows)
    except Exception as error:  # whatever the user's own code raises
        problem = f"log_joint fails for a part of the rows: {error}"
        return problem if TAKE_FROM_DATA in problem else f"{problem} {TAKE_FROM_DATA}", note
    order = rng.permutation(kept).reshape(-1, batch)
    differences = _differences(model, *parts, batch_spec, kept)
    found = jax.device_get(differences(X.astype(spec.float_dtype), data, order))
    mean, gradient, shared, row = (float(np.max(x)) for x in found)
    if mean <= TOLERANCE and gradient <= TOLERANCE:  # not if they are NaN
        return None, f"{note}: equal on average, to {max(mean, gradient, 1e-16):.0e} of their size"
    reasons = []
    if not shared <= TOLERANCE * max(1.0, row):
        reasons.append(
            f"Terms.shared changes with the batch by up to {shared:.2g} nats: it must not depend "
            "on the rows nor on their number; what does belongs into Terms.rows"
        )
    if not row <= TOLERANCE * max(1.0, shared):
        reasons.append(
            f"the term of one row changes by up to {row:.2g} nats with the rows beside it: it must "
            "depend on that row of the data and the latents alone. Compute means, counts and "
            "neighbours once from all data, and pass them as data; leave the factor N/B, and the "
            "number of rows, to the engine"
        )
    reason = "; and ".join(reasons) or "the terms agree, but their gradients do not"
    size = np.max([mean, gradient])  # NaN if one of them is
    return f"minibatches are biased, by {size:.1g} of the whole: {reason}.", note


@lru_cache(maxsize=8)
def _differences(model: Model, whole: Part, batch: Part, spec: DataSpec, num_rows: int) -> Any:
    num_batch = batch[1].num_rows or 1

    def totals(part: Model, log_joint: LogJoint, scale: float) -> Any:
        log_p = real_log_density(part, log_joint, frozenset())

        def one(x: Array, index: Array, data: Any) -> tuple[Array, tuple[Array, Array]]:
            real = model.split(x)
            real |= {name: real[name][index] for name in model.local}
            terms = log_p(real, data)
            return terms.total(scale), (terms.shared, terms.per_row)

        return jax.vmap(jax.value_and_grad(one, has_aux=True), in_axes=(0, None, None))

    of_whole = totals(*whole, 1.0)
    of_batch = totals(*batch, num_rows / num_batch)

    def differences(X: Array, data: Any, order: Array) -> Differences:
        every = jnp.arange(num_rows)
        (whole_value, (whole_shared, whole_rows)), gradient = of_whole(X, every, data)
        size = jnp.abs(whole_shared) + jnp.abs(whole_rows).sum(1)

        def add(sums: Any, index: Array) -> tuple[Any, tuple[Array, Array]]:
            (value, (shared, of_rows)), found = of_batch(X, index, spec.gather(data, index))
            parts = (value - whole_value, found - gradient, jnp.abs(found))
            shared = jnp.abs(shared - whole_shared)
            row = jnp.abs(of_rows - whole_rows[:, index]).max(1)
            return jax.tree.map(jnp.add, sums, parts), (shared, row)

        zeros = jnp.zeros_like(whole_value), jnp.zeros_like(gradient), jnp.zeros_like(gradient)
        (off, gradient_off, gradient_size), (shared, row) = jax.lax.scan(add, zeros, order)
        # where a coordinate's gradient is nearly zero, it is the rounding of the others that shows
        unit = gradient_size + NEGLIGIBLE * gradient_size.max(1, keepdims=True)
        off_gradient = jnp.abs(gradient_off) / jnp.where(unit > 0, unit, 1.0)
        return Differences(
            jnp.abs(off) / len(order) / size, off_gradient.max(1), shared.max(0), row.max(0)
        )

    return compiled(differences)
