"""Reasons for distrust that no comparison of moments sees, and the verdict without a comparison."""

import math
from typing import Any

from advi.core.status import MAX_DRIFT
from advi.core.verdict import REMEDIES, Alarm, Cause, Verdict
from advi.model.checks.tails import growth
from advi.posterior.record import FitRecord, OtherMode

MODE_NATS, MODE_SDS = 3.0, 0.5
ONLY_POINTS = "A point estimate has no posterior to compare with."


def verdict_on(record: FitRecord) -> Verdict:
    """Return the verdict of an examination, or what is known without one."""
    if record.examination is not None:
        return record.examination.verdict
    if record.posterior.guide.local:
        return unexamined(
            record,
            "Importance weights of all rows' latents together would tell nothing.",
            action="compare fit.log_marginal(data) with the ELBO, or see "
            "advi.amortisation_gap(fit, data).",
        )
    if not record.posterior.guide.structure.dim:
        return unexamined(record, ONLY_POINTS)
    return unexamined(record, action="call fit.check().")


def unexamined(record: FitRecord, *reasons: str, action: str = "") -> Verdict:
    """Return the verdict on a fit that was not examined, from what is known all the same."""
    alarms = alarms_of(record)
    told = (*(alarm.reason for alarm in alarms), *reasons)
    for alarm in alarms:
        if alarm.cause in ("gradient", "diverged", "moving"):
            return Verdict("poor", told, REMEDIES[alarm.cause])
    return Verdict("not checked", told, action)


def improper(record: FitRecord) -> list[Alarm]:
    """Look along rays for a log density that does not fall."""
    posterior = record.global_posterior
    found = growth(posterior.density, posterior.gaussian.loc)
    return [] if found is None else [Alarm("improper", str(found))]


def alarms_of(record: FitRecord) -> tuple[Alarm, ...]:
    """Return what the course of a fit gives reason to distrust."""
    outcome, status = record.outcome, record.outcome.status
    alarms = [Alarm("gradient", reason) for reason in outcome.alarms]
    steps_asked_for = (
        status == "max_steps" and bool(outcome.trace) and outcome.trace[-1].stage == "optimize"
    )
    if status != "converged" and not steps_asked_for:
        cause: Cause = str(status)  # type: ignore[assignment]
        alarms.append(Alarm(cause, f"The fit did not converge: {status.message}."))
    if outcome.drift > MAX_DRIFT:
        to_go = f"means and sds may have some {outcome.drift:.2g} sd to go"
        if math.isinf(outcome.drift):
            to_go = "the ELBO was still rising, and how far there is to go is not known"
        alarms.append(Alarm("moving", f"The steps had not arrived: {to_go}."))
    for mode in outcome.other_modes:
        distances = mode_figures(record, mode)["distance"]
        name = max(distances, key=lambda k: distances[k])
        if mode.elbo_difference > -MODE_NATS and distances[name] > MODE_SDS:
            reason = (
                f"Another start ends {-mode.elbo_difference:.2g} nats lower, with the mean of "
                f"{name} {distances[name]:.1f} sd away: there is more than one mode."
            )
            alarms.append(Alarm("multimodal", reason))
    return tuple(alarms)


def mode_figures(record: FitRecord, mode: OtherMode) -> dict[str, Any]:
    """Return the difference of the ELBO, and the largest distance of each latent, sds."""
    distances = {
        name: float(mode.distance[slice(*span)].max(initial=0.0))
        for name, span in record.posterior.model.spans.items()
    }
    return {"elbo_difference": mode.elbo_difference, "distance": distances}
