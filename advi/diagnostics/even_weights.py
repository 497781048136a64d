"""The examination of a fit whose importance weights are nearly even, from moments alone."""

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.alarms import alarms_of
from advi.diagnostics.importance_sampling import (
    EQUAL_SHARE,
    FIRST_SHARE,
    MAX_ADAPTED_DIM,
    NEAR_KHAT,
)  # fmt: skip
from advi.diagnostics.judge import judge
from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.quantities import quantity_names
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
    """
    posterior = record.global_posterior
    weights, khat = pareto_smooth(log_ratios)
    share = 1 / (weights**2).sum() / len(weights)
    few = posterior.structure.dim <= MAX_ADAPTED_DIM
    if not (share >= (EQUAL_SHARE if few else FIRST_SHARE) and khat <= NEAR_KHAT):
        return None
    varies = sd > 0  # not so for constant entries, as above a triangular matrix
    unit = np.where(varies, sd, 1.0)
    shift = np.where(varies, np.abs(weighted_mean - mean) / unit, 0.0)
    ratio = np.log(np.where(varies, weighted_sd / unit, 1.0))
    comparison = Comparison(shift, ratio, "importance sampling")
    verdict = judge(
        quantity_names(posterior), comparison, alarms_of(record), posterior.structure.full
    )
    return Examination(verdict, khat, comparison)
