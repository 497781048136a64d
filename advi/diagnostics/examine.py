"""The examination of a fit, or the reason why there is none."""

import dataclasses
import math
from typing import Any

import numpy as np

from advi.core.errors import listed
from advi.core.keys import Stream, host_rng
from advi.core.types import Floats
from advi.core.verdict import REMEDIES, Alarm, Verdict
from advi.diagnostics.alarms import (
    NEXT_OF_PARTIAL,
    ONLY_POINTS,
    PARTIAL,
    alarms_of,
    improper,
    unexamined,
)
from advi.diagnostics.all_rows import on_all_rows
from advi.diagnostics.chain_moments import MAX_DIM
from advi.diagnostics.compare_moments import compare_with_reference
from advi.diagnostics.parametrisation import parametrisation
from advi.diagnostics.quantities import many_columns, quantities, quantity_names
from advi.diagnostics.reference import ReferenceMoments
from advi.diagnostics.reference_moments import MAX_NESTED_DIM
from advi.diagnostics.target import Target
from advi.model.density import Density
from advi.model.sparse_hessian import require_sparse
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.nonfinite import nonfinite_share
from advi.posterior.record import Examination, FitRecord
from advi.transforms.base import Identity, base_of
from advi.transforms.scalars import HalfLine
from advi.variational.gaussian import MANY
from advi.variational.sparse_precision import is_sparse

MIN_ADVICE_DRAWS, ADVICE_DRAWS, ADVICE_COORDINATES = 64, 500, 2**22


def examined(record: FitRecord, data: Any = None) -> FitRecord:
    """Return the record with an examination, on all rows of a fit that does not hold them."""
    posterior = at = record.global_posterior
    if data is not None:
        at = dataclasses.replace(posterior, density=on_all_rows(posterior.density, data))
    found = _examination(dataclasses.replace(record, posterior=at))
    return dataclasses.replace(record, examination=found)


def _examination(record: FitRecord) -> Examination:
    posterior = record.global_posterior
    if posterior.density.is_partial:
        return _none(unexamined(record, PARTIAL, action=NEXT_OF_PARTIAL))
    if not posterior.structure.dim:
        return _none(unexamined(record, ONLY_POINTS))
    if too_many(posterior):
        return _none(unexamined(record, too_many(posterior)))
    if not _has_scale(posterior):
        reason = "The fit has no finite mean, or no sd above zero: there is nothing to compare."
        alarms = alarms_of(record) or (Alarm("diverged", "The fit has diverged."),)
        all_reasons = (*(alarm.reason for alarm in alarms), reason)
        return _none(Verdict("poor", all_reasons, REMEDIES[alarms[0].cause]))
    found = compare_with_reference(
        target_of(posterior, posterior.density),
        quantity_names(posterior),
        (*improper(record), *alarms_of(record)),
        host_rng(record.key, Stream.CHECK),
        lambda better, off: advice(posterior, better, off),
        offer(posterior),
    )
    return found if found.verdict else _with_share(found, record)


def _with_share(found: Examination, record: FitRecord) -> Examination:
    """Return an examination that tells of draws at which the log density is not finite."""
    posterior, verdict = record.global_posterior, found.verdict
    rng = host_rng(record.key, Stream.SHARE)
    where = nonfinite_share(posterior.density, posterior.transport, rng)
    if not where:
        return found
    reasons = (*verdict.reasons, where)
    return found._replace(verdict=dataclasses.replace(verdict, reasons=reasons))


def _none(verdict: Verdict) -> Examination:
    return Examination(verdict, math.nan, None)


def _has_scale(posterior: GlobalPosterior) -> bool:
    """Return whether q has a finite mean and a finite scale of full rank."""
    loc, scale = posterior.gaussian
    sds = scale.diagonal[posterior.structure.random]
    return bool(np.all(np.isfinite(loc)) and np.all(np.isfinite(sds) & (sds > 0)))


def offer(posterior: GlobalPosterior) -> str:
    """Return how a NumPyro model's coordinates may be chosen, where nobody has chosen them yet."""
    program, estimated = posterior.model.program, posterior.guide.estimated
    sites = [name for name in program.hierarchical if name not in estimated]
    if not sites:
        return ""
    return f"fit.refine(reparam='auto') tries {listed(sites)} centred and non-centred"


def advice(posterior: GlobalPosterior, better: ReferenceMoments, off: frozenset[str]) -> str:
    """Return a sentence on how to reparameterise, from reference draws and columns that are off."""
    most = ADVICE_COORDINATES // better.draws.points.shape[1]
    num = int(np.clip(most, MIN_ADVICE_DRAWS, ADVICE_DRAWS))
    some = better.draws.resample(num, np.random.default_rng(0))
    values = posterior.constrain(some)
    settled = posterior.guide.estimated | set(posterior.model.program.coordinates.values())

    def of(kind: type) -> dict[str, Floats]:
        return {
            name: np.asarray(values[name], float)
            for name, latent in posterior.model.latents.items()
            if name not in settled and isinstance(base_of(latent.bijection), kind)
        }

    weights = np.full(len(some), 1 / len(some))
    return parametrisation(of(Identity), of(HalfLine), weights, off)


def too_many(posterior: GlobalPosterior) -> str:
    """Return a sentence on a dimension that is too large, or ""."""
    dim, most = posterior.structure.dim, MAX_DIM
    if is_sparse(posterior.guide):
        most = MAX_NESTED_DIM
    return f"{dim} coordinates are more than the {most} that can be examined." if dim > most else ""


def target_of(posterior: GlobalPosterior, density: Density) -> Target:
    """Return the posterior and its approximation for a comparison."""
    sparse = is_sparse(posterior.guide)
    return Target(
        density,
        posterior.gaussian,
        posterior.structure,
        columns=lambda X: quantities(posterior, posterior.constrain(X)),
        own_columns=lambda: quantities(posterior, posterior.moment_draws.values),
        columns_of=lambda q: quantities(posterior, posterior.constrain(posterior.moment_points(q))),
        transport=None if posterior.guide.is_gaussian else posterior.transport,
        hessian=require_sparse(density) if sparse else None,
        many=many_columns(posterior) if sparse or posterior.structure.dim > MANY else None,
    )
