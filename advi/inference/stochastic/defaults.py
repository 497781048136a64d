"""The optimiser of fits by steps where none is given."""

import functools

import jax.numpy as jnp
import optax

from advi.inference.stochastic.whitening import whiten
from advi.variational.family import Family
from advi.variational.guide import Guide

LEARNING_RATE, RATE_STEPS = 0.02, 1000
MAP_RATE = 0.005  # of families that are no Gaussian: curves bear smaller steps than a scale
MAX_STEPS = 100_000  # of a fit until convergence


def default_optimizer(guide: Guide, near: bool) -> optax.GradientTransformation:
    """Return Adam with a rate that falls as one over the root of the steps: averages converge.

    Where all latents are global its steps are whitened by their scale. If they start `near` the
    optimum the means are too, so that neither their units nor their correlations matter. Otherwise
    steps of hundredths of an sd would be too short: with many rows, sds are tiny.
    """
    families = tuple(b.family for b in guide.blocks if isinstance(b.family, Family))
    adam = _adam(LEARNING_RATE if guide.is_gaussian else MAP_RATE)
    return whiten(adam, families, near) if len(families) == len(guide.blocks) else adam


@functools.lru_cache(maxsize=2)
def _adam(rate: float) -> optax.GradientTransformation:
    return optax.adam(lambda step: rate / jnp.sqrt(1 + step / RATE_STEPS))
