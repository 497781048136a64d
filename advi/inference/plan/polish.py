"""A few averaged sticking-the-landing steps on fresh draws, near the optimum of fixed draws."""

import jax
import numpy as np

from advi.inference.plan.lockstep import Stage
from advi.variational import draws
from advi.variational.gaussian import Floats, Gaussian, Structure
from advi.variational.scale import LowRankScale

STEPS, DRAWS = 15, 64
RATE, MAX_MOVE = 0.35, 0.2  # of a step, in standard deviations; heavy-tailed gradients are cut
BURN_IN = 5  # steps before the average begins


def polish(gaussian: Gaussian, structure: Structure, rng: np.random.Generator) -> Stage[Gaussian]:
    """Average natural-gradient steps with the sticking-the-landing gradient.

    Its noise vanishes where q equals the posterior (Roeder, Wu & Duvenaud 2017), so that near the
    optimum it removes what fixed draws overfit; far from it, it diverges, and is not used.

    Parameters
    ----------
    gaussian
        The optimum on fixed draws.
    structure
        Which coordinates have noise and which are coupled.
    rng
        Generator of the fresh draws.

    Returns
    -------
    Gaussian
        The average over the steps after the first `BURN_IN`.
    """
    total, q = None, gaussian
    for step in range(STEPS):
        E = structure.spread(draws.antithetic(rng, DRAWS, structure.dim))
        _, gradients = yield q.points(E)
        if not np.all(np.isfinite(gradients)):
            return gaussian
        # gradient of log p - log q along the draw, in the frame where q is standard
        W = q.in_frame(gradients) + E
        loc_step = np.where(structure.noisy, _cut(W.mean(0)), 0.0)
        loc = q.loc + q.moves(loc_step[None])[0]
        if isinstance(q.scale, LowRankScale):
            q = Gaussian(loc, _low_rank_step(q.scale, gradients, E))
        elif q.scale.ndim == 1:
            q = Gaussian(loc, q.scale * np.exp(0.5 * _cut((W * E).mean(0))))
        else:
            V = np.where(np.tril(structure.same_block()), _cut((W.T @ E) / DRAWS), 0.0)
            factor = np.tril(V, -1) + np.diag(np.exp(0.5 * np.diag(V)))
            q = Gaussian(loc, q.scale @ factor)
        if step >= BURN_IN:
            total = q if total is None else jax.tree.map(np.add, total, q)
    return jax.tree.map(lambda leaf: leaf / (STEPS - BURN_IN), total)


def _low_rank_step(scale: LowRankScale, gradients: Floats, E: Floats) -> LowRankScale:
    """Move the log sds and log stretches; the directions stay."""
    sd, U, stretch = scale
    EU = E @ U
    G = gradients * sd + E + EU * (1 / stretch - 1) @ U.T
    of_sd = (G * (E + EU * (stretch - 1) @ U.T)).mean(0)
    of_stretch = (G @ U * EU).mean(0) * stretch
    metric = 1 / (1 + (1 + U**2 @ (stretch**2 - 1)) * (1 + U**2 @ (stretch**-2.0 - 1)))
    return LowRankScale(
        sd * np.exp(metric * _cut(of_sd)), U, stretch * np.exp(0.5 * _cut(of_stretch))
    )


def _cut(gradient: Floats) -> Floats:
    return np.clip(RATE * gradient, -MAX_MOVE, MAX_MOVE)
