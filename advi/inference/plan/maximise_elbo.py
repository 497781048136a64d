"""The ELBO on fixed draws, maximised over a Gaussian by L-BFGS in its Fisher metric."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, together
from advi.inference.plan.charts import Chart, DiagonalChart
from advi.inference.plan.lbfgs import Measure, finite_start, minimise
from advi.variational.gaussian import Gaussian, Structure

MAX_EVALS, MAX_LOW_RANK_EVALS, MAX_FULL_RANK_EVALS = 100, 300, 200
MAX_TRIES = 21  # scales from which to start, each half of the one before
STEP_CAP = 10.0
GRADIENT_TOLERANCE, STEP_TOLERANCE = 3e-3, 0.02
PLATEAU_STEPS, PLATEAU_NATS = 20, 1e-3
ROUND_EVALS = 50  # after which a mean field of many coordinates forgets its curvature pairs

Accepted = Callable[[Gaussian, float], None]  # a Gaussian and its ELBO in nats


def ignore(*_: object) -> None:
    """Take no notice of an accepted Gaussian."""


class StageResult(NamedTuple):
    """The last Gaussian of a stage, its ELBO on the stage's own draws, and why it ended."""

    gaussian: Gaussian
    elbo: float
    reason: str  # "converged" | "budget" | "stalled" | "not finite"
    gradient: float  # largest gradient in the Fisher metric


def converged(measure: Measure) -> bool:
    """Return whether gradient and next step are small in the Fisher metric, or the ELBO is flat.

    The gradient alone can be small far from the optimum of an ill-conditioned target, and stays
    large where the log density is steep at a single draw: there the ELBO decides.
    """
    if measure.gradient < GRADIENT_TOLERANCE and measure.step < STEP_TOLERANCE:
        return True
    values = measure.values
    return len(values) > PLATEAU_STEPS and values[-1 - PLATEAU_STEPS] - values[-1] < PLATEAU_NATS


def maximise_elbo(
    gaussian: Gaussian,
    chart: Chart,
    structure: Structure,
    eps: float,
    accepted: Accepted,
    max_evals: int = MAX_EVALS,  # of as many draws each as the chart has
) -> Stage[StageResult]:
    """Maximise the ELBO on the fixed draws of a chart; `eps` is the log density's epsilon.

    Giordano, Ingram & Broderick (2024), Black Box Variational Inference with a Deterministic
    Objective, JMLR 25(18).
    """
    constant = structure.entropy_constant

    def objective(points: Sequence[Any]) -> Stage[tuple[Floats, Floats]]:
        value, gradient = yield from chart.objective(points[0])
        return np.array([value]), gradient[None]

    start = yield from finite_start([chart.start(gaussian)], objective, chart.retreat, MAX_TRIES)
    [end] = yield from minimise(
        start,
        objective,
        chart.retract,
        chart.metric,
        cap=STEP_CAP,
        max_evals=max_evals,
        done=converged,
        eps=eps,
        accepted=lambda _, point, value: accepted(chart.gaussian(point), constant - value),
    )
    if end is None:
        point, value = start.points[0], float(start.values[0])
        return StageResult(chart.gaussian(point), constant - value, "not finite", np.inf)
    gaussian, gradient = chart.gaussian(end.point), end.measure.gradient
    return StageResult(gaussian, constant - end.value, end.reason, gradient)


def maximise_in_rounds(
    gaussian: Gaussian,
    chart: DiagonalChart,
    structure: Structure,
    eps: float,
    accepted: Accepted,
    max_evals: int,
) -> Stage[StageResult]:
    """Maximise the ELBO over a mean field of many coordinates, by L-BFGS begun anew now and then.

    Where the effects of a hierarchy and their scale move together, the few pairs of one search
    shrink the sds of the hyperparameters, and with these sds the steps, for hundreds of steps.
    """

    def begun(q: Gaussian, left: int) -> Stage[StageResult]:
        return maximise_elbo(q, chart, structure, eps, accepted, min(left, ROUND_EVALS))

    fitted = yield from begun(gaussian, max_evals)
    for left in range(max_evals - ROUND_EVALS, 0, -ROUND_EVALS):
        if fitted.reason != "budget":
            break
        fitted = yield from begun(fitted.gaussian, left)
    return fitted


def fit_mean_fields(
    starts: Sequence[Gaussian],
    E: Floats,
    structure: Structure,
    eps: float,
    max_evals: int,
    accepted: Accepted = ignore,
) -> Stage[list[StageResult]]:
    """Return the finite mean fields of several starts on common draws E (M, D), the best first.

    `accepted` is called for the first start only.
    """
    chart = DiagonalChart(E, structure)
    stages = (
        maximise_elbo(q, chart, structure, eps, ignore if k else accepted, max_evals)
        for k, q in enumerate(starts)
    )
    fits = yield from together(*stages)
    return sorted((f for f in fits if np.isfinite(f.elbo)), key=lambda f: -f.elbo)
