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
from advi.inference.many.noise import Noise
from advi.inference.plan import newton as rules
from advi.inference.plan.polish import BURN_IN, cut
from advi.inference.plan.refine import POLISH_ROUGHNESS
from advi.inference.plan.search import SAME_START_SDS
from advi.inference.plan.triangular_step import Curvature, curvature, moved, on_boundary, polished
from advi.model.density import real_log_density
from advi.model.model import Model
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
    apart: Any  # whether another start ended nearly as high or higher, elsewhere
    log_ratios: Any  # (1000,) log p - log q of the weighted draws
    mean: Any  # (K,) of the draws on the constrained scale, and weighted by p / q
    sd: Any
    weighted_mean: Any
    weighted_sd: Any


class _At(NamedTuple):
    """A Gaussian, its value on the fixed draws without the entropy's constant, and gradients."""

    loc: Array
    tril: Array
    value: Array  # minus the ELBO; infinite where anything is not finite
    gradients: Array  # (M, D)


class _Search(NamedTuple):
    """The state of Newton steps."""

    at: _At
    damping: Array
    radius: Array
    num_evals: Array
    arrived: Array
    done: Array


@lru_cache(maxsize=16)
def program(
    model: Model, log_joint: LogJoint, estimated: frozenset[str], mapped: tuple[bool, bool, bool]
) -> Callable[..., Ended]:
    """Return the compiled fits of (data, weights, noise, first (D,), random, same_block).

    `mapped` says which of the first three have a leading axis of fits. Weights are None, or of the
    rows.
    """
    log_p = real_log_density(model, log_joint, estimated)

    def one(data: Any, weights: Any, noise: Noise, first: Array, structure: Any) -> Ended:
        def value(x: Array) -> Array:
            terms = log_p(model.split(x), data)
            return terms.total() if weights is None else terms.weighted(weights)

        def columns(x: Array) -> Array:
            values = model.unravel(x)[0]
            return jnp.concatenate([values[name].ravel() for name in model.latents])

        return _plan(jax.vmap(value), jax.vmap(jax.value_and_grad(value)), jax.vmap(columns),
                     noise, first, *structure)  # fmt: skip

    def many(data: Any, weights: Any, noise: Noise, first: Array, structure: Any) -> Ended:
        given = data, weights, noise
        over = [part if many else None for part, many in zip(given, mapped, strict=True)]

        def each(part: Any) -> Ended:
            pairs = zip(part, given, mapped, strict=True)
            data, weights, drawn = (a if many else b for a, b, many in pairs)
            return one(data, weights, drawn, first, structure)

        return lax.map(each, over)

    return compiled(many)


def _plan(
    values: Callable[[Array], Array],
    values_and_grads: Callable[[Array], tuple[Array, Array]],
    columns: Callable[[Array], Array],
    noise: Noise,
    first: Array,
    random: Array,
    same_block: Array,
) -> Ended:
    dim = len(first)

    def evaluated(loc: Array, tril: Array) -> _At:
        log_p, gradients = values_and_grads(loc + noise.fixed @ tril.T)
        value = -log_p.mean() - _log_det(tril, random)
        finite = jnp.isfinite(value) & jnp.isfinite(gradients).all()
        return _At(loc, tril, jnp.where(finite, value, jnp.inf), gradients)

    def from_start(start: tuple[Array, Array]) -> _At:
        loc, scale = start
        at = evaluated(loc, scale * jnp.eye(dim))
        return _newton(at, evaluated, noise, random, jnp.eye(dim, dtype=bool),
                       rules.GAIN_NATS, rules.MAX_EVALS).at  # fmt: skip

    ends = lax.map(from_start, _starts(values, noise, first, random))
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(ends.value)], ends)
    distance = jnp.abs(ends.loc - best.loc) / jnp.diag(best.tril)
    apart = (distance.max(1) > SAME_START_SDS) & (ends.value < best.value + MODE_NATS)
    found = _newton(best, evaluated, noise, random, same_block, GAIN_NATS, MAX_EVALS)
    loc, tril, value, _ = found.at

    elbos, rough = _fresh(values_and_grads, loc, tril, noise.fresh, random)

    def by_polish(_: Any) -> tuple[Array, Array, Array]:
        ploc, ptril = _polished(values_and_grads, loc, tril, noise.polish, random, same_block)
        after, _ = _fresh(values_and_grads, ploc, ptril, noise.fresh, random)
        better = after.mean() > elbos.mean()
        return jax.tree.map(partial(jnp.where, better), (ploc, ptril, after), (loc, tril, elbos))

    loc, tril, elbos = lax.cond(
        rough > POLISH_ROUGHNESS, by_polish, lambda _: (loc, tril, elbos), None
    )
    X = loc + noise.weighted @ tril.T
    log_ratios = values(X) - _log_q(noise.weighted, tril, random)
    moments = _moments(columns(X), log_ratios)
    constant = 0.5 * random.sum() * (1 + np.log(2 * np.pi))
    return Ended(
        loc, tril, elbos, constant - value, found.arrived & jnp.isfinite(value), found.num_evals,
        apart.any(), log_ratios, *moments,
    )  # fmt: skip


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


def _newton(
    at: _At,
    evaluated: Callable[[Array, Array], _At],
    noise: Noise,
    random: Array,
    same_block: Array,
    least_gain: float,
    max_evals: int,
) -> _Search:
    """Take Newton steps while they gain enough, as `newton.newton` does for one fit."""

    def body(state: _Search) -> _Search:
        at, radius = state.at, state.radius
        W = at.gradients @ at.tril
        here = curvature(jnp, W, noise.fixed, random, same_block)
        u = _within(here, radius)
        step = moved(jnp, here, at.loc, at.tril, same_block, state.damping, u)
        trial, length = evaluated(step.loc, step.tril), jnp.linalg.norm(u)
        lower, gain = trial.value < at.value, at.value - trial.value
        poor = gain < rules.POOR * step.mean_gain
        grown = jnp.where(jnp.isfinite(radius), rules.GROWTH * length, jnp.inf)
        shrunk, damping = rules.SHRINKAGE * length, rules.DAMPING * state.damping
        little = step.mean_gain + step.scale_gain < least_gain
        arrived = jnp.where(
            lower, (gain < least_gain) & ~(poor & (step.mean_gain > least_gain)), little
        )
        num_evals = state.num_evals + 1
        return _Search(
            jax.tree.map(partial(jnp.where, lower), trial, at),
            jnp.where(lower, 1.0, damping).astype(damping.dtype),
            jnp.where(lower & ~poor, grown, shrunk),
            num_evals,
            arrived,
            arrived | (~lower & (damping < rules.MIN_DAMPING)) | (num_evals >= max_evals),
        )

    one, inf = jnp.ones((), at.loc.dtype), jnp.full((), jnp.inf, at.loc.dtype)
    never = ~jnp.isfinite(at.value)
    begin = _Search(at, one, inf, jnp.ones((), jnp.int32), jnp.zeros((), bool), never)
    return lax.while_loop(lambda state: ~state.done, body, begin)


def _within(at: Curvature, radius: Array) -> Array:
    u = at.slope / at.h
    return jnp.where(jnp.linalg.norm(u) <= radius, u, on_boundary(jnp, at, radius))


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


def _moments(columns: Array, log_ratios: Array) -> tuple[Array, Array, Array, Array]:
    """Return means and sds of columns (n, K), and those weighted by p / q."""
    mean = columns.mean(0)
    weights = jax.nn.softmax(jnp.where(jnp.isnan(log_ratios), -jnp.inf, log_ratios))
    centred = columns - mean
    shift = weights @ centred
    variance = weights @ (centred - shift) ** 2
    return mean, centred.std(0), mean + shift, jnp.sqrt(variance)


def _log_q(E: Array, tril: Array, random: Array) -> Array:
    standard = jnp.where(random, -0.5 * (E**2 + np.log(2 * np.pi)), 0.0).sum(1)
    return standard - _log_det(tril, random)


def _log_det(tril: Array, random: Array) -> Array:
    return jnp.where(random, jnp.log(jnp.diag(tril)), 0.0).sum()
