"""Reference moments by nested importance sampling, less the errors of equal draws of the fit."""

from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics.cost import seconds_per_effects, seconds_per_factor, seconds_per_hessian
from advi.diagnostics.hub_precisions import num_precisions
from advi.diagnostics.importance_sampling import Adapted
from advi.diagnostics.monte_carlo_error import MonteCarloError
from advi.diagnostics.nested_sampling import PER_DIMENSION, NestedDraws, NestedSampler
from advi.diagnostics.reference import NESTED, STATES, ReferenceMoments
from advi.diagnostics.target import Moments, Target
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian

MIN_NUM, MIN_ROUNDS, MAX_ROUNDS, ALL_SECONDS = 64, 3, 8, 60.0  # predicted, of all rounds
MAX_ERROR = 0.07  # Monte Carlo error of any mean, in sds, or log sd but those in long latents
COLUMNS = 4096  # whose errors are found at once
MAX_STATES = 2**22  # coordinates of all states for chains
MAX_ADAPTED = 12  # hubs for which a round has as many draws as adapted proposals take


class NestedBudget(NamedTuple):
    """How many draws of the hubs to take."""

    draws: int  # of a round, at least
    enough: float  # effective draws that end the rounds
    seconds: float  # predicted, of a round, beyond which it has fewer draws


CHECK_BUDGET = NestedBudget(draws=160, enough=800, seconds=10.0)
CORRECT_BUDGET = NestedBudget(draws=256, enough=1000, seconds=20.0)


def by_nested_sampling(
    target: Target, hessian: SparseHessian, rng: np.random.Generator, budget: NestedBudget
) -> tuple[Adapted, ReferenceMoments]:
    """Return the moments of nested importance draws: of hubs, and of the others given these."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sampler = NestedSampler(target.density, hessian, target.widened, rng)
        num, rounds = _num_draws(target.density, hessian, sampler.num_given, budget)
        found = sampler.first_round(num)
        if found.even:
            adapted, better = _moments(target, found, num)
            if better.confident:
                return adapted, better
        return _moments(target, sampler.more_rounds(rounds, budget.enough), num)


def _moments(target: Target, found: NestedDraws, num: int) -> tuple[Adapted, ReferenceMoments]:
    """Return moments of draws, `num` of the hubs in a round."""
    hubs, draws, proposal = found.hubs, found.draws, target.widened
    columns = target.columns(draws.points)
    columns[draws.weights == 0] = 0.0  # where they may overflow
    moments = Moments(*weighted_moments(columns, draws.weights))
    ess = min(draws.ess, hubs.draws.ess)  # draws that share their hubs are not independent
    error = MonteCarloError.of_draws(ess, columns.shape[1])
    # most of the error is that of draws of the proposal, and known
    if not hubs.adapted and found.of_proposal is not None:
        of_proposal = target.columns(found.of_proposal)
        error = _of_pairs(columns, draws, of_proposal, (num, found.kept))
        moments = _relative(moments, of_proposal, target.moments_of(proposal))
        draws = _matched(draws, found.of_proposal, proposal)
    adapted = hubs._replace(draws=draws, proposal=target.first)
    short = slice(None) if target.many is None else target.many.short
    worst = max(of[short].max(initial=0.0) for of in error)
    reliable = found.reliable and bool(worst <= MAX_ERROR)
    failed = adapted.collapsed and not reliable
    states = int(np.clip(MAX_STATES // draws.points.shape[1], 1, STATES))
    return adapted, ReferenceMoments(
        NESTED, draws, moments, lambda: target.moments, hubs.khat,
        reliable, failed, draws.resample(states, np.random.default_rng(0)), error=error,
    )  # fmt: skip


def _num_draws(
    density: Density, hessian: SparseHessian, num_given: int, budget: NestedBudget
) -> tuple[int, int]:
    """Return the number of draws of hubs in a round, even, and the most rounds."""
    num_hubs = len(hessian.hyperparameters)
    predicted = num_precisions(num_hubs)  # precisions, of all after so many draws
    per_draw = seconds_per_factor(hessian) + num_given * seconds_per_effects(density)
    of_first = predicted * (seconds_per_hessian(density, hessian) + per_draw)

    def affordable(seconds: float) -> float:
        if seconds < of_first:
            return predicted * seconds / of_first
        return predicted + (seconds - of_first) / per_draw

    adapted = PER_DIMENSION * num_hubs if num_hubs <= MAX_ADAPTED else 0
    most = max(budget.draws, adapted)
    num = int(np.clip(affordable(budget.seconds), MIN_NUM, most)) // 2 * 2
    return num, int(np.clip(affordable(ALL_SECONDS) / num, MIN_ROUNDS, MAX_ROUNDS))


def _relative(moments: Moments, of_proposal: Floats, known: Moments) -> Moments:
    """Return moments by their differences from those of equal draws of a proposal, and its own."""
    mean, sd = of_proposal.mean(0), of_proposal.std(0)
    unit = np.where(sd > 0, sd, 1.0)
    factor = np.where(sd > 0, moments.sd / unit, 1.0)
    return Moments(known.mean + (moments.mean - mean) / unit * known.sd, known.sd * factor)


def _matched(draws: WeightedDraws, of_proposal: Floats, proposal: Gaussian) -> WeightedDraws:
    """Return draws moved and scaled, coordinate by coordinate, to moments of less error."""
    mean, sd = weighted_moments(draws.points, draws.weights)
    exact = Moments(proposal.loc, proposal.sds)
    better = _relative(Moments(mean, sd), of_proposal, exact)
    factor = better.sd / np.where(sd > 0, sd, 1.0)
    return WeightedDraws(better.mean + (draws.points - mean) * factor, draws.weights)


def _of_pairs(
    columns: Floats, draws: WeightedDraws, of_proposal: Floats, shape: tuple[int, int]
) -> MonteCarloError:
    """Return the errors of differences between weighted draws and equal ones at the same noise.

    `shape` is the number of draws of the hubs in a round, of which both halves are antithetic, and
    that of draws given each of them.
    """
    num, kept = shape
    weights, errors = draws.weights[:, None] * len(columns), ([], [])
    for k in range(0, columns.shape[1], COLUMNS):
        those, fitted = columns[:, k : k + COLUMNS], of_proposal[:, k : k + COLUMNS]
        mean, sd = weighted_moments(those, draws.weights)
        sd = np.where(sd > 0, sd, 1.0)
        for power, found in enumerate(errors, start=1):
            differences = weights * (those - mean) ** power - (fitted - fitted.mean(0)) ** power
            by_pair = differences.reshape(-1, 2, num // 2, kept, len(sd)).mean((1, 3))
            of_pairs = by_pair.reshape(-1, len(sd)) / (power * sd**power)
            found.append(of_pairs.std(0) / np.sqrt(len(of_pairs)))
    return MonteCarloError(*map(np.concatenate, errors))
