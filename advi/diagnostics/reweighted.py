"""Draws of a fit that are weighted to its posterior."""

from advi.core.draw_set import WeightedDraws
from advi.core.keys import Stream, host_rng
from advi.core.types import Floats
from advi.diagnostics.examine import target_of
from advi.diagnostics.importance_sampling import FIRST_SHARE, NEAR_KHAT
from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.reference_moments import CHECK_ROUNDS, reference_moments
from advi.posterior.record import FitRecord


def reweighted(
    record: FitRecord, points: Floats, log_ratios: Floats
) -> tuple[WeightedDraws, float]:
    """Return weighted draws of the posterior, and the k-hat of their weights.

    Draws `points` (n, D) of the fit with log p - log q (n,) in nats are weighted where the weights
    are nearly even; otherwise they are those of adapted proposals, which reach farther out, or
    where these are unreliable of many short chains, whose k-hat is -inf.
    """
    weights, khat = pareto_smooth(log_ratios)
    draws = WeightedDraws(points, weights)
    if khat <= NEAR_KHAT and draws.ess >= FIRST_SHARE * len(weights):
        return draws, khat
    posterior = record.global_posterior
    target = target_of(posterior, posterior.density)
    rng = host_rng(record.key, Stream.RANKS)
    best = reference_moments(target, target.first, rng, CHECK_ROUNDS)[1][-1]
    return best.draws, best.khat
