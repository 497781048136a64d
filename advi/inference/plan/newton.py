"""Newton steps of a Gaussian with the Stein Hessian, within a radius."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import TriangularChart
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.scale import TriangularScale

MAX_EVALS = 100
GAIN_NATS = 0.1  # that a step must gain for another to follow
CURVATURE_RANGE = (1e-2, 1e4)  # that a scale may change by in one step, squared
MEAN_CURVATURE_RANGE = (1e-6, 1e4)  # a mean may have a thousand sds to go along a ridge
# a step that fails is tried again, the mean's at a quarter of its length, until the scale's is
# damped to this power of the whole one
DAMPING, MIN_DAMPING = 0.5, 0.01
SHRINKAGE, GROWTH = 0.25, 4.0  # of the radius
POOR = 0.25  # share of the gain expected of the mean, below which its step was too long
BISECTIONS = 30


class _Step(NamedTuple):
    """Where a step leads, and what its mean's part was."""

    gaussian: Gaussian
    length: float  # sds
    of_mean: float  # nats that it is expected to gain
    of_scale: float  # and the scale's part


def newton(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    accepted: Callable[[Gaussian, float], None],
    max_evals: int = MAX_EVALS,
) -> Stage[tuple[Gaussian, bool]]:
    """Take Newton steps with the Stein Hessian while they pay.

    In the frame of q the expected Hessian of -log p is H = -sym(E[g' e']) (Stein's identity), the
    mean's step -H^-1 E[g'] and a block's optimal covariance the inverse of its part of H. The
    mean uses all of H, whatever the blocks: an ill-conditioned posterior is no obstacle to it.
    Where H is not positive definite, as on a ridge that bends, its eigenvalues count by their size
    (Dauphin et al. 2014). Once a whole step has been too long, the mean's is the best one within a
    radius, which grows while steps keep what they promise (Nocedal & Wright 2006, chapter 4).

    Parameters
    ----------
    gaussian, E, structure, accepted
        Where to start, the fixed draws, which coordinates are random and coupled, and what is
        called with every accepted Gaussian and its ELBO.
    max_evals
        Evaluations, of M draws each.

    Returns
    -------
    Gaussian, bool
        With a (D, D) scale on the pattern of the blocks; and whether no more was to be gained,
        or else the steps failed.
    """
    chart, constant = TriangularChart(E, structure), structure.entropy_constant
    q = Gaussian(gaussian.loc, TriangularScale(gaussian.scale.tril()))
    log_p, gradients = yield q.points(chart.E)
    value, evals, radius = chart.value(q, log_p), 1, np.inf
    if not (np.isfinite(value) and np.all(np.isfinite(gradients))):
        return q, False
    while True:
        step, damping = _newton_step(q, gradients, chart), 1.0
        while True:
            if evals >= max_evals:
                return q, False
            trial, length, of_mean, of_scale = step(damping, radius)
            log_p, trial_gradients = yield trial.points(chart.E)
            evals += 1
            trial_value = chart.value(trial, log_p)
            finite = np.isfinite(trial_value) and bool(np.all(np.isfinite(trial_gradients)))
            if finite and trial_value < value:
                break
            damping, radius = DAMPING * damping, SHRINKAGE * length
            little = of_mean + of_scale < GAIN_NATS
            if little or damping < MIN_DAMPING:
                return q, little
        gain = value - trial_value
        q, value, gradients = trial, trial_value, trial_gradients
        accepted(q, constant - value)
        poor = gain < POOR * of_mean
        if gain < GAIN_NATS and not (poor and of_mean > GAIN_NATS):
            return q, True
        if poor:
            radius = SHRINKAGE * length
        elif np.isfinite(radius):  # else no step has been too long so far
            radius = GROWTH * length


def _newton_step(
    q: Gaussian, gradients: Floats, chart: TriangularChart
) -> Callable[[float, float], _Step]:
    """Return the function (damping of the scale, radius of the mean) to a step."""
    random, L = chart.structure.random, q.scale.tril()
    W = q.scale.rmv(gradients)
    H = -(W.T @ chart.E) / len(chart.E)
    H = (H + H.T) / 2
    H[~random, :] = H[:, ~random] = 0
    H[~random, ~random] = 1
    h, Q = np.linalg.eigh(H)
    h, g = np.clip(np.abs(h), *MEAN_CURVATURE_RANGE), Q.T @ W.mean(0)
    block_h, block_Q = np.linalg.eigh(np.where(chart.same_block, H, 0.0))
    block_h = np.clip(block_h, *CURVATURE_RANGE)

    def step(damping: float, radius: float) -> _Step:
        covariance = (block_Q * block_h**-damping) @ block_Q.T
        factor = np.where(chart.same_block, np.linalg.cholesky(covariance), 0.0)
        of_scale = 0.5 * float(
            np.sum(block_h - block_h ** (1 - damping) - damping * np.log(block_h))
        )
        u = _within(g, h, radius)
        moved = Gaussian(q.loc + L @ (Q @ u), TriangularScale(L @ factor))
        return _Step(moved, float(np.linalg.norm(u)), float(g @ u - 0.5 * u @ (h * u)), of_scale)

    return step


def _within(g: Floats, h: Floats, radius: float) -> Floats:
    """Return the maximiser of g'u - u'hu / 2, h a diagonal, over all u no longer than a radius."""
    if np.linalg.norm(g / h) <= radius:
        return g / h
    if not radius > 0:
        return np.zeros_like(g)
    low, high = 0.0, float(np.linalg.norm(g)) / radius
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if np.linalg.norm(g / (h + middle)) > radius:
            low = middle
        else:
            high = middle
    return g / (h + high)
