"""Newton steps of a Gaussian in a compiled loop, by the rules of the plan of one fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from advi.inference.plan import newton as host
from advi.inference.plan.triangular_step import Blocks, Curvature, curvature, moved, on_boundary


class At(NamedTuple):
    """A Gaussian, its value on the fixed draws without the entropy's constant, and gradients."""

    loc: Array  # (D,)
    tril: Array  # (D, D)
    value: Array  # minus the ELBO, nats; infinite where anything is not finite
    gradients: Array  # (M, D)


class Search(NamedTuple):
    """The state of Newton steps."""

    at: At
    damping: Array
    radius: Array
    num_evals: Array
    arrived: Array
    done: Array


def newton(
    evaluated: Callable[[Array, Array], At],
    E: Array,
    random: Array,
    at: At,
    same_block: Array,
    blocks: Blocks,
    least_gain: float,
    max_evals: Array | int,
) -> Search:
    """Take Newton steps on draws E (M, D) while they gain enough, as `plan.newton` does."""

    def body(state: Search) -> Search:
        at, radius = state.at, state.radius
        W = at.gradients @ at.tril
        here = curvature(jnp, W, E, random, same_block, blocks)
        u = _within(here, radius)
        step = moved(jnp, here, at.loc, at.tril, same_block, state.damping, u)
        trial, length = evaluated(step.loc, step.tril), jnp.linalg.norm(u)
        lower, gain = trial.value < at.value, at.value - trial.value
        poor = gain < host.POOR * step.mean_gain
        grown = jnp.where(jnp.isfinite(radius), host.GROWTH * length, jnp.inf)
        shrunk, damping = host.SHRINKAGE * length, host.DAMPING * state.damping
        little = step.mean_gain + step.scale_gain < least_gain
        arrived = jnp.where(
            lower, (gain < least_gain) & ~(poor & (step.mean_gain > least_gain)), little
        )
        num_evals = state.num_evals + 1
        return Search(
            jax.tree.map(partial(jnp.where, lower), trial, at),
            jnp.where(lower, 1.0, damping).astype(damping.dtype),
            jnp.where(lower & ~poor, grown, shrunk),
            num_evals,
            arrived,
            arrived | (~lower & (damping < host.MIN_DAMPING)) | (num_evals >= max_evals),
        )

    one, inf = jnp.ones((), at.loc.dtype), jnp.full((), jnp.inf, at.loc.dtype)
    never = ~jnp.isfinite(at.value) | (max_evals == 0)
    begin = Search(at, one, inf, jnp.ones((), jnp.int32), jnp.zeros((), bool), never)
    return lax.while_loop(lambda state: ~state.done, body, begin)


def _within(at: Curvature, radius: Array) -> Array:
    """Return the maximiser of the quadratic model over all steps of the mean within a radius."""
    u = at.slope / at.h
    inside = jnp.linalg.norm(u) <= radius
    return lax.cond(inside, lambda: u, lambda: on_boundary(jnp, at, radius))
