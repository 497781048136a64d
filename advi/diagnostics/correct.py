"""Correction of a fit by weighted draws that are nearer to the posterior."""

import contextlib
import dataclasses

import numpy as np

from advi.core.keys import Stream, host_rng
from advi.core.verdict import REMEDIES, Alarm, Verdict
from advi.diagnostics.alarms import ONLY_POINTS, alarms_of, improper
from advi.diagnostics.compare_moments import compare_moments, heavy_tail
from advi.diagnostics.examine import advice, target_of, too_many
from advi.diagnostics.linear_response import response_scale
from advi.diagnostics.quantities import quantity_names
from advi.diagnostics.reference_moments import (
    CORRECT_ROUNDS,
    MAX_DIM,
    ReferenceMoments,
    Shift,
    reference_moments,
    shift_from,
)
from advi.posterior.record import Examination, FitRecord
from advi.variational.gaussian import Gaussian

RESPONSE_DIM = 512  # up to which a mean field is corrected from its linear response


def corrected(record: FitRecord) -> FitRecord:
    """Return the fit with weighted draws nearer to the posterior."""
    posterior = record.global_posterior
    if not posterior.structure.dim:
        raise ValueError(f"corrected: {ONLY_POINTS}")
    target = target_of(posterior, posterior.density.on(None))
    first = target.marginal
    if posterior.structure.dim > MAX_DIM:
        raise ValueError(f"corrected: {too_many(posterior)}")
    if not posterior.structure.coupled and 1 < posterior.structure.dim <= RESPONSE_DIM:
        # otherwise the fit's own scale
        with contextlib.suppress(ValueError, np.linalg.LinAlgError):
            first = Gaussian(first.loc, response_scale(record))
    rng = host_rng(record.key, Stream.CORRECT)
    adapted, found = reference_moments(target, first, rng, CORRECT_ROUNDS)
    best = found[-1]
    how = advice(posterior, best, frozenset())
    alarms = (*improper(record), *alarms_of(record))
    heavy = heavy_tail(target, quantity_names(posterior), best)
    verdict = _verdict(best, shift_from(target, first, best), alarms, heavy, how)
    return dataclasses.replace(
        record,
        posterior=dataclasses.replace(posterior, weighted=best.draws),
        examination=Examination(verdict, adapted.first_khat, compare_moments([best])),
    )


def _verdict(
    best: ReferenceMoments, shift: Shift, alarms: tuple[Alarm, ...], heavy: str, how: str
) -> Verdict:
    if alarms:
        return Verdict("poor", tuple(a.reason for a in alarms), REMEDIES[alarms[0].cause])
    reason = f"Corrected by {best.method}, {best.size}, but"
    if not best.confident:
        reason = f"Corrected by {best.method}, which had not converged after {best.size}."
    elif shift.far:
        reason += f" {shift}: where a correction goes so far, it may not be complete."
    elif heavy:
        reason += f": {heavy}"
    else:
        return Verdict("good", (f"Corrected by {best.method}: {best.size}.",))
    action = f"reparameterise{f': {how}' if how else ' the model'}, or run long MCMC."
    return Verdict("poor", (reason,), action)
