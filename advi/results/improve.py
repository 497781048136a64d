"""The rungs of family="auto" beyond a Gaussian: a mixture or a map, then a correction by draws."""

import dataclasses
import math

import numpy as np

from advi.core.progress_bar import ProgressBar
from advi.core.status import Status
from advi.diagnostics.alarms import alarms_of
from advi.diagnostics.chain_moments import Budget
from advi.diagnostics.correct import corrected
from advi.diagnostics.cost import seconds_per_gradient
from advi.diagnostics.examine import examined
from advi.inference.plan.bend import bent
from advi.inference.plan.mixed import mixed
from advi.inference.plan.transport_steps import DRAWS, STEPS
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord, rungs_of
from advi.variational.block import Block
from advi.variational.full_rank import FullRank
from advi.variational.sparse_precision import is_sparse
from advi.variational.triangular import Triangular

RUNG_SECONDS = 10.0  # predicted, of the first gradients of a rung: beyond it it is not tried
MIXTURE_GRADIENTS = 10_000  # of a further search, and of the first rounds of a mixture
TIGHT_SHIFT, TIGHT_RATIO = 0.07, 1.07  # of the examination, below which weights add nothing
NEAR_SDS = 3.0  # of the vector between two optima that a map, or draws, may join
GAIN_NATS, ERRORS = 0.05, 2.0  # of the ELBO, by which a map has to be better


def improved(record: FitRecord, bar: ProgressBar) -> FitRecord:
    """Return a fit that its verdict calls good, if a rung or two more lead to one.

    Where the plan has found several modes, a mixture of their Gaussians follows. A Gaussian that
    is not good, or whose moments are not near to those of its examination, is bent by a triangular
    map, which is kept if its ELBO on fresh draws is higher. If that is not good, its draws are
    corrected, and if its moments are not near they are weighted. Each rung takes some ten seconds
    at most, by the predicted work. Ctrl-C keeps the fit so far.
    """
    best = record
    try:
        if _is_multimodal(best):
            best = _of_all_modes(best, bar)
        elif _is_open(best) or _is_loose(best):
            best = _mapped(best, bar)
        if _is_open(best):
            bar.begin("correction")
            found = corrected(_without_near_modes(best), Budget(report=bar.begin))
            if _level(found) == "good" or _level(best) != "means_only":
                best = found
        elif _is_loose(best):
            best = _weighted(best, bar)
    except KeyboardInterrupt:
        status = best.outcome.status
        message = f"{status.message}; interrupted on the way from there to a richer fit"
        return best.with_outcome(status=Status(str(status), message))
    return best


def _weighted(record: FitRecord, bar: ProgressBar) -> FitRecord:
    """Return a good fit with its draws weighted by importance sampling.

    If many draws have uneven weights, short chains are run, and where they lead away from the fit
    it was not as good as its few weights said: then it is corrected by long ones.
    """
    found = corrected(record, Budget(predicted=0.0))
    comparison = found.examination and found.examination.comparison
    if comparison is None or comparison.method == "importance sampling":
        return found if _level(found) == "good" else record
    if comparison.off_mean.any() or comparison.off_sd.any():
        bar.begin("correction")
        return corrected(record, Budget(report=bar.begin))
    return record


def _is_open(record: FitRecord) -> bool:
    """Return whether a fit is not good, for a reason that another rung may mend."""
    settled = record.outcome.status == "converged" and not alarms_of(_without_near_modes(record))
    return settled and _level(record) in ("poor", "means_only")


def _is_multimodal(record: FitRecord) -> bool:
    """Return whether all that speaks against a fit is that there are modes that it does not hold.

    The labels of modes that are copies of one another are for the user to fix.
    """
    causes = {alarm.cause for alarm in alarms_of(_without_near_modes(record))}
    blocks = record.global_posterior.guide.blocks
    return causes == {"multimodal"} and [isinstance(b.family, FullRank) for b in blocks] == [True]


def _of_all_modes(record: FitRecord, bar: ProgressBar) -> FitRecord:
    """Return the mixture of the Gaussians of all modes, examined, or the fit if that is no gain."""
    posterior = record.global_posterior
    seconds = MIXTURE_GRADIENTS * seconds_per_gradient(posterior.density, posterior.transport)
    if seconds > RUNG_SECONDS:
        return record
    bar.begin("mixture")
    found = mixed(record, callback=bar.update)
    if found.outcome.status == "interrupted":
        raise KeyboardInterrupt
    (before, error), (after, other) = record.outcome.elbo, found.outcome.elbo
    if found.outcome.status != "converged" or not _gains(after - before, math.hypot(error, other)):
        return record
    bar.begin("verdict")
    size = len(found.global_posterior.params[0].locs)
    route = (*rungs_of(record), f"mixture of {size} (+{after - before:.2g} nats)")
    return examined(found.with_outcome(route=route))


def _gains(nats: float, error: float) -> bool:
    return nats > GAIN_NATS + ERRORS * error


def _without_near_modes(record: FitRecord) -> FitRecord:
    """Return the record without other optima so near that a richer family holds both."""
    modes = record.outcome.other_modes
    far = tuple(mode for mode in modes if np.linalg.norm(mode.distance) > NEAR_SDS)
    return record.with_outcome(other_modes=far)


def _is_loose(record: FitRecord) -> bool:
    """Return whether a good fit has moments that its own importance weights would improve.

    Not of thousands of latents, whose weights cost as much as the fit.
    """
    if is_sparse(record.posterior.guide):
        return False
    comparison = record.examination and record.examination.comparison
    if not comparison or _level(record) != "good" or record.posterior.weighted is not None:
        return False
    off = np.abs(comparison.log_ratio).max() > np.log(TIGHT_RATIO)
    return bool(off or comparison.shift.max() > TIGHT_SHIFT)


def _level(record: FitRecord) -> str:
    return "" if record.examination is None else record.examination.verdict.level


def _mapped(record: FitRecord, bar: ProgressBar) -> FitRecord:
    """Return the fit bent by a triangular map and examined, or as it was if that gains nothing."""
    record_of_plan, record = record, _without_near_modes(record)
    posterior = record.global_posterior
    density, latents = posterior.density, posterior.model.latents
    blocks = tuple(
        Block(b.names, Triangular().for_latents(tuple(latents[n].size for n in b.names)))
        if isinstance(b.family, FullRank)
        else b
        for b in posterior.guide.blocks
    )
    guide = dataclasses.replace(posterior.guide, blocks=blocks)
    if guide.is_gaussian:
        return record_of_plan
    params = guide.params_of(posterior.gaussian, density.dtype)
    start = GlobalPosterior(guide, params, density)
    seconds = STEPS * DRAWS * seconds_per_gradient(density, start.transport)
    if seconds > RUNG_SECONDS:
        return record_of_plan
    found, gain = bent(dataclasses.replace(record, posterior=start), callback=bar.update)
    if found.outcome.status == "interrupted":  # by Ctrl-C, or by the callback
        raise KeyboardInterrupt
    if found.outcome.status != "converged" or not _gains(gain.value, gain.mcse):
        return record_of_plan
    bar.begin("verdict")
    route = (*rungs_of(record), f"triangular (+{gain.value:.2g} nats)")
    return examined(found.with_outcome(route=route))
