"""Averages of the parameters over the last steps of a stochastic fit.

Polyak & Juditsky (1992): the average converges faster than the steps that it is of.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from advi.variational.guide import Guide
from advi.variational.per_row import PerRow
from advi.variational.point import Point


class TailAverage(NamedTuple):
    """Averages of the parameters since the last power of two steps, and from the one before to it.

    After 2^k steps they cover the steps (2^(k-2), 2^(k-1)] and (2^(k-1), 2^k].
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
    share = int(num_older) / total
    return jax.tree.map(
        lambda a, b: a * a.dtype.type(share) + b * b.dtype.type(1 - share), older, newer
    )


def averaged_blocks(guide: Guide, settle: bool) -> tuple[bool, ...]:
    """Return which blocks end with the average of their steps: what is inferred, always.

    Estimates do where the fit is left to `settle`; after a number of steps asked for, a network is
    expected where the last one left it. A table never does: averaging all its rows would cost more
    than a step on a few.
    """
    return tuple(
        not isinstance(b.family, PerRow) and (settle or not (b.local or isinstance(b.base, Point)))
        for b in guide.blocks
    )


def averaged_only(params: Any, averaged: tuple[bool, ...]) -> Any:
    """Return the parameters of the averaged blocks, and nothing in place of the others'."""
    return tuple(p if keep else () for p, keep in zip(params, averaged, strict=True))


def with_step(average: TailAverage, params: Any, step: Array) -> TailAverage:
    """Return the averages with one step more; both windows move on after powers of two."""
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
