"""The automatic plan from a start to its end: mean field, a richer Gaussian, polish."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate
from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import DiagonalChart, LowRankChart, TriangularChart
from advi.inference.plan.lanczos import low_rank_start
from advi.inference.plan.maximise_elbo import (
    MAX_EVALS,
    MAX_FULL_RANK_EVALS,
    MAX_LOW_RANK_EVALS,
    StageResult,
    maximise_elbo,
    maximise_in_rounds,
)
from advi.inference.plan.newton import newton
from advi.inference.plan.polish import polish
from advi.variational.draws import MIN_DRAWS, even_draws
from advi.variational.gaussian import MANY, Gaussian, Structure
from advi.variational.scale import DiagonalScale

NEWTON_DIM = MANY  # the Newton steps hold a few D x D matrices
NEAR_EVALS, LONG_EVALS = 8, 300  # of L-BFGS before the Newton steps, and instead of them
NEAR_DRAWS = 16  # of a first mean field of many coordinates, from which one on more is soon reached
MAX_ROUNDS = 6  # of a stage that has used all its evaluations
ROUND_NATS = 1.0  # minimal gain of a round for another to follow
MAX_DOUBLINGS = 3
TOO_FAR = 1e16  # on the real scale: no posterior is meant to be there
NEARLY = 0.1  # a search stalled by rounding counts as converged below this scaled gradient
OVERFIT_NATS, OVERFIT_ERRORS = 1.0, 3.0
# with 64 fixed draws a roughness of 0.1 costs the order of 1e-3 nats
POLISH_ROUGHNESS = 0.1

Accepted = Callable[[str, Gaussian, float], None]  # stage, Gaussian, ELBO in nats


class FreshElbo(NamedTuple):
    """A Gaussian on antithetic draws that no stage has seen."""

    gaussian: Gaussian
    elbos: Floats  # (n,) log p - log q, means of antithetic pairs
    roughness: float  # summed variance of the gradient's even part, zero for a Gaussian target

    @classmethod
    def of(
        cls, q: Gaussian, log_p: Floats, gradients: Floats, E: Floats, structure: Structure
    ) -> "FreshElbo":
        """Return the figures of a Gaussian from the log densities (n,) and gradients (n, D)."""
        elbos = structure.paired_elbos(log_p, E, q)
        even = q.scale.rmv(gradients.reshape(2, len(elbos), -1).mean(0))
        roughness = float((even - even.mean(0))[:, structure.random].var(0).sum())
        return cls(q, elbos, roughness)

    @property
    def elbo(self) -> Estimate:
        return Estimate.of(self.elbos)


class Refined(NamedTuple):
    """The end of the plan from one start."""

    fitted: StageResult  # of the last stage that optimises on fixed draws
    fresh: FreshElbo  # of the final Gaussian

    @property
    def settled(self) -> bool:
        """Whether it ended at an optimum, within rounding."""
        nearly = self.fitted.reason == "stalled" and self.fitted.gradient < NEARLY
        return bool(self.fitted.reason == "converged" or nearly)


class Refinement(NamedTuple):
    """The stages of the plan after the search for a start."""

    structure: Structure
    rng: np.random.Generator
    fresh_draws: Floats  # (n, D) antithetic, those without sign first, for the held-out ELBO
    eps: float  # machine epsilon of the log density
    accepted: Accepted

    def run(self, gaussian: Gaussian, *, warm: bool, settle: bool) -> Stage[Refined]:
        """Fit from a Gaussian to the end.

        `warm` skips the mean-field stage if a richer one follows: `gaussian` is a fit. `settle`
        runs it to convergence in any case: it is the cheaper one for large distances.
        """
        structure = self.structure
        fitted, fresh, richer = None, None, structure.coupled or structure.rank > 0
        # a low-rank scale is made from a mean field, or from the diagonal of another scale
        begun = structure.coupled or gaussian.scale.coupling != "all"
        if not (warm and richer and begun):
            if len(gaussian.loc) > NEWTON_DIM:
                fitted, fresh = yield from self._mean_field_of_many(gaussian, final=not richer)
            else:
                # the Newton steps of a coupled scale converge from any point that is near enough
                fitted = yield from self._mean_field(gaussian, settle or not structure.coupled)
            gaussian = fitted.gaussian
        if richer:
            fitted, fresh = yield from self._richer(gaussian)
        assert fitted is not None
        if fresh is None:
            fresh = yield from fresh_elbo(gaussian, structure, self.fresh_draws)
        if fresh.roughness > POLISH_ROUGHNESS:  # else the fixed draws' optimum is the optimum
            polished = yield from polish(fresh.gaussian, structure, self.rng)
            after = yield from fresh_elbo(polished, structure, self.fresh_draws)
            if after.elbo.value > fresh.elbo.value:
                fresh = after
                self.accepted("polish", polished, after.elbo.value)
        return Refined(fitted, fresh)

    def _mean_field(self, gaussian: Gaussian, settle: bool) -> Stage[StageResult]:
        """Fit a mean field: a little L-BFGS, Newton steps, and with `settle` L-BFGS to the end.

        The Newton steps carry the mean along ridges, where L-BFGS in the diagonal metric takes
        hundreds of evaluations and can seem to have converged.
        """
        structure = self.structure.uncoupled()
        E = mean_field_draws(structure, self.rng)
        accepted = partial(self.accepted, "mean_field")

        def stage(q: Gaussian, max_evals: int) -> Stage[StageResult]:
            chart = DiagonalChart(E, structure)
            return maximise_elbo(q, chart, structure, self.eps, accepted, max_evals)

        def by_newton(q: Gaussian) -> Stage[tuple[Gaussian, bool]]:
            show = lambda q, elbo: accepted(q.mean_field(), elbo)  # noqa: E731
            moved, arrived = yield from newton(q, E, structure, show)
            return moved.mean_field(), arrived

        def by_both(q: Gaussian) -> Stage[StageResult]:
            moved, _ = yield from by_newton(q)
            return (yield from stage(moved, MAX_EVALS))

        near = yield from stage(gaussian, NEAR_EVALS)
        moved, arrived = yield from by_newton(near.gaussian)
        if arrived and not settle:
            return near._replace(gaussian=moved)
        fitted = yield from stage(moved, MAX_EVALS)
        return (yield from _repeated(by_both, fitted))

    def _mean_field_of_many(
        self, gaussian: Gaussian, *, final: bool
    ) -> Stage[tuple[StageResult, FreshElbo | None]]:
        """Fit a mean field of many coordinates by L-BFGS, if `final` with as many draws as it asks.

        A few draws suffice where each coordinate meets few others closely, whatever their number:
        they give sds with errors of the size of its correlations, over the root of the draws.
        """
        structure, dim = self.structure.uncoupled(), len(gaussian.loc)
        accepted = partial(self.accepted, "mean_field")

        def stage(E: Floats, q: Gaussian) -> Stage[StageResult]:
            chart = DiagonalChart(E, structure)
            return maximise_in_rounds(q, chart, structure, self.eps, accepted, LONG_EVALS)

        near = yield from stage(
            structure.fixed_draws(self.rng, even_draws(NEAR_DRAWS, dim)), gaussian
        )
        gaussian = near.gaussian
        if final:
            most = max(MIN_DRAWS, 2 * structure.dim)  # where second moments are exact
            return (yield from self._enough_draws(stage, gaussian, MIN_DRAWS, most))
        fixed = partial(stage, mean_field_draws(structure, self.rng))
        fitted = yield from fixed(gaussian)
        return (yield from _repeated(fixed, fitted)), None

    def _richer(self, gaussian: Gaussian) -> Stage[tuple[StageResult, FreshElbo]]:
        """Fit a full or low-rank scale. The more parameters it has, the more draws it needs.

        Those of a low-rank scale of many coordinates begin as few, without its directions' steps.
        """
        structure = self.structure
        num = max(MIN_DRAWS, (4 if structure.coupled else 2) * structure.dim)
        most = 2**MAX_DOUBLINGS * num
        if len(gaussian.loc) > NEWTON_DIM and not structure.coupled:
            num = MIN_DRAWS
        return (yield from self._enough_draws(self.on_draws, gaussian, num, most))

    def _enough_draws(
        self,
        stage: Callable[[Floats, Gaussian], Stage[StageResult]],
        gaussian: Gaussian,
        num: int,
        most: int,
    ) -> Stage[tuple[StageResult, FreshElbo]]:
        """Repeat a stage on fixed draws, `num` to `most`, more of them while they are overfitted.

        In many dimensions their number is doubled as often as the overfitting asks, which falls as
        its inverse.
        """
        structure, dim = self.structure, len(gaussian.loc)
        while True:
            E = structure.fixed_draws(self.rng, even_draws(num, dim))
            fitted = yield from _repeated(partial(stage, E), (yield from stage(E, gaussian)))
            gaussian = fitted.gaussian
            fresh = yield from fresh_elbo(gaussian, structure, self.fresh_draws)
            bound = max(OVERFIT_NATS, OVERFIT_ERRORS * fresh.elbo.mcse)
            gap = fitted.elbo - fresh.elbo.value
            if num >= most or _led_away(gaussian) or gap <= bound:
                return fitted, fresh
            num *= 2
            if dim > NEWTON_DIM:
                while num < most and not gap / 2 <= bound:
                    num, gap = 2 * num, gap / 2
                if even_draws(num, dim) <= len(E):  # no more fit into memory
                    return fitted, fresh

    def on_draws(self, E: Floats, q: Gaussian) -> Stage[StageResult]:
        """Maximise the ELBO over a full or low-rank scale, from Newton steps or a closed form."""
        structure = self.structure
        if structure.coupled:
            stage, max_evals = "full_rank", MAX_FULL_RANK_EVALS
            chart = TriangularChart(E, structure)
            q, _ = yield from newton(q, E, structure, partial(self.accepted, stage))
        else:
            stage, max_evals = "low_rank", MAX_LOW_RANK_EVALS
            chart = LowRankChart(E, structure)
            rank = len(q.scale.low_rank().stretch) if q.scale.coupling == "directions" else None
            if rank != structure.rank:
                q = yield from low_rank_start(q.mean_field(), chart, self.rng)
        show = partial(self.accepted, stage)
        fitted = yield from maximise_elbo(q, chart, structure, self.eps, show, max_evals)
        if isinstance(chart, LowRankChart) and not chart.turns.any():
            fitted = yield from self._redirected(fitted, chart, show)
        return fitted

    def _redirected(
        self, fitted: StageResult, chart: LowRankChart, show: Callable[[Gaussian, float], None]
    ) -> Stage[StageResult]:
        """Choose the directions anew in closed form, for the scales found, while the ELBO gains.

        In their units the best directions are the eigenvectors of the expected Hessian again, where
        the draws are too few for steps of the directions.
        """
        for _ in range(MAX_ROUNDS - 1):
            q, before = fitted.gaussian, fitted
            diagonal = Gaussian(q.loc, DiagonalScale(q.scale.low_rank().sd))
            start = yield from low_rank_start(diagonal, chart, self.rng)
            found = yield from maximise_elbo(
                start, chart, self.structure, self.eps, show, MAX_LOW_RANK_EVALS
            )
            if found.elbo > before.elbo:
                fitted = found
            if not found.elbo - before.elbo > ROUND_NATS:
                break
        return fitted


def mean_field_draws(structure: Structure, rng: np.random.Generator) -> Floats:
    """Return the fixed draws (M, D) of a mean-field stage."""
    dim = len(structure.random)
    num = MIN_DRAWS if dim > NEWTON_DIM else max(MIN_DRAWS, 2 * structure.dim)
    return structure.fixed_draws(rng, even_draws(num, dim))


def fresh_elbo(gaussian: Gaussian, structure: Structure, E: Floats) -> Stage[FreshElbo]:
    """Evaluate a Gaussian on antithetic draws E (n, D)."""
    log_p, gradients = yield gaussian.points(E)
    return FreshElbo.of(gaussian, log_p, gradients, E, structure)


def _repeated(
    stage: Callable[[Gaussian], Stage[StageResult]], fitted: StageResult
) -> Stage[StageResult]:
    """Repeat a stage from its end while it uses all its evaluations and still gains."""
    for _ in range(MAX_ROUNDS - 1):
        if fitted.reason != "budget" or _led_away(fitted.gaussian):
            break
        before = fitted.elbo
        fitted = yield from stage(fitted.gaussian)
        if not fitted.elbo - before > ROUND_NATS:
            break
    return fitted


def _led_away(q: Gaussian) -> bool:
    return not max(np.abs(q.loc).max(initial=0), q.sds.max(initial=0)) < TOO_FAR
