"""Averages over the last steps, which converge faster than these (Polyak & Juditsky 1992)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from advi.variational.guide import Guide
from advi.variational.per_row import PerRow
from advi.variational.point import Point


class TailAverage(NamedTuple):
    """Averages of the parameters over the current and the previous window of steps.

    Windows end at powers of two: after 2^k steps they are (2^(k-2), 2^(k-1)] and (2^(k-1), 2^k].
    """

    older: Any
    newer: Any
    num_older: Array  # ()
    num_newer: Array  # ()


def tail_average(average: TailAverage) -> Any:
    """Return the average of the parameters over the last half to three quarters of the steps.

    On the host: a program of its own would take longer to compile than to fetch the numbers.
    """
    older, newer, num_older, num_newer = jax.device_get(average)
    total = max(int(num_older + num_newer), 1)
    w = int(num_older) / total
    return jax.tree.map(lambda a, b: a * a.dtype.type(w) + b * b.dtype.type(1 - w), older, newer)


def averaged_blocks(guide: Guide, settle: bool) -> tuple[bool, ...]:
    """Return which blocks end with the average of their steps.

    Distributions always do; estimates only in a fit until convergence (`settle`), as a network
    trained for a number of steps is expected in its last state. Tables never do: averaging all rows
    would cost more than a step on a few.
    """
    return tuple(
        not isinstance(b.family, PerRow) and (settle or not (b.local or isinstance(b.base, Point)))
        for b in guide.blocks
    )


def averaged_only(params: Any, averaged: tuple[bool, ...]) -> Any:
    """Return the parameters of the averaged blocks, () for the others."""
    return tuple(p if keep else () for p, keep in zip(params, averaged, strict=True))


def with_step(average: TailAverage, params: Any, step: Array) -> TailAverage:
    """Return the averages with one step more; the windows move after powers of two."""
    move = ((step - 1) & (step - 2)) == 0
    older = jax.tree.map(lambda a, b: jnp.where(move, b, a), average.older, average.newer)
    num_older = jnp.where(move, average.num_newer, average.num_older)
    count = jnp.where(move, 1, average.num_newer + 1)
    newer = jax.tree.map(
        lambda mean, p: jnp.where(move, p, mean + (p - mean) / count.astype(p.dtype)),
        average.newer,
        params,
    )
    return TailAverage(older, newer, num_older, count)
