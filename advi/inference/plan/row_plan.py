"""The plan for many rows: a search on some of them, passes over all, and Newton steps on few draws.

Where the log density of all rows is nearly quadratic, as it is with many rows, some dozens of draws
give the Gaussian that hundreds would. Held-out draws tell whether it is.
"""

from collections.abc import Callable

import numpy as np

from advi.core.status import Estimate, Progress
from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, run_batched
from advi.inference.plan.charts import DiagonalChart
from advi.inference.plan.ending import Ending
from advi.inference.plan.maximise_elbo import StageResult, maximise_elbo
from advi.inference.plan.newton import newton
from advi.inference.plan.passes import passes_over
from advi.inference.plan.plan import FRESH_DRAWS, NotFiniteError, PlanResult, run_plan
from advi.inference.plan.refine import FreshElbo, Refined, Refinement, fresh_elbo
from advi.inference.plan.runner import Runner, StopError
from advi.model.block_sample import BlockSample
from advi.model.checks.first_points import FirstPoints, UsedElsewhereError
from advi.model.density import Density
from advi.model.prior_starts import prior_starts
from advi.variational.draws import even_draws
from advi.variational.gaussian import Gaussian, Structure, full_structure, project
from advi.variational.scale import TriangularScale

MAX_DIM, ROWS_PER_DIM = 256, 20  # of the plan on some rows
MAX_PASSES = 30  # over all rows
FEW_DRAWS = 32  # or twice the dimension: enough for a Gaussian posterior
MAX_ERROR = 0.01  # sds: of the mean, and half that of a log sd, by the choice of the draws
MAX_DROP = 5.0  # nats for each coordinate, from the mean to the draws; of a Gaussian it is 0.5
NARROWING, MAX_NARROWINGS = 0.1, 3  # factor of the scale
GAP_NATS = 0.1  # of the ELBO on the draws above that on held-out ones, for as many to be enough


def takes_row_plan(density: Density, structure: Structure) -> bool:
    """Return whether there are many rows, and few latents for the plan on some of them."""
    dim, blocks = len(structure.random), density.blocks
    if blocks is None or dim > MAX_DIM or ROWS_PER_DIM * dim > blocks.num:
        return False
    plain = bool(structure.random.all()) and not structure.rank
    return plain and not density.angles.any() and not density.log_joint.open_ended


def run_row_plan(
    density: Density,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,
    *,
    warm: bool,
    callback: Callable[[Progress], object] | None = None,
    inspect: FirstPoints | None = None,
    evaluated: Callable[[str, int], None] | None = None,  # stage and number of every evaluation
) -> PlanResult | None:
    """Fit a Gaussian to the log density of many rows; the settings are those of `run_plan`.

    None where some rows do not settle where to begin, as with several optima, or the steps on all
    rows do not converge: these are fits for the plan itself.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        some, q = BlockSample(density, rng), first
        if not warm:
            found = _on_some(density, some, rng, first, inspect, evaluated)
            if found is None:
                return None
            q = found.gaussian
            if found.status.cause is not None:
                return found._replace(gaussian=project(q, structure))
        return _on_all(density, some, structure, rng, first, q, callback, evaluated)


def _on_some(
    density: Density,
    some: Density,
    rng: np.random.Generator,
    first: Gaussian,
    inspect: FirstPoints | None,
    evaluated: Callable[[str, int], None] | None,
) -> PlanResult | None:
    """Return the plan's fit of full rank to some rows, if it has one optimum or was interrupted."""
    look = FirstPoints(some, lambda X: density.value_and_grad(X)[0])
    candidates = lambda: prior_starts(some, first.loc)  # noqa: E731
    structure = full_structure(len(first.loc))
    try:
        found = run_plan(
            some,
            structure,
            rng,
            first,
            warm=False,
            inspect=look,
            candidates=candidates,
            evaluated=evaluated,
        )
    except (NotFiniteError, UsedElsewhereError):
        return None
    if inspect is not None:
        inspect.alarms = look.alarms
    several = any(mode.counts for mode in found.other_modes)
    settled = found.status == "converged" and not several
    return found if settled or found.status.cause is not None else None


def _on_all(
    density: Density,
    some: Density,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,
    q: Gaussian,
    callback: Callable[[Progress], object] | None,
    evaluated: Callable[[str, int], None] | None,
) -> PlanResult | None:
    """Return the fit to all rows from that of some, if it converges or is stopped."""
    runner = Runner(density, project(q, structure), None, callback, evaluated)
    eps = float(np.finfo(density.dtype).eps)
    held_out = structure.antithetic_draws(rng, FEW_DRAWS)
    try:
        passes = passes_over(density, some, rng, q, MAX_PASSES)
        if passes is None:
            return None
        loc, last = passes.points[-1]
        at = project(q._replace(loc=loc), structure)
        runner.gaussian, runner.evals = at, passes.num
        stages = _FewDraws(structure, rng, held_out, eps, runner.accepted)
        ended = runner.run(remembering(stages.run(at, float(last.value)), density.dtype))[0]
        if not ended.settled:
            return None
        [status] = runner.run(Ending(ended, first.loc, structure, held_out, runner).status())
        converged = str(status) == "converged"
    except (StopError, KeyboardInterrupt) as stop:
        status, trace = runner.stopped(stop), runner.trace
        elbo = Estimate(trace[-1].elbo if trace else np.nan, np.nan)
        if status.cause is None:
            unfinished = fresh_elbo(runner.gaussian, structure, held_out)
            elbo = run_batched([unfinished], density.value_and_grad)[0].elbo
        return PlanResult(runner.gaussian, elbo, status, trace, np.nan, ())
    if not converged:
        return None
    fitted, fresh = ended
    gap = fitted.elbo - fresh.elbo.value
    return PlanResult(fresh.gaussian, fresh.elbo, status, runner.trace, gap, ())


class _FewDraws:
    """The steps on few draws, and the plan's stages on many where few are not enough."""

    def __init__(
        self,
        structure: Structure,
        rng: np.random.Generator,
        held_out: Floats,
        eps: float,
        accepted: Callable[[str, Gaussian, float], None],
    ) -> None:
        self.structure, self.rng, self.held_out = structure, rng, held_out
        self.eps, self.accepted = eps, accepted

    def run(self, q: Gaussian, log_p: float) -> Stage[Refined]:
        """Fit from a Gaussian at whose mean the log density is known, nats."""
        dim = self.structure.dim
        E = self.structure.fixed_draws(self.rng, even_draws(max(FEW_DRAWS, 2 * dim), dim))
        q = yield from self._narrowed(q, E, log_p)
        fitted = yield from self._fitted(q, E)
        if fitted.reason == "converged":
            fresh, enough = yield from self._held_out(fitted, E)
            if enough:
                return Refined(fitted, fresh)
        many = self.structure.antithetic_draws(self.rng, FRESH_DRAWS)
        rest = Refinement(self.structure, self.rng, many, self.eps, self.accepted)
        return (yield from rest.run(fitted.gaussian, warm=True, settle=True))

    def _narrowed(self, q: Gaussian, E: Floats, log_p: float) -> Stage[Gaussian]:
        """Return the Gaussian, narrower where its draws are far below what a Gaussian's would be.

        What no row of a sample tells of, such as a rare group, has the sd of its prior there.
        """
        for _ in range(MAX_NARROWINGS):
            values, _ = yield q.points(E)
            if log_p - values.mean() < MAX_DROP * self.structure.dim:
                break
            q = Gaussian(q.loc, TriangularScale(NARROWING * q.scale.tril()))
        return q

    def _fitted(self, q: Gaussian, E: Floats) -> Stage[StageResult]:
        structure = self.structure
        if structure.coupled:
            rest = Refinement(structure, self.rng, self.held_out, self.eps, self.accepted)
            return (yield from rest.on_draws(E, q))

        def show(q: Gaussian, elbo: float) -> None:
            self.accepted("mean_field", q.mean_field(), elbo)

        q, _ = yield from newton(q, E, structure, show)
        chart = DiagonalChart(E, structure)
        return (yield from maximise_elbo(q.mean_field(), chart, structure, self.eps, show))

    def _held_out(self, fitted: StageResult, E: Floats) -> Stage[tuple[FreshElbo, bool]]:
        """Return the ELBO on held-out draws, and whether the draws E (M, D) were enough.

        What is left of the gradients of log p where a quadratic log density is taken away, by the
        Stein Hessian on E, is what the choice of the draws has left to chance.
        """
        q = fitted.gaussian
        _, gradients = yield q.points(E)
        H = -(q.scale.rmv(gradients).T @ E) / len(E)
        log_p, gradients = yield q.points(self.held_out)
        fresh = FreshElbo.of(q, log_p, gradients, self.held_out, self.structure)
        rest = q.scale.rmv(gradients) + self.held_out @ (H + H.T) / 2
        error = np.sqrt(2 * (rest**2).mean(0).max(initial=0) / len(E))
        gap = fitted.elbo - fresh.elbo.value
        return fresh, bool(error <= MAX_ERROR and gap <= max(GAP_NATS, 3 * fresh.elbo.mcse))


def remembering(stage: Stage[Refined], dtype: np.dtype) -> Stage[Refined]:
    """Run a stage with what it asks for twice in a row, in the density's precision, from memory."""
    points, asked, answer = next(stage), None, None
    try:
        while True:
            rounded = points.astype(dtype)
            if asked is None or not np.array_equal(asked, rounded):
                asked, answer = rounded, (yield points)
            values, gradients = answer  # type: ignore[misc]
            points = stage.send((values.copy(), gradients.copy()))
    except StopIteration as end:
        return end.value
