"""Correction of a fit by weighted draws that are nearer to the posterior."""

import contextlib
import dataclasses

import numpy as np

from advi.core.keys import Stream, host_rng
from advi.core.verdict import REMEDIES, Alarm, Verdict
from advi.diagnostics.alarms import ONLY_POINTS, alarms_of, improper
from advi.diagnostics.chain_moments import Budget, by_long_hmc
from advi.diagnostics.compare_moments import compare_moments, heavy_tail
from advi.diagnostics.examine import advice, offer, target_of, too_many
from advi.diagnostics.importance_sampling import Adapted
from advi.diagnostics.linear_response import response_scale
from advi.diagnostics.obstacles import obstacle
from advi.diagnostics.quantities import quantity_names
from advi.diagnostics.reference import NESTED, ReferenceMoments, shift_from
from advi.diagnostics.reference_moments import CORRECT_ROUNDS, reference_moments
from advi.diagnostics.target import Target
from advi.posterior.record import Examination, FitRecord, rungs_of
from advi.variational.gaussian import Gaussian

RESPONSE_DIM = 512  # up to which a mean field is corrected from its linear response
HEAVY_KHAT, HEAVY_SHARE = 0.8, 0.5  # of even weights, beyond which a tail is unseen


def corrected(record: FitRecord, budget: Budget = Budget()) -> FitRecord:  # noqa: B008
    """Return the fit with weighted draws nearer to the posterior.

    Importance sampling comes first, then short chains, then chains that go on until they have
    converged or the budget ends.
    """
    posterior = record.global_posterior
    if not posterior.structure.dim:
        raise ValueError(f"corrected: {ONLY_POINTS}")
    if too_many(posterior):
        raise ValueError(f"corrected: {too_many(posterior)}")
    target = target_of(posterior, posterior.density.on(None))
    first = target.first
    uncoupled = not posterior.structure.coupled and posterior.guide.is_gaussian
    if uncoupled and 1 < posterior.structure.dim <= RESPONSE_DIM:
        # otherwise the fit's own scale
        with contextlib.suppress(ValueError, np.linalg.LinAlgError):
            first = Gaussian(first.loc, response_scale(record))
    rng = host_rng(record.key, Stream.CORRECT)
    alarms = (*improper(record), *alarms_of(record))
    known = record.examination and record.examination.reference
    if known is not None and budget.seconds is None:
        return _with_draws(record, target, known, first, record.khat, alarms, "")
    adapted, found = reference_moments(target, first, rng, CORRECT_ROUNDS)
    unseen = _unseen_tail(adapted)
    uncertain = not found[-1].confident or found[-1].method == "HMC"
    if target.hessian is None:  # of nested draws chains of so many latents know no better
        uncertain = uncertain or shift_from(target, found[-1], first).far
    if uncertain and not (unseen and budget.seconds is None):
        further = by_long_hmc(target, adapted, found[-1].states, rng, budget)
        found += [] if further is None else [further]
    best = found[-1]
    if target.hessian is not None and not best.confident and not found[0].failed:
        best = found[0]  # nearer than short runs of chains in so many dimensions
    if best.failed and best.method == NESTED:
        return _not_corrected(record, best, adapted.first_khat, alarms, offer(posterior))
    return _with_draws(record, target, best, first, adapted.first_khat, alarms, unseen)


def _with_draws(
    record: FitRecord, target: Target, best: ReferenceMoments, first: Gaussian, khat: float,
    alarms: tuple[Alarm, ...], unseen: str,
) -> FitRecord:  # fmt: skip
    """Return the fit with draws nearer to the posterior, and their verdict."""
    posterior = record.global_posterior
    names = quantity_names(posterior)
    watched = names if target.many is None else target.many.names(names)
    how = offer(posterior) or advice(posterior, best, frozenset())
    shift = shift_from(target, best, first)
    doubt = ""
    if unseen and best.method == "HMC":
        doubt = unseen
    elif shift.far and best.method != NESTED and (best.chains is None or target.transport is None):
        doubt = f"{shift}: where a correction goes so far, it may not be complete."
    elif heavy := heavy_tail(target, names, best):
        doubt = heavy
    verdict = _verdict(best, alarms, doubt, obstacle(posterior, best, watched), how)
    route = (*rungs_of(record), f"corrected by {best.method}")
    num = target.density.num_gradients
    return dataclasses.replace(
        record.with_outcome(route=route, num_gradients=num, num_chains=0),
        posterior=dataclasses.replace(posterior, weighted=best.draws),
        examination=Examination(verdict, khat, compare_moments([best], target.many)),
    )


def _not_corrected(
    record: FitRecord, best: ReferenceMoments, khat: float, alarms: tuple[Alarm, ...], how: str
) -> FitRecord:
    """Return the fit with its own draws, where a few of better ones have all of the weight."""
    reason = f"It could not be corrected: importance weights are too uneven ({best.size})."
    verdict = _alarmed(alarms) if alarms else Verdict("poor", (reason,), _action(how))
    return dataclasses.replace(record, examination=Examination(verdict, khat, None))


def _unseen_tail(adapted: Adapted) -> str:
    """Return a sentence if importance weights are even but for a tail that few draws reach.

    Chains seldom reach it, and it does not show in their R-hat.
    """
    if adapted.share < HEAVY_SHARE or adapted.khat <= HEAVY_KHAT:
        return ""
    return (
        f"importance weights have a heavy tail (k-hat {adapted.khat:.2f}): a part of the posterior "
        "lies where neither the draws nor the chains reach."
    )


def _verdict(
    best: ReferenceMoments, alarms: tuple[Alarm, ...], doubt: str, obstacle: str, how: str
) -> Verdict:
    if alarms:
        return _alarmed(alarms)
    if best.confident and not doubt:
        return Verdict("good", (f"Corrected by {best.method}: {best.size}.",))
    reason = f"Corrected by {best.method}, {best.size}, but {doubt[:1].lower()}{doubt[1:]}"
    if not best.confident and best.chains is not None:
        reason = (
            f"Corrected by {best.method}, which had not converged after {best.size}. {obstacle}"
        )
    elif not best.confident and not doubt:
        reason = f"Corrected by {best.method}, which had not converged after {best.size}."
    return Verdict("poor", (reason.strip(),), _action(how))


def _alarmed(alarms: tuple[Alarm, ...]) -> Verdict:
    return Verdict("poor", tuple(a.reason for a in alarms), REMEDIES[alarms[0].cause])


def _action(how: str) -> str:
    return f"reparameterise{f': {how}' if how else ' the model'}, or sample it by fit.nuts()."
