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
GAIN_NATS = 0.1  # minimal gain of a step for another to follow
CURVATURE_RANGE = (1e-2, 1e4)  # squared change of a scale in one step
MEAN_CURVATURE_RANGE = (1e-6, 1e4)  # a mean may move a thousand sds along a ridge
# a failed step is repeated with a quarter of the mean's length and half the power of the scale's
# factor, down to the minimal power
DAMPING, MIN_DAMPING = 0.5, 0.01
SHRINKAGE, GROWTH = 0.25, 4.0  # of the radius
POOR = 0.25  # ratio of actual to expected gain below which the mean's step was too long
BISECTIONS = 30


class _Step(NamedTuple):
    """A trial Gaussian, and the gains expected of it."""

    gaussian: Gaussian
    length: float  # of the mean's step, sds
    mean_gain: float  # expected, nats
    scale_gain: float


def newton(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    accepted: Callable[[Gaussian, float], None],
    max_evals: int = MAX_EVALS,  # of M draws each
) -> Stage[tuple[Gaussian, bool]]:
    """Take Newton steps with the Stein Hessian on draws E (M, D) while they gain enough.

    In coordinates where q is standard the expected Hessian of -log p is H = -sym(E[g' e'])
    (Stein's identity), the mean's step -H^-1 E[g'] and a block's optimal covariance the inverse of
    its part of H. The mean uses all of H, whatever the blocks, and so is not slowed by an
    ill-conditioned posterior. Where H is not positive definite, as on a curved ridge, its
    eigenvalues are replaced by their absolute values (Dauphin et al. 2014). Once a full step has
    been too long, the mean's is the best one within a trust radius, which grows while steps gain
    what is expected (Nocedal & Wright 2006, chapter 4).

    Returns a Gaussian with a (D, D) scale on the pattern of the blocks, and whether no more was to
    be gained, rather than the steps having failed.
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
            trial, length, mean_gain, scale_gain = step(damping, radius)
            log_p, trial_gradients = yield trial.points(chart.E)
            evals += 1
            trial_value = chart.value(trial, log_p)
            finite = np.isfinite(trial_value) and bool(np.all(np.isfinite(trial_gradients)))
            if finite and trial_value < value:
                break
            damping, radius = DAMPING * damping, SHRINKAGE * length
            little = mean_gain + scale_gain < GAIN_NATS
            if little or damping < MIN_DAMPING:
                return q, little
        gain = value - trial_value
        q, value, gradients = trial, trial_value, trial_gradients
        accepted(q, constant - value)
        poor = gain < POOR * mean_gain
        if gain < GAIN_NATS and not (poor and mean_gain > GAIN_NATS):
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
        gains = block_h - block_h ** (1 - damping) - damping * np.log(block_h)
        u = _within(g, h, radius)
        moved = Gaussian(q.loc + L @ (Q @ u), TriangularScale(L @ factor))
        mean_gain, scale_gain = float(g @ u - 0.5 * u @ (h * u)), 0.5 * float(np.sum(gains))
        return _Step(moved, float(np.linalg.norm(u)), mean_gain, scale_gain)

    return step


def _within(g: Floats, h: Floats, radius: float) -> Floats:
    """Return the maximiser of g'u - u'hu / 2, h a diagonal, over all u with |u| <= radius."""
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
