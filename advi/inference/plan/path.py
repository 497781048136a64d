"""One path of the automatic plan after its start: mean field, a richer Gaussian, polish."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate
from advi.inference.plan.full_rank import full_rank
from advi.inference.plan.lockstep import Stage
from advi.inference.plan.low_rank import low_rank
from advi.inference.plan.mean_field import MAX_EVALS, Fitted, mean_field
from advi.inference.plan.newton import newton
from advi.inference.plan.polish import polish
from advi.variational.gaussian import Floats, Gaussian, Structure
from advi.variational.scale import LowRankScale

MIN_DRAWS = 64
NEWTON_DIM = 512  # the Newton steps hold a few D x D matrices
NEAR_EVALS, LONG_EVALS = 8, 300  # of L-BFGS before the Newton steps, and instead of them
MAX_ROUNDS = 6  # of a stage that has used all its evaluations
ROUND_NATS = 1.0  # that a round must gain for another to follow
MAX_DRAW_ELEMENTS = 2**24  # memory cap: draws times dimension
MAX_DOUBLINGS = 3
TOO_FAR = 1e16  # on the real scale: no posterior is meant to be there
NEARLY = 0.1  # a search stalled by rounding counts as converged below this scaled gradient
OVERFIT_NATS, OVERFIT_ERRORS = 1.0, 3.0
# with 64 fixed draws a roughness of 0.1 costs the order of 1e-3 nats
POLISH_ROUGHNESS = 0.1

Accepted = Callable[[str, Gaussian, float], None]  # stage, Gaussian, ELBO in nats


class HeldOut(NamedTuple):
    """A Gaussian on antithetic draws that no stage has seen."""

    gaussian: Gaussian
    elbos: Floats  # (n,) log p - log q, means of antithetic pairs
    roughness: float  # summed variance of the gradient's even part, zero for a Gaussian target

    @property
    def elbo(self) -> Estimate:
        """The ELBO in nats."""
        return Estimate.of(self.elbos)


class Path(NamedTuple):
    """Where a path ended."""

    fitted: Fitted  # by the last stage that optimises on fixed draws
    held_out: HeldOut  # of the Gaussian that it leaves

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
) -> Stage[Fitted]:
    """Fit a mean field: L-BFGS to come near, Newton steps, L-BFGS to settle if asked to.

    The Newton steps carry the mean along ridges, where the diagonal metric takes hundreds of
    evaluations and its progress can look like the end.
    """
    dim = len(gaussian.loc)
    E = structure.fixed_draws(rng, even(max(MIN_DRAWS, 2 * structure.dim), dim))

    def stage(q: Gaussian, max_evals: int) -> Stage[Fitted]:
        return mean_field(
            q, E, structure, eps, lambda q, elbo: accepted("mean_field", q, elbo), max_evals
        )

    def by_newton(q: Gaussian) -> Stage[tuple[Gaussian, bool]]:
        moved, arrived = yield from newton(
            q,
            E,
            structure,
            lambda q, elbo: accepted("mean_field", Gaussian(q.loc, q.diagonal), elbo),
        )
        return Gaussian(moved.loc, moved.diagonal), arrived

    def by_both(q: Gaussian) -> Stage[Fitted]:
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


def _persistent(stage: Callable[[Gaussian], Stage[Fitted]], fitted: Fitted) -> Stage[Fitted]:
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


def path(
    gaussian: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    held_out_draws: Floats,
    eps: float,
    accepted: Accepted,
    *,
    warm: bool = False,
    settle: bool = False,
) -> Stage[Path]:
    """Fit from a started Gaussian to the end.

    Parameters
    ----------
    gaussian
        Where to start.
    structure
        Which coordinates have noise and which are coupled.
    rng
        Generator of the draws.
    held_out_draws
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
    begun = structure.coupled or isinstance(gaussian.scale, LowRankScale) or gaussian.scale.ndim < 2
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
        fitted, held_out = yield from _richer(
            gaussian, structure, rng, held_out_draws, eps, accepted
        )
    else:
        assert fitted is not None
        held_out = yield from evaluate_held_out(gaussian, structure, held_out_draws)
    if held_out.roughness > POLISH_ROUGHNESS:  # else the fixed draws' optimum is the optimum
        polished = yield from polish(held_out.gaussian, structure, rng)
        after = yield from evaluate_held_out(polished, structure, held_out_draws)
        if after.elbo.value > held_out.elbo.value:
            held_out = after
            accepted("polish", polished, after.elbo.value)
    return Path(fitted, held_out)


def evaluate_held_out(gaussian: Gaussian, structure: Structure, E: Floats) -> Stage[HeldOut]:
    """Evaluate a Gaussian on antithetic draws E (n, D)."""
    log_p, gradients = yield gaussian.points(E)
    elbos = structure.paired_elbos(log_p, E, gaussian)
    even = gaussian.in_frame(gradients.reshape(2, len(elbos), -1).mean(0))
    roughness = float((even - even.mean(0))[:, structure.noisy].var(0).sum())
    return HeldOut(gaussian, elbos, roughness)


def _richer(
    gaussian: Gaussian,
    structure: Structure,
    rng: np.random.Generator,
    held_out_draws: Floats,
    eps: float,
    accepted: Accepted,
) -> Stage[tuple[Fitted, HeldOut]]:
    """Fit a full or low-rank scale, with twice the draws as long as the fixed ones are overfitted.

    The more parameters a scale has, the more draws determine it.
    """
    per_coordinate = 4 if structure.coupled else 2
    num, doublings = max(MIN_DRAWS, per_coordinate * structure.dim), 0
    while True:
        E = structure.fixed_draws(rng, even(num, len(gaussian.loc)))

        def stage(q: Gaussian, E: Floats = E) -> Stage[Fitted]:
            if structure.coupled:
                return full_rank(
                    q, E, structure, eps, lambda q, elbo: accepted("full_rank", q, elbo)
                )
            return low_rank(
                q, E, structure, eps, lambda q, elbo: accepted("low_rank", q, elbo), rng
            )

        fitted = yield from stage(gaussian)
        fitted = yield from _persistent(stage, fitted)
        gaussian = fitted.gaussian
        held_out = yield from evaluate_held_out(gaussian, structure, held_out_draws)
        bound = max(OVERFIT_NATS, OVERFIT_ERRORS * held_out.elbo.mcse)
        if (
            doublings == MAX_DOUBLINGS
            or _led_away(gaussian)
            or fitted.elbo - held_out.elbo.value <= bound
        ):
            return fitted, held_out
        num, doublings = 2 * num, doublings + 1


def even(num: int, dim: int) -> int:
    """Return an even number of draws near `num`, fewer where memory would not hold them."""
    return 2 * max(2, min(num, MAX_DRAW_ELEMENTS // max(dim, 1)) // 2)
