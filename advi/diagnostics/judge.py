"""The verdict of a comparison, in sentences."""

from collections.abc import Callable

import numpy as np

from advi.core.types import Bools, Floats
from advi.core.verdict import REMEDIES, Alarm, Verdict
from advi.diagnostics.reference import ReferenceMoments
from advi.posterior.record import Comparison
from advi.variational.gaussian import MANY

NAMED = 3  # columns named in a reason


def judge(
    names: tuple[str, ...],
    comparison: Comparison,
    alarms: tuple[Alarm, ...],
    full: bool,
    caveat: str = "",
    how: str = "",
) -> Verdict:
    """Return the verdict of a comparison of columns `names`.

    `full`: the family holds every Gaussian. `caveat`: a sentence on why the means may be off all
    the same. `how`: a sentence on how to reparameterise, or "".
    """
    off_mean, off_sd = comparison.off_mean, comparison.off_sd
    reasons = [alarm.reason for alarm in alarms]
    if off_mean.any():
        listed = _list(names, comparison.shift, off_mean, lambda v: f"is off by {v:.2g} sd")
        reasons.append(f"By {comparison.method}, the mean of {listed}.")
    if off_sd.any():
        listed = _list(names, comparison.log_ratio, off_sd, _too_small)
        reasons.append(f"By {comparison.method}, the sd of {listed}.")
    if alarms:
        return Verdict("poor", tuple(reasons), REMEDIES[alarms[0].cause])
    if not (off_mean.any() or off_sd.any()):
        closest = (
            f"Against {comparison.method} every mean agrees within {comparison.shift.max():.2g} sd "
            f"and every sd within {np.expm1(np.abs(comparison.log_ratio).max()):.0%}."
        )
        return Verdict("good", (closest,))
    action = "use fit.corrected()"
    if not full:
        action += f", or a family with correlations, such as {_richer(len(names))}"
        action += "" if off_mean.any() else ", or fit.linear_response()"
    action += f", or reparameterise: {how}" if how else ""
    action += "." if how or not full else ", or reparameterise the latents named."
    if caveat and not off_mean.any():
        reasons.append(caveat)
    level = "poor" if off_mean.any() or caveat else "means_only"
    return Verdict(level, tuple(reasons), action)


def without_spread(
    names: tuple[str, ...], mean: Floats, stuck: Bools, alarms: tuple[Alarm, ...], kind: str
) -> Verdict:
    """Return the verdict if `stuck` (K,) columns have draws on a few numbers of a float type.

    `mean` (K,) are the means of all columns, `kind` is the float type.
    """
    listed = _list(names, mean, stuck, lambda v: f"(at {v:.3g})")
    reason = (
        f"The sd of {listed} cannot be computed: its draws fall on a few {kind} numbers, and there "
        "is nothing to compare."
    )
    wider = ", or compute with x64=True" if kind == "float32" else ""
    faulty = [alarm for alarm in alarms if alarm.cause in ("gradient", "improper")]
    action = REMEDIES[faulty[0].cause] if faulty else (
        f"center or scale the latents named, so that they are within some sds of zero{wider}. If "
        "they should not be there, see whether log_joint falls far out and its sign is right."
    )  # fmt: skip
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def unresolved(resolution: float, alarms: tuple[Alarm, ...], kind: str) -> Verdict:
    """Return the verdict if float arithmetic has a resolution of so many nats."""
    reason = (
        f"The fit could not be checked: the log density is so large a number that {kind} does not "
        f"resolve differences below {resolution:.2g} nats."
    )
    wider = "compute with x64=True, or " if kind == "float32" else ""
    action = REMEDIES[alarms[0].cause] if alarms else (
        f"{wider}center and scale latents and data, and leave constants out of log_joint."
    )  # fmt: skip
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def unchecked(
    found: list[ReferenceMoments], alarms: tuple[Alarm, ...], full: bool, num: int, how: str = ""
) -> Verdict:
    """Return the verdict on `num` columns without reliable reference moments.

    `how` is as for `judge`.
    """
    why = [] if found[0].confident else [f"importance weights are too uneven ({found[0].size})"]
    if found[-1].method == "HMC":
        why.append(f"HMC had not converged after {found[-1].size}")
    reason = f"The fit could not be checked: {', and '.join(why)}."
    how = f": {how}" if how else ", such as a hierarchy from centred to non-centred or back"
    action = (
        f"reparameterise the model{how}, or sample it by fit.nuts(); family='auto' goes on to a "
        "map and a correction by itself."
    )
    if not full:
        action = f"fit with correlations, such as {_richer(num)}; or {action}"
    action = REMEDIES[alarms[0].cause] if alarms else action
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def _richer(dim: int) -> str:
    """Return the families with correlations for a number of latents."""
    return "family='full_rank'" if dim <= MANY else "family='sparse' or 'low_rank'"


def _too_small(log_ratio: float) -> str:
    if not np.isfinite(log_ratio):
        return "could not be compared"
    factor = np.exp(-log_ratio)  # the fit's sd over the better one
    return f"is {1 - factor:.0%} too small" if factor < 1 else f"is {factor - 1:.0%} too large"


def _list(
    names: tuple[str, ...], values: Floats, where: Bools, words: Callable[[float], str]
) -> str:
    order = np.flatnonzero(where)[np.argsort(-np.abs(values[where]), kind="stable")]
    listed = ", ".join(f"{names[k]} {words(float(values[k]))}" for k in order[:NAMED])
    return f"{listed} and {len(order) - NAMED} more" if len(order) > NAMED else listed
