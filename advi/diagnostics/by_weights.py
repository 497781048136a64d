"""The examination of a fit by importance weights and moments that are known already."""

from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.alarms import alarms_of, improper
from advi.diagnostics.compare_moments import (
    MAX_RESOLUTION,
    differences,
    few_floats,
    resolution,
    unreliable,
)
from advi.diagnostics.examine import offer
from advi.diagnostics.importance_sampling import (
    FIRST_SHARE,
    MAX_KHAT,
    MIN_SHARE,
    NEAR_KHAT,
    NEAR_SHARE,
    gaussian_share,
)  # fmt: skip
from advi.diagnostics.judge import judge
from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.quantities import quantity_names
from advi.diagnostics.target import Moments
from advi.posterior.record import Comparison, Examination, FitRecord


class Known(NamedTuple):
    """What is known of a fit and of the posterior, from draws of both."""

    first_log_ratios: Floats  # log p - log q of the fit's draws, nats
    log_ratios: Floats  # of the draws of all proposals, of which the fit is the first
    last_share: float  # effective share of those of the last one, by its own density
    own: Moments  # of the quantities that a fit is judged by
    better: Moments  # by all draws
    far: Floats  # log densities after `tails.first_steps`


def by_weights(record: FitRecord, known: Known) -> Examination | None:
    """Return the examination by importance sampling, or None where it does not suffice.

    That is where means agree and the proposals have not settled, or their moments are unreliable;
    where chains would be asked (`unreliable`); where sds alone are off, whose tails then matter;
    and where a moment is not finite.
    """
    posterior = record.global_posterior
    structure, dtype = posterior.structure, posterior.density.dtype
    finite = np.isfinite([*known.own, *known.better]).all()
    if not finite or few_floats(known.own, dtype).any():
        return None
    if resolution(known.first_log_ratios, dtype) > MAX_RESOLUTION:
        return None
    first_khat = pareto_smooth(known.first_log_ratios)[1]
    weights, khat = pareto_smooth(known.log_ratios)
    share = 1 / (weights**2).sum() / len(weights)
    if len(weights) > len(known.first_log_ratios):
        last = known.last_share / gaussian_share(structure.dim)
        settled = last >= NEAR_SHARE and khat <= NEAR_KHAT
        reliable = max(last, share / gaussian_share(structure.dim)) >= MIN_SHARE
    else:
        settled = share >= FIRST_SHARE and khat <= NEAR_KHAT
        reliable = share >= MIN_SHARE
    comparison = Comparison(
        *differences(known.own, known.better, confident=True), "importance sampling"
    )
    enough = reliable and khat <= MAX_KHAT if comparison.off_mean.any() else settled
    if not enough:
        return None
    only_sds = comparison.off_sd.any() and not comparison.off_mean.any()
    if only_sds or unreliable(structure.full, comparison, first_khat):
        return None
    alarms = (*improper(record, known.far if len(known.far) else None), *alarms_of(record))
    names = quantity_names(posterior)
    verdict = judge(names, comparison, alarms, structure.full, how=offer(posterior))
    return Examination(verdict, first_khat, comparison)
