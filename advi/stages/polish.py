"""A few averaged sticking-the-landing steps on fresh draws, near the optimum of fixed draws."""

import numpy as np

from advi import draws
from advi.gaussian import Floats, Gaussian, Structure
from advi.stages.lockstep import Stage

STEPS, DRAWS = 30, 32
RATE, MAX_MOVE = 0.2, 0.1  # of a step, in standard deviations; heavy-tailed gradients are cut
BURN_IN = 10  # steps before the average begins


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
    diagonal = gaussian.scale.ndim == 1
    pattern = np.tril(structure.same_block())
    total_loc, total_scale, count = 0.0, 0.0, 0
    q = gaussian
    for step in range(STEPS):
        E = structure.spread(draws.antithetic(rng, DRAWS, structure.dim))
        _, gradients = yield q.points(E)
        if not np.all(np.isfinite(gradients)):
            return gaussian
        # gradient of log p - log q along the draw, in the frame where q is standard
        W = q.in_frame(gradients) + E
        loc_step = np.where(structure.noisy, _cut(W.mean(0)), 0.0)
        if diagonal:
            factor = np.exp(0.5 * _cut((W * E).mean(0)))
            q = Gaussian(q.loc + q.scale * loc_step, q.scale * factor)
        else:
            V = np.where(pattern, _cut((W.T @ E) / DRAWS), 0.0)
            factor = np.tril(V, -1) + np.diag(np.exp(0.5 * np.diag(V)))
            q = Gaussian(q.loc + q.scale @ loc_step, q.scale @ factor)
        if step >= BURN_IN:
            total_loc, total_scale, count = total_loc + q.loc, total_scale + q.scale, count + 1
    return Gaussian(np.asarray(total_loc) / count, np.asarray(total_scale) / count)


def _cut(gradient: Floats) -> Floats:
    return np.clip(RATE * gradient, -MAX_MOVE, MAX_MOVE)
