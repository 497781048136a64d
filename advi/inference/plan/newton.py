"""Newton steps of a Gaussian with the Stein Hessian, within a radius."""

from collections.abc import Callable

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import TriangularChart
from advi.inference.plan.triangular_step import Curvature, curvature, moved, on_boundary
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.scale import TriangularScale

MAX_EVALS = 100
GAIN_NATS = 0.1  # minimal gain of a step for another to follow
# a failed step is repeated with a quarter of the mean's length and half the power of the scale's
# factor, down to the minimal power
DAMPING, MIN_DAMPING = 0.5, 0.01
SHRINKAGE, GROWTH = 0.25, 4.0  # of the radius
POOR = 0.25  # ratio of actual to expected gain below which the mean's step was too long


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
        W = q.scale.rmv(gradients)
        at, damping = curvature(np, W, chart.E, structure.random, chart.same_block), 1.0
        while True:
            if evals >= max_evals:
                return q, False
            u = _within(at, radius)
            step = moved(np, at, q.loc, q.scale.tril(), chart.same_block, damping, u)
            trial, length = Gaussian(step.loc, TriangularScale(step.tril)), float(np.linalg.norm(u))
            log_p, trial_gradients = yield trial.points(chart.E)
            evals += 1
            trial_value = chart.value(trial, log_p)
            finite = np.isfinite(trial_value) and bool(np.all(np.isfinite(trial_gradients)))
            if finite and trial_value < value:
                break
            damping, radius = DAMPING * damping, SHRINKAGE * length
            little = bool(step.mean_gain + step.scale_gain < GAIN_NATS)
            if little or damping < MIN_DAMPING:
                return q, little
        gain = value - trial_value
        q, value, gradients = trial, trial_value, trial_gradients
        accepted(q, constant - value)
        poor = gain < POOR * step.mean_gain
        if gain < GAIN_NATS and not (poor and step.mean_gain > GAIN_NATS):
            return q, True
        if poor:
            radius = SHRINKAGE * length
        elif np.isfinite(radius):  # else no step has been too long so far
            radius = GROWTH * length


def _within(at: Curvature, radius: float) -> Floats:
    """Return the maximiser of the quadratic model over all steps of the mean within a radius."""
    u = at.slope / at.h
    if np.linalg.norm(u) <= radius:
        return u
    return on_boundary(np, at, radius) if radius > 0 else np.zeros_like(u)
