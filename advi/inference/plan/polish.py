"""A few averaged sticking-the-landing steps on fresh draws, near the optimum of fixed draws."""

from functools import partial
from typing import Any

import jax
import numpy as np

from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import chart_of
from advi.variational.draws import even_draws
from advi.variational.gaussian import Gaussian, Structure

STEPS, DRAWS = 15, 64
RATE, MAX_MOVE = 0.35, 0.2  # of a step, sds; heavy-tailed gradients are cut
BURN_IN = 5  # steps before the average begins


def polish(gaussian: Gaussian, structure: Structure, rng: np.random.Generator) -> Stage[Gaussian]:
    """Return the average of natural-gradient steps with the sticking-the-landing gradient.

    Its noise vanishes where q equals the posterior (Roeder, Wu & Duvenaud 2017): near the optimum
    it removes the overfitting of fixed draws. Far from the optimum it diverges.
    """
    chart = chart_of(structure, np.zeros((0, len(gaussian.loc))))
    total, q = None, gaussian
    for step in range(STEPS):
        E = structure.antithetic_draws(rng, even_draws(DRAWS, len(gaussian.loc)))
        _, gradients = yield q.points(E)
        if not np.all(np.isfinite(gradients)):
            return gaussian
        # gradient of log p - log q along the draw, in coordinates where q is standard
        W = q.scale.rmv(gradients) + E
        loc_step = np.where(structure.random, cut(np, W.mean(0)), 0.0)
        loc = q.loc + q.scale.mv(loc_step[None])[0]
        q = Gaussian(loc, chart.polished(q, gradients, E, partial(cut, np)))
        if step >= BURN_IN:
            total = q if total is None else jax.tree.map(np.add, total, q)
    return jax.tree.map(lambda leaf: leaf / (STEPS - BURN_IN), total)


def cut(xp: Any, gradient: Any) -> Any:
    """Return the step along a gradient, by NumPy or by JAX."""
    return xp.clip(RATE * gradient, -MAX_MOVE, MAX_MOVE)
