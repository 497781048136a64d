"""Reference moments: importance sampling, then short HMC where that fails."""

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.diagnostics.chain_moments import by_hmc
from advi.diagnostics.importance_sampling import Adapted, importance_sampling
from advi.diagnostics.nested_moments import CHECK_BUDGET, CORRECT_BUDGET, by_nested_sampling
from advi.diagnostics.reference import STATES, ReferenceMoments
from advi.diagnostics.target import Moments, Target
from advi.variational.gaussian import Gaussian

CHECK_ROUNDS, CORRECT_ROUNDS = 5, 20
MAX_NESTED_DIM = 2**18  # of a Gaussian with a sparse precision


def reference_moments(
    target: Target, first: Gaussian, rng: np.random.Generator, rounds: int, *, early: bool = False
) -> tuple[Adapted, list[ReferenceMoments]]:
    """Return the importance sampling and one or two estimates, the more reliable last.

    HMC gives the second where importance sampling is unreliable. `first` is a Gaussian over the
    random coordinates, `rounds` the largest number of rounds of 1,000 draws; with `early` fewer
    draws suffice if they show that `first` is right.
    """
    if target.hessian is not None and 0 < len(target.hessian.hyperparameters) < target.hessian.dim:
        budget = CHECK_BUDGET if early else CORRECT_BUDGET
        adapted, nested = by_nested_sampling(target, target.hessian, rng, budget)
        return adapted, [nested]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        adapted = importance_sampling(target.value, first, rng, rounds, early=early)
        found = [_weighted(target, adapted, first is target.first)]
        if not adapted.reliable:
            found.append(by_hmc(target, adapted, rng))
    return adapted, found


def _weighted(target: Target, adapted: Adapted, of_fit: bool) -> ReferenceMoments:
    draws = WeightedDraws(target.points(adapted.draws.points), adapted.draws.weights)
    # draws without weight may lie where a column overflows
    heavy = draws.weights > 0
    kept = WeightedDraws(draws.points[heavy], draws.weights[heavy])
    columns = target.columns(kept.points)

    def own() -> Moments:
        if of_fit and not adapted.adapted and heavy.all():
            return Moments(columns.mean(0), columns.std(0))
        return target.moments

    found = Moments(*weighted_moments(columns, kept.weights))
    failed = adapted.collapsed and not adapted.reliable
    return ReferenceMoments(
        "importance sampling", kept, found, own, adapted.khat, adapted.reliable, failed,
        adapted.draws.resample(STATES, np.random.default_rng(0)),
    )  # fmt: skip
