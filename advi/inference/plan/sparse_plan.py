"""The automatic plan of a Gaussian with a sparse precision."""

from collections.abc import Callable

import numpy as np

from advi.core.status import Estimate, Progress
from advi.core.types import Bools, Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.ending import Ending
from advi.inference.plan.maximise_elbo import StageResult
from advi.inference.plan.plan import FRESH_DRAWS, NotFiniteError, PlanResult
from advi.inference.plan.refine import Refined
from advi.inference.plan.runner import Runner, StopError
from advi.inference.plan.search import Inspect
from advi.inference.plan.sparse_newton import SparseEnd, sparse_newton
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian, Structure

MIN_FRESH_DRAWS, FRESH_COORDINATES = 64, 2**23  # of the ELBO on fresh draws


def run_sparse_plan(
    density: Density,
    hessian: SparseHessian,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,  # its mean is the start; with `warm` all of it
    *,
    warm: bool,
    max_evals: int | None = None,  # batched evaluations
    callback: Callable[[Progress], object] | None = None,  # at accepted steps; if true, stop
    evaluated: Callable[[str, int], None] | None = None,  # stage and number of every evaluation
    inspect: Inspect | None = None,  # called with random points around the start
    candidates: Callable[[], Floats | None] | None = None,  # further points (n, D) to start from
) -> PlanResult:
    """Fit a Gaussian with a sparse precision to a density, without any setting.

    NotFiniteError if no start has a finite log density and gradient.
    """
    num = int(np.clip(FRESH_COORDINATES // hessian.dim, MIN_FRESH_DRAWS, FRESH_DRAWS)) // 2 * 2
    fresh_draws = structure.antithetic_draws(rng, num)
    runner = Runner(density, first, max_evals, callback, evaluated)

    def accepted(gaussian: Gaussian, elbo: float) -> None:
        runner.accepted("sparse", gaussian, elbo)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            start = first
            if not warm:
                [start] = runner.run(_start(first, structure, rng, inspect, candidates))
            steps = sparse_newton(
                start, hessian, structure, rng, fresh_draws, accepted, warm=warm
            )  # fmt: skip
            [end] = runner.run(steps)
            ended = Ending(_refined(end), first.loc, structure, fresh_draws, runner)
            [status] = runner.run(ended.status())
        except (StopError, KeyboardInterrupt) as stop:
            last = Estimate(runner.trace[-1].elbo if runner.trace else np.nan, np.nan)
            if isinstance(stop, StopError):
                last = _elbo(density, runner.gaussian, structure, fresh_draws)
            return PlanResult(runner.gaussian, last, runner.stopped(stop), runner.trace, np.nan, ())
    fresh = end.fresh
    return PlanResult(fresh.gaussian, fresh.elbo, status, runner.trace, end.held_out_gap, ())


def _start(
    first: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    inspect: Inspect | None,
    candidates: Callable[[], Floats | None] | None,
) -> Stage[Gaussian]:
    """Return the first point with a finite log density, of the given one and the candidates."""
    points = first.loc[None]
    if inspect is not None:
        look = first.loc + 0.1 * structure.antithetic_draws(rng, 8)
        inspect(look, *(yield look))
    values, gradients = yield points
    if not _finite(values, gradients)[0]:
        further = None if candidates is None else candidates()
        if further is not None:
            points = further
            values, gradients = yield points
    good = _finite(values, gradients)
    if not good.any():
        raise NotFiniteError("zero, and at draws of the prior" if len(points) > 1 else "zero")
    best = np.argmax(np.where(good, values, -np.inf))
    return Gaussian.diagonal(points[best], 1.0)


def _elbo(density: Density, gaussian: Gaussian, structure: Structure, E: Floats) -> Estimate:
    """Return the ELBO of a Gaussian where the budget has ended."""
    return Estimate.of(structure.paired_elbos(density.value(gaussian.points(E)), E, gaussian))


def _finite(values: Floats, gradients: Floats) -> Bools:
    return np.isfinite(values) & np.isfinite(gradients).all(1)


def _refined(end: SparseEnd) -> Refined:
    """Return the end as that of the plan's other stages."""
    elbo = end.fresh.elbo.value + end.held_out_gap
    return Refined(StageResult(end.fresh.gaussian, elbo, end.reason, end.gradient), end.fresh)
