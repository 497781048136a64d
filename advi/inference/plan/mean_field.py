"""Mean field: the fixed-draw ELBO of a diagonal Gaussian, by L-BFGS in its Fisher metric."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.inference.plan.lbfgs import Measure, minimise
from advi.inference.plan.lockstep import Stage
from advi.variational.gaussian import Floats, Gaussian, Structure

MAX_EVALS = 100
STEP_CAP = 10.0
RETREAT = 0.5  # of a scale some of whose draws have no finite log density
GRADIENT_TOLERANCE, STEP_TOLERANCE = 3e-3, 0.02
PLATEAU_STEPS, PLATEAU_NATS = 20, 1e-3


class Fitted(NamedTuple):
    """The Gaussian a stage ended with, its ELBO on the stage's own draws, and why it ended."""

    gaussian: Gaussian
    elbo: float
    reason: str  # "converged" | "budget" | "stalled" | "not finite"
    gradient: float  # largest gradient in the Fisher metric


def settled(measure: Measure) -> bool:
    """Whether gradient and next step are small in the Fisher metric, or the ELBO has levelled off.

    The gradient alone can be small far from the optimum of an ill-conditioned target, and stays
    large where a single draw leans against a steep wall of the density: there the ELBO tells.
    """
    if measure.gradient < GRADIENT_TOLERANCE and measure.step < STEP_TOLERANCE:
        return True
    values = measure.values
    return len(values) > PLATEAU_STEPS and values[-1 - PLATEAU_STEPS] - values[-1] < PLATEAU_NATS


def mean_field(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    eps: float,
    accepted: Callable[[Gaussian, float], None],
    max_evals: int = MAX_EVALS,
) -> Stage[Fitted]:
    """Maximise the ELBO over the mean m and the log sds w on fixed draws.

    Minimises ``f(m, w) = -mean_e log p(m + exp(w) e) - sum w`` (Giordano, Ingram & Broderick
    2024, DADVI) with H0 the inverse Fisher metric of the Gaussian, diag(exp(2 w), 1/2).

    Parameters
    ----------
    gaussian
        Where to start; its diagonal.
    E
        (M, D) fixed orthogonal antithetic draws, zero at coordinates without noise.
    structure
        Which coordinates have noise.
    eps
        Machine epsilon of the log density.
    accepted
        Called with every accepted Gaussian and its ELBO.
    max_evals
        Evaluations, of M draws each.

    Returns
    -------
    Fitted
    """
    dim, noisy = len(gaussian.loc), structure.noisy
    constant = 0.5 * structure.dim * (1 + np.log(2 * np.pi))

    def unpack(p: Floats) -> Gaussian:
        return Gaussian(p[:dim], np.exp(p[dim:]))

    def objective(p: Floats) -> Stage[tuple[float, Floats]]:
        q = unpack(p)
        values, gradients = yield q.points(E)
        value = -values.mean() - p[dim:][noisy].sum()
        scale_gradient = -(gradients * E).mean(0) * q.scale - noisy
        return float(value), np.concatenate([-gradients.mean(0), scale_gradient])

    def metric(p: Floats) -> Floats:
        return np.concatenate([np.exp(2 * p[dim:]), np.full(dim, 0.5)])

    minimum = yield from minimise(
        np.concatenate([gaussian.loc, np.log(gaussian.diagonal)]),
        objective,
        retract=lambda p, step: p + step,
        metric=metric,
        cap=STEP_CAP,
        max_evals=max_evals,
        done=settled,
        eps=eps,
        accepted=lambda p, value: accepted(unpack(p), constant - value),
        retreat=lambda p: np.concatenate([p[:dim], p[dim:] + np.log(RETREAT)]),
    )
    return Fitted(
        unpack(minimum.point), constant - minimum.value, minimum.reason, minimum.measure.gradient
    )
