"""Compiled functions of a variational distribution: draws, and log p - log q by row."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from advi.core.jax_config import compiled
from advi.data.spec import DataSpec
from advi.model.real_density import real_log_density
from advi.model.terms import Terms
from advi.model.trace import LogJoint
from advi.variational.amortised import Amortised
from advi.variational.guide import Guide
from advi.variational.winding import middle, weighed

WEIGHT_DRAWS = 50  # importance draws at once, for memory


@lru_cache(maxsize=64)
def encode_program(family: Amortised, spec: DataSpec) -> Any:
    """Return the function (encoder's parameters, batch) -> parameters of each row."""
    return compiled(lambda params, batch: family.at_rows(params, batch, spec.axes))


@lru_cache(maxsize=64)
def draw_program(guide: Guide) -> Any:
    """Return the function (params, eps) -> constrained values of one draw, by latent."""
    return compiled(lambda params, eps: guide.model.constrain(guide.draw(params, eps))[0])


@lru_cache(maxsize=64)
def draws_program(guide: Guide) -> Any:
    """Return `draw_program` for several draws (n, noise_dim)."""
    return compiled(jax.vmap(draw_program(guide), in_axes=(None, 0)))


def log_difference(guide: Guide, log_joint: LogJoint) -> Callable[[Any, Any, Array], Terms]:
    """Return the function (params, batch, eps) -> log p - log q of one draw, as `Terms`."""
    log_p = real_log_density(guide.model, log_joint, guide.estimated)

    def one(params: Any, batch: Any, eps: Array) -> Terms:
        real, log_q = guide.draw_and_log_q(params, eps)
        p = weighed(guide, log_p(real, batch), real, middle(guide, params))
        q = guide.block_terms(log_q)
        return Terms(p.shared - q.shared, p.per_row - q.rows)

    return one


@lru_cache(maxsize=64)
def terms_program(guide: Guide, log_joint: LogJoint) -> Any:
    """Return `log_difference` for several draws (n, noise_dim)."""
    return compiled(jax.vmap(log_difference(guide, log_joint), in_axes=(None, None, 0)))


@lru_cache(maxsize=64)
def log_marginal_program(guide: Guide, log_joint: LogJoint) -> Any:
    """Return the function (params, batch, key, chunk, draws) -> each row's log p(x), nats."""
    draws = jax.vmap(log_difference(guide, log_joint), in_axes=(None, None, 0))

    def program(params: Any, batch: Any, key: Array, chunk: Array, num_draws: Array) -> Array:
        key = jax.random.fold_in(key, chunk)

        def more(i: Array, total: Array) -> Array:
            noise = jax.random.normal(jax.random.fold_in(key, i), (WEIGHT_DRAWS, guide.noise_dim))
            log_weights = draws(params, batch, noise).rows
            asked = i * WEIGHT_DRAWS + jnp.arange(WEIGHT_DRAWS) < num_draws
            log_weights = jnp.where(asked[:, None], log_weights, -jnp.inf)
            return jnp.logaddexp(total, logsumexp(log_weights, axis=0))

        none = jnp.full((guide.num_rows,), -jnp.inf)
        groups = -(-num_draws // WEIGHT_DRAWS)
        return jax.lax.fori_loop(0, groups, more, none) - jnp.log(num_draws)

    return compiled(program)
