"""Draws of a fit that are weighted to its posterior."""

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.keys import Stream, host_rng
from advi.core.types import Floats
from advi.diagnostics.correct import corrected
from advi.diagnostics.examine import target_of
from advi.diagnostics.importance_sampling import NEAR_KHAT, importance_sampling
from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.reference_moments import CHECK_ROUNDS
from advi.posterior.record import FitRecord


def reweighted(
    record: FitRecord, points: Floats, log_ratios: Floats
) -> tuple[WeightedDraws, float]:
    """Return weighted draws of the posterior, and the k-hat of their weights.

    Draws `points` (n, D) of the fit with log p - log q (n,) in nats are weighted where the k-hat is
    low; otherwise those of adapted proposals, or where these are unreliable of the correction,
    whose k-hat is -inf.
    """
    weights, khat = pareto_smooth(log_ratios)
    if khat <= NEAR_KHAT:
        return WeightedDraws(points, weights), khat
    posterior = record.global_posterior
    target = target_of(posterior, posterior.density)
    rng = host_rng(record.key, Stream.CORRECT)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = importance_sampling(target.value, target.first, rng, CHECK_ROUNDS)
    if found.reliable:
        return WeightedDraws(target.points(found.draws.points), found.draws.weights), found.khat
    weighted = corrected(record).global_posterior.weighted
    assert weighted is not None
    return weighted, -np.inf
