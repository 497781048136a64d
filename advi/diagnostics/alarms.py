"""Alarms: evidence against a fit apart from its moments; and the verdict without a comparison."""

import math
from typing import Any

from advi.core.errors import listed
from advi.core.status import MAX_DRIFT
from advi.core.types import Floats
from advi.core.verdict import REMEDIES, Alarm, Cause, Verdict
from advi.model.checks.tails import growth
from advi.model.density import SOME_ROWS
from advi.posterior.base import density_of
from advi.posterior.record import FitRecord, OtherMode
from advi.variational.sparse_precision import is_sparse

PARTIAL = f"The posterior cannot be compared with: {SOME_ROWS}."
NEXT_OF_PARTIAL = "call fit.check(data=...) with all rows, as arrays or as the stream again."
ONLY_POINTS = "A point estimate has no posterior to compare with."


def verdict_on(record: FitRecord) -> Verdict:
    """Return the verdict of the examination, or else of the alarms."""
    if record.examination is not None:
        return record.examination.verdict
    if record.posterior.guide.local:
        return unexamined(
            record,
            "Importance weights of the latents of all rows together would be useless.",
            action="compare fit.log_marginal(data) with the ELBO, or see "
            "advi.amortisation_gap(fit, data).",
        )
    if not record.posterior.guide.structure.dim:
        return unexamined(record, ONLY_POINTS)
    partial = density_of(record.posterior).is_partial
    return unexamined(record, action=NEXT_OF_PARTIAL if partial else "call fit.check().")


def unexamined(record: FitRecord, *reasons: str, action: str = "") -> Verdict:
    """Return the verdict of the alarms on a fit that was not examined."""
    alarms = alarms_of(record)
    all_reasons = (*(alarm.reason for alarm in alarms), *reasons)
    for alarm in alarms:
        if alarm.cause in ("gradient", "family", "diverged", "moving"):
            return Verdict("poor", all_reasons, REMEDIES[alarm.cause])
    return Verdict("not checked", all_reasons, action)


def improper(record: FitRecord, first: Floats | None = None) -> list[Alarm]:
    """Return an alarm if the log density does not fall along some ray; see `growth` for `first`."""
    posterior = record.global_posterior
    if record.outcome.status == "max_steps" and is_sparse(posterior.guide):
        return []  # effects may still be at zero, where their sd has a density without bound
    found = growth(posterior.density, posterior.gaussian.loc, first)
    return [] if found is None else [Alarm("improper", str(found))]


def alarms_of(record: FitRecord) -> tuple[Alarm, ...]:
    """Return the alarms from the optimisation of a fit."""
    outcome, status = record.outcome, record.outcome.status
    alarms = [Alarm("gradient", reason) for reason in outcome.alarms]
    alarms += [Alarm("family", reason) for reason in outcome.family_alarms]
    by_steps = bool(outcome.trace) and outcome.trace[-1].stage == "optimize"
    if status != "converged" and not (status == "max_steps" and by_steps):
        cause: Cause = str(status)  # type: ignore[assignment]
        alarms.append(Alarm(cause, f"The fit did not converge: {status.message}."))
    if outcome.drift > MAX_DRIFT:
        why = f"means and sds may be off by about {outcome.drift:.2g} sd"
        if math.isinf(outcome.drift):
            why = "the ELBO was still rising, and the distance from the optimum is unknown"
        alarms.append(Alarm("moving", f"The steps had not converged: {why}."))
    for mode in outcome.other_modes:
        distances = mode_figures(record, mode)["distance"]
        name = max(distances, key=lambda k: distances[k])
        if mode.counts:
            reason = f"Another start ends {-mode.elbo_difference:.2g} nats lower, with the mean of "
            reason += f"{name} {distances[name]:.1f} sd away: "
            if mode.labels:
                reason += f"the same mode, with the entries of {listed(mode.labels)} exchanged."
                alarms.append(Alarm("labels", reason))
            else:
                alarms.append(Alarm("multimodal", f"{reason}there is more than one mode."))
    return tuple(alarms)


def mode_figures(record: FitRecord, mode: OtherMode) -> dict[str, Any]:
    """Return the ELBO difference, nats, and the largest distance of each latent, sds."""
    spans = record.posterior.model.spans.items()
    distances = {name: float(mode.distance[slice(*s)].max(initial=0.0)) for name, s in spans}
    return {"elbo_difference": mode.elbo_difference, "distance": distances}
