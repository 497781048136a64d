"""The plan of one Gaussian as a compiled program of arrays, for data sets of one shape.

Starts are screened by their ELBO on a few draws; the best ones go on by Newton steps of a mean
field on fixed draws, and the best of these by those of the whole Gaussian, until they gain nothing.
A few averaged steps on fresh draws follow where fixed ones are overfitted.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from advi.core.jax_config import compiled
from advi.inference.many.importance import Weighted, weighted
from advi.inference.many.newton import At, Search, newton
from advi.inference.many.noise import Noise
from advi.inference.plan import newton as host
from advi.inference.plan.polish import BURN_IN, cut
from advi.inference.plan.refine import POLISH_ROUGHNESS
from advi.inference.plan.search import SAME_START_SDS
from advi.inference.plan.triangular_step import Blocks, polished
from advi.model.checks.tails import NEAR
from advi.model.model import Model
from advi.model.real_density import real_log_density
from advi.model.trace import LogJoint
from advi.posterior.record import MODE_NATS

SCALES = (1.0, 0.1, 0.01)  # of each start
NUM_STARTS = 3
MAX_EVALS, GAIN_NATS = 60, 1e-3  # of the last Newton steps


class Ended(NamedTuple):
    """The end of one fit."""

    loc: Any  # (D,)
    tril: Any  # (D, D)
    elbos: Any  # (128,) of pairs of fresh draws, nats
    fixed_elbo: Any  # on the fixed draws, nats
    arrived: Any  # whether no more was to be gained
    num_evals: Any  # of the fixed draws, by the last Newton steps
    num_gradients: Any
    apart: Any  # whether another start ended nearly as high or higher, elsewhere
    log_ratios: Any  # (1000,) log p - log q of its draws
    mean: Any  # (K,) of these on the constrained scale
    sd: Any
    weighted: Weighted
    far: Any  # (n,) log densities far out


@lru_cache(maxsize=16)
def program(
    model: Model,
    log_joint: LogJoint,
    estimated: frozenset[str],
    blocks: Blocks,
    mapped: tuple[bool, bool, bool],
) -> Callable[..., Ended]:
    """Return the compiled fits of (data, weights, noise, shared).

    `mapped` says which of the first three have a leading axis of fits. Weights are None, or of the
    rows. Shared are the point `first` (D,) where all start, `random` and `same_block`, and steps
    `far` (n, D) after which log densities are evaluated, from a point that is `generic` (D,) in
    coordinates far from zero.
    """
    log_p = real_log_density(model, log_joint, estimated)

    def one(data: Any, weights: Any, noise: Noise, shared: Any) -> Ended:
        def value(x: Array) -> Array:
            terms = log_p(model.split(x), data)
            return terms.total() if weights is None else terms.weighted(weights)

        def columns(x: Array) -> Array:
            values = model.unravel(x)[0]
            return jnp.concatenate([values[name].ravel() for name in model.latents])

        return _plan(jax.vmap(value), jax.vmap(jax.value_and_grad(value)), jax.vmap(columns),
                     noise, blocks, *shared)  # fmt: skip

    def many(data: Any, weights: Any, noise: Noise, shared: Any) -> Ended:
        given = data, weights, noise
        over = [part if many else None for part, many in zip(given, mapped, strict=True)]

        def each(part: Any) -> Ended:
            pairs = zip(part, given, mapped, strict=True)
            data, weights, drawn = (a if many else b for a, b, many in pairs)
            return one(data, weights, drawn, shared)

        return lax.map(each, over)

    return compiled(many)


def _plan(
    values: Callable[[Array], Array],
    values_and_grads: Callable[[Array], tuple[Array, Array]],
    columns: Callable[[Array], Array],
    noise: Noise,
    blocks: Blocks,
    first: Array,
    random: Array,
    same_block: Array,
    generic: Array,
    far: Array,
) -> Ended:
    dim = len(first)

    def evaluated(loc: Array, tril: Array) -> At:
        log_p, gradients = values_and_grads(loc + noise.fixed @ tril.T)
        value = -log_p.mean() - _log_det(tril, random)
        finite = jnp.isfinite(value) & jnp.isfinite(gradients).all()
        return At(loc, tril, jnp.where(finite, value, jnp.inf), gradients)

    steps = partial(newton, evaluated, noise.fixed, random)

    def from_start(start: tuple[Array, Array]) -> Search:
        loc, scale = start
        at = evaluated(loc, scale * jnp.eye(dim))
        return steps(at, jnp.eye(dim, dtype=bool), "diagonal", host.GAIN_NATS, host.MAX_EVALS)

    def to_end(given: tuple[At, Array]) -> Search:
        at, wanted = given
        return steps(at, same_block, blocks, GAIN_NATS, jnp.where(wanted, MAX_EVALS, 0))

    near = lax.map(from_start, _starts(values, noise, first, random))
    differ = _best(near.at) | _apart(near.at)
    ends = lax.map(to_end, (near.at, differ))
    end = jax.tree.map(lambda leaf: leaf[jnp.argmin(ends.at.value)], ends)
    loc, tril, value, _ = end.at
    apart = (differ & _apart(ends.at)).any()

    elbos, rough = _fresh(values_and_grads, loc, tril, noise.fresh, random)

    def by_polish(_: Any) -> tuple[Array, Array, Array]:
        ploc, ptril = _polished(values_and_grads, loc, tril, noise.polish, random, same_block)
        after, _ = _fresh(values_and_grads, ploc, ptril, noise.fresh, random)
        better = after.mean() > elbos.mean()
        return jax.tree.map(partial(jnp.where, better), (ploc, ptril, after), (loc, tril, elbos))

    is_rough = rough > POLISH_ROUGHNESS
    loc, tril, elbos = lax.cond(is_rough, by_polish, lambda _: (loc, tril, elbos), None)
    X = loc + noise.weighted @ tril.T
    log_p, log_q = values(X), _log_q(noise.weighted, tril, random)
    quantities = columns(X)
    found = weighted(values, columns, loc, tril, (X, log_p, log_q), noise.rounds)
    out = values(jnp.where(jnp.abs(loc) < NEAR, loc, generic) + far)
    num_gradients = len(noise.fixed) * (near.num_evals.sum() + ends.num_evals.sum())
    num_gradients += (1 + is_rough) * len(noise.fresh) + is_rough * noise.polish[..., 0].size
    constant = 0.5 * random.sum() * (1 + np.log(2 * np.pi))
    return Ended(
        loc, tril, elbos, constant - value, end.arrived & jnp.isfinite(value), end.num_evals,
        num_gradients, apart, log_p - log_q, quantities.mean(0), quantities.std(0), found, out,
    )  # fmt: skip


def _best(ends: At) -> Array:
    return jnp.arange(len(ends.value)) == jnp.argmin(ends.value)


def _apart(ends: At) -> Array:
    """Return which ends (S,) are nearly as high as the best one, elsewhere."""
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(ends.value)], ends)
    distance = jnp.abs(ends.loc - best.loc) / jnp.linalg.norm(best.tril, axis=1)
    return (distance.max(1) > SAME_START_SDS) & (ends.value < best.value + MODE_NATS)


def _starts(
    values: Callable[[Array], Array], noise: Noise, first: Array, random: Array
) -> tuple[Array, Array]:
    """Return the points (S, D) of the highest ELBO on a few draws, and their best scales (S,)."""
    locs, scales = first + noise.starts, jnp.array(SCALES, first.dtype)
    X = locs[:, None, None] + scales[:, None, None] * noise.screen
    log_p = values(X.reshape(-1, len(first))).reshape(len(locs), len(scales), -1).mean(2)
    elbos = log_p + random.sum() * jnp.log(scales)
    elbos = jnp.where(jnp.isfinite(elbos), elbos, -jnp.inf)
    _, best = lax.top_k(elbos.max(1), NUM_STARTS)
    return locs[best], scales[elbos[best].argmax(1)]


def _polished(
    values_and_grads: Any, loc: Array, tril: Array, draws: Array, random: Array, same_block: Array
) -> tuple[Array, Array]:
    """Return the average of sticking-the-landing steps on fresh draws, as `polish.polish` does."""

    def step(at: tuple[Array, Array], E: Array) -> Any:
        loc, tril = at
        _, gradients = values_and_grads(loc + E @ tril.T)
        W = gradients @ tril + E
        by = jnp.where(random, cut(jnp, W.mean(0)), 0.0)
        after = loc + tril @ by, polished(jnp, tril, W, E, same_block, partial(cut, jnp))
        return after, after

    _, (locs, trils) = lax.scan(step, (loc, tril), draws)
    return locs[BURN_IN:].mean(0), trils[BURN_IN:].mean(0)


def _fresh(
    values_and_grads: Any, loc: Array, tril: Array, E: Array, random: Array
) -> tuple[Array, Array]:
    """Return ELBOs of antithetic pairs of draws E, nats, and the gradients' roughness."""
    log_p, gradients = values_and_grads(loc + E @ tril.T)
    elbos = (log_p - _log_q(E, tril, random)).reshape(2, -1).mean(0)
    even = gradients.reshape(2, len(elbos), -1).mean(0) @ tril
    return elbos, jnp.where(random, even.var(0), 0.0).sum()


def _log_q(E: Array, tril: Array, random: Array) -> Array:
    standard = jnp.where(random, -0.5 * (E**2 + np.log(2 * np.pi)), 0.0).sum(1)
    return standard - _log_det(tril, random)


def _log_det(tril: Array, random: Array) -> Array:
    return jnp.where(random, jnp.log(jnp.diag(tril)), 0.0).sum()
