"""The examination of a fit whose importance weights are nearly even, from moments alone."""

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.alarms import alarms_of, improper
from advi.diagnostics.compare_moments import differences, few_floats
from advi.diagnostics.importance_sampling import (
    EQUAL_SHARE,
    FIRST_SHARE,
    MAX_ADAPTED_DIM,
    NEAR_KHAT,
)  # fmt: skip
from advi.diagnostics.judge import judge
from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.quantities import quantity_names
from advi.diagnostics.target import Moments
from advi.posterior.record import Comparison, Examination, FitRecord


def by_even_weights(
    record: FitRecord,
    log_ratios: Floats,
    mean: Floats,
    sd: Floats,
    weighted_mean: Floats,
    weighted_sd: Floats,
) -> Examination | None:
    """Return the examination by weights p / q of draws, or None where they are not even enough.

    `log_ratios` (n,) are in nats; the moments (K,) are of the quantities that a fit is judged by.
    None too where a moment is not finite, or draws fall on a few floats, whose weights are equal.
    """
    posterior = record.global_posterior
    own, better = Moments(mean, sd), Moments(weighted_mean, weighted_sd)
    weights, khat = pareto_smooth(log_ratios)
    share = 1 / (weights**2).sum() / len(weights)
    few = posterior.structure.dim <= MAX_ADAPTED_DIM
    even = share >= (EQUAL_SHARE if few else FIRST_SHARE) and khat <= NEAR_KHAT
    comparison = Comparison(*differences(own, better, confident=True), "importance sampling")
    finite = np.isfinite(comparison.shift) & np.isfinite(comparison.log_ratio)
    if not even or not finite.all() or few_floats(own, posterior.density.dtype).any():
        return None
    alarms = (*improper(record), *alarms_of(record))
    verdict = judge(quantity_names(posterior), comparison, alarms, posterior.structure.full)
    return Examination(verdict, khat, comparison)
