"""The log density of a variational distribution on the constrained scale."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from advi.core.arrays import on_host
from advi.core.jax_config import compiled, precision
from advi.model.model import Model
from advi.variational.guide import Guide

ROUNDING = 64  # spacings of numbers, by which the mean of equal draws may differ from them


def log_prob(guide: Guide, params: Any, z: Any, float_dtype: str) -> Array:
    """Return log q, () or (n,) nats, of a tree of values; traced inside a JAX transformation."""
    latents = guide.model.latents
    many_to_one = [name for name, latent in latents.items() if not latent.bijection.bijective]
    if many_to_one:
        raise ValueError(
            f"log_prob: {', '.join(map(repr, many_to_one))} is a wrapped latent, whose density "
            "under q has no closed form; use sample() instead."
        )
    values = guide.model.from_tree(z)
    leading = {np.shape(v)[: np.ndim(v) - len(latents[name].shape)] for name, v in values.items()}
    if len(leading) != 1 or len(next(iter(leading))) > 1:
        raise ValueError(
            f"log_prob: got leading axes {sorted(leading)}; expected none, or one of the same "
            "length for every latent."
        )
    batched = bool(next(iter(leading)))
    if any(isinstance(v, Tracer) for v in values.values()):
        return _log_prob(guide, batched)(params, {n: jnp.asarray(v) for n, v in values.items()})
    with precision(float_dtype):
        arrays = {name: on_host(v, float_dtype) for name, v in values.items()}
        return _program(guide, batched)(params, arrays)


@lru_cache(maxsize=64)
def _program(guide: Guide, batched: bool) -> Any:
    return compiled(_log_prob(guide, batched))


def _log_prob(guide: Guide, batched: bool) -> Any:
    def one(params: Any, values: dict[str, Array]) -> Array:
        x = guide.model.ravel(values)
        log_dets = guide.model.unravel(x)[1]
        jacobian = sum(v.sum() for name, v in log_dets.items() if name not in guide.estimated)
        unknown = jnp.stack([jnp.isnan(v).any() for v in values.values()]).any()
        log_q = guide.log_prob(params, guide.model.split(x)).total() - jacobian
        inside = jnp.isfinite(x).all() & _has_held(guide.model, values)
        return jnp.where(inside | unknown, log_q, -jnp.inf)

    return jax.vmap(one, in_axes=(None, 0)) if batched else one


def _has_held(model: Model, values: dict[str, Array]) -> Any:
    """Return whether the latents that are held have their values, but for rounding."""
    found = True
    for name, held in model.held.items():
        value = jnp.asarray(model.rows_first(name, values[name]))
        found &= jnp.isclose(value, held, ROUNDING * jnp.finfo(value.dtype).eps, 0.0).all()
    return found
