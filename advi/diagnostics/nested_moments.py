"""Reference moments by nested importance sampling, less the errors of equal draws of the fit."""

from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics.cost import seconds_per_factor, seconds_per_hessian
from advi.diagnostics.hub_precisions import num_precisions
from advi.diagnostics.importance_sampling import Adapted
from advi.diagnostics.monte_carlo_error import MonteCarloError
from advi.diagnostics.nested_sampling import nested_sampling
from advi.diagnostics.reference import STATES, ReferenceMoments
from advi.diagnostics.target import Moments, Target
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian

MIN_NUM, MIN_ROUNDS, MAX_ROUNDS, ALL_SECONDS = 64, 3, 8, 30.0  # predicted, of all rounds
MAX_ERROR = 0.07  # Monte Carlo error, sds, of any mean but those in long latents


class NestedBudget(NamedTuple):
    """Of a round: the most draws of the hubs, and predicted seconds beyond which they are fewer."""

    draws: int
    seconds: float


CHECK_BUDGET, CORRECT_BUDGET = NestedBudget(128, 10.0), NestedBudget(256, 20.0)


def by_nested_sampling(
    target: Target, hessian: SparseHessian, rng: np.random.Generator, budget: NestedBudget
) -> tuple[Adapted, ReferenceMoments]:
    """Return the moments of nested importance draws: of hubs, and of the others given these."""
    num, rounds = _num_draws(target.density, hessian, budget)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        proposal = target.widened
        found = nested_sampling(target.density, hessian, proposal, rng, num, rounds)
        hubs, draws = found.hubs, found.draws
        columns = target.columns(draws.points)
        columns[draws.weights == 0] = 0.0  # where they may overflow
        moments = Moments(*weighted_moments(columns, draws.weights))
        error = MonteCarloError.of_draws(draws.ess, columns.shape[1])
        if not hubs.adapted:  # most of the errors is that of draws of the proposal, and known
            of_proposal = target.columns(found.of_proposal)
            error = _of_pairs(columns, draws, of_proposal, found.kept)
            moments = _relative(moments, of_proposal, target.moments_of(proposal))
            draws = _matched(draws, found.of_proposal, proposal)
    adapted = Adapted(
        draws, hubs.khat, hubs.log_ratios, hubs.first_khat, target.first, hubs.share,
        adapted=hubs.adapted,
    )  # fmt: skip
    short = slice(None) if target.many is None else target.many.short
    reliable = found.reliable and bool(error.shift[short].max(initial=0.0) <= MAX_ERROR)
    failed = adapted.collapsed and not reliable
    return adapted, ReferenceMoments(
        "nested importance sampling", draws, moments, lambda: target.moments, hubs.khat,
        reliable, failed, draws.resample(STATES, np.random.default_rng(0)), error=error,
    )  # fmt: skip


def _num_draws(density: Density, hessian: SparseHessian, budget: NestedBudget) -> tuple[int, int]:
    """Return the number of draws of hubs in a round, even, and the most rounds."""
    first, per_factor = num_precisions(len(hessian.hubs)), seconds_per_factor(hessian)
    of_first = first * (seconds_per_hessian(density, hessian) + per_factor)
    affordable = first + (budget.seconds - of_first) / per_factor
    num = int(np.clip(affordable, MIN_NUM, budget.draws)) // 2 * 2
    return num, int(np.clip((ALL_SECONDS - of_first) / (num * per_factor), MIN_ROUNDS, MAX_ROUNDS))


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
    columns: Floats, draws: WeightedDraws, of_proposal: Floats, kept: int
) -> MonteCarloError:
    """Return the errors of differences between weighted draws and equal ones at the same noise.

    Both halves of the draws are antithetic.
    """
    mean, sd = weighted_moments(columns, draws.weights)
    sd = np.where(sd > 0, sd, 1.0)
    weights, errors = draws.weights[:, None] * len(columns), []
    for power in (1, 2):
        differences = (
            weights * (columns - mean) ** power - (of_proposal - of_proposal.mean(0)) ** power
        )
        of_pairs = differences.reshape(2, -1, kept, len(sd)).mean((0, 2)) / (power * sd**power)
        errors.append(of_pairs.std(0) / np.sqrt(len(of_pairs)))
    return MonteCarloError(*errors)
