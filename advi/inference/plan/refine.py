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
)
from advi.inference.plan.newton import newton
from advi.inference.plan.polish import polish
from advi.variational.draws import MIN_DRAWS, even_draws
from advi.variational.gaussian import Gaussian, Structure

NEWTON_DIM = 512  # the Newton steps hold a few D x D matrices
NEAR_EVALS, LONG_EVALS = 8, 300  # of L-BFGS before the Newton steps, and instead of them
MAX_ROUNDS = 6  # of a stage that has used all its evaluations
ROUND_NATS = 1.0  # that a round must gain for another to follow
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

    @property
    def elbo(self) -> Estimate:
        """The ELBO in nats."""
        return Estimate.of(self.elbos)


class Refined(NamedTuple):
    """Where the plan ended from one start."""

    fitted: StageResult  # of the last stage that optimises on fixed draws
    fresh: FreshElbo  # of the Gaussian that it leaves

    @property
    def settled(self) -> bool:
        """Whether it ended at an optimum, as far as rounding lets one tell."""
        nearly = self.fitted.reason == "stalled" and self.fitted.gradient < NEARLY
        return bool(self.fitted.reason == "converged" or nearly)


def mean_field_stages(
    gaussian: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    eps: float,
    accepted: Accepted,
    settle: bool,
) -> Stage[StageResult]:
    """Fit a mean field: L-BFGS to come near, Newton steps, L-BFGS to settle if asked to.

    The Newton steps carry the mean along ridges, where the diagonal metric takes hundreds of
    evaluations and its progress can look like the end.
    """
    dim = len(gaussian.loc)
    E = structure.fixed_draws(rng, even_draws(max(MIN_DRAWS, 2 * structure.dim), dim))

    def stage(q: Gaussian, max_evals: int) -> Stage[StageResult]:
        chart = DiagonalChart(E, structure)
        return maximise_elbo(q, chart, structure, eps, partial(accepted, "mean_field"), max_evals)

    def by_newton(q: Gaussian) -> Stage[tuple[Gaussian, bool]]:
        moved, arrived = yield from newton(
            q,
            E,
            structure,
            lambda q, elbo: accepted("mean_field", q.mean_field(), elbo),
        )
        return moved.mean_field(), arrived

    def by_both(q: Gaussian) -> Stage[StageResult]:
        moved, _ = yield from by_newton(q)
        return (yield from stage(moved, MAX_EVALS))

    if dim > NEWTON_DIM:
        fitted = yield from stage(gaussian, LONG_EVALS)
        return (yield from _persistent(lambda q: stage(q, LONG_EVALS), fitted))
    near = yield from stage(gaussian, NEAR_EVALS)
    moved, arrived = yield from by_newton(near.gaussian)
    if arrived and not settle:
        return near._replace(gaussian=moved)
    fitted = yield from stage(moved, MAX_EVALS)
    return (yield from _persistent(by_both, fitted))


def _persistent(
    stage: Callable[[Gaussian], Stage[StageResult]], fitted: StageResult
) -> Stage[StageResult]:
    """Go on with a stage from where it ended, while its evaluations do not suffice."""
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


def refine(
    gaussian: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    fresh_draws: Floats,
    eps: float,
    accepted: Accepted,
    *,
    warm: bool = False,
    settle: bool = False,
) -> Stage[Refined]:
    """Fit from a started Gaussian to the end.

    Parameters
    ----------
    gaussian
        Where to start.
    structure
        Which coordinates have noise and which are coupled.
    rng
        Generator of the draws.
    fresh_draws
        (n, D) antithetic draws to check against, those without sign first.
    eps
        Machine epsilon of the log density.
    accepted
        Called with the stage, every accepted Gaussian and its ELBO.
    warm
        Leave the mean-field stage out where a richer one follows: `gaussian` is a fit.
    settle
        Take the mean-field stage to its end even so: it is the cheaper one to go far by.
    """
    fitted, richer = None, structure.coupled or structure.rank > 0
    # what a low-rank scale is made from is a mean field's, or another one's diagonal
    begun = structure.coupled or gaussian.scale.coupling != "all"
    if not (warm and richer and begun):
        fitted = yield from mean_field_stages(
            gaussian,
            structure.uncoupled(),
            rng,
            eps,
            accepted,
            # Newton steps of a coupled scale go on from any place that is near enough
            settle=settle or not structure.coupled,
        )
        gaussian = fitted.gaussian
    if richer:
        fitted, fresh = yield from _richer(gaussian, structure, rng, fresh_draws, eps, accepted)
    else:
        assert fitted is not None
        fresh = yield from fresh_elbo(gaussian, structure, fresh_draws)
    if fresh.roughness > POLISH_ROUGHNESS:  # else the fixed draws' optimum is the optimum
        polished = yield from polish(fresh.gaussian, structure, rng)
        after = yield from fresh_elbo(polished, structure, fresh_draws)
        if after.elbo.value > fresh.elbo.value:
            fresh = after
            accepted("polish", polished, after.elbo.value)
    return Refined(fitted, fresh)


def fresh_elbo(gaussian: Gaussian, structure: Structure, E: Floats) -> Stage[FreshElbo]:
    """Evaluate a Gaussian on antithetic draws E (n, D)."""
    log_p, gradients = yield gaussian.points(E)
    elbos = structure.paired_elbos(log_p, E, gaussian)
    even = gaussian.scale.rmv(gradients.reshape(2, len(elbos), -1).mean(0))
    roughness = float((even - even.mean(0))[:, structure.random].var(0).sum())
    return FreshElbo(gaussian, elbos, roughness)


def _richer(
    gaussian: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    fresh_draws: Floats,
    eps: float,
    accepted: Accepted,
) -> Stage[tuple[StageResult, FreshElbo]]:
    """Fit a full or low-rank scale, with twice the draws as long as the fixed ones are overfitted.

    The more parameters a scale has, the more draws determine it.
    """
    per_coordinate = 4 if structure.coupled else 2
    num, doublings = max(MIN_DRAWS, per_coordinate * structure.dim), 0
    while True:
        E = structure.fixed_draws(rng, even_draws(num, len(gaussian.loc)))

        def stage(q: Gaussian, E: Floats = E) -> Stage[StageResult]:
            return _richer_stage(q, E, structure, eps, accepted, rng)

        fitted = yield from stage(gaussian)
        fitted = yield from _persistent(stage, fitted)
        gaussian = fitted.gaussian
        fresh = yield from fresh_elbo(gaussian, structure, fresh_draws)
        bound = max(OVERFIT_NATS, OVERFIT_ERRORS * fresh.elbo.mcse)
        if (
            doublings == MAX_DOUBLINGS
            or _led_away(gaussian)
            or fitted.elbo - fresh.elbo.value <= bound
        ):
            return fitted, fresh
        num, doublings = 2 * num, doublings + 1


def _richer_stage(
    q: Gaussian,
    E: Floats,
    structure: Structure,
    eps: float,
    accepted: Accepted,
    rng: np.random.Generator,
) -> Stage[StageResult]:
    """Maximise the ELBO over a full or low-rank scale, from Newton steps or from a closed form."""
    if structure.coupled:
        stage, max_evals, chart = "full_rank", MAX_FULL_RANK_EVALS, TriangularChart(E, structure)
        q, _ = yield from newton(q, E, structure, partial(accepted, stage))
    else:
        stage, max_evals, chart = "low_rank", MAX_LOW_RANK_EVALS, LowRankChart(E, structure)
        if q.scale.coupling != "directions" or len(q.scale.low_rank().stretch) != structure.rank:
            q = yield from low_rank_start(q.mean_field(), chart, rng)
    show = partial(accepted, stage)
    return (yield from maximise_elbo(q, chart, structure, eps, show, max_evals))
