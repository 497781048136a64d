"""Compare a fit's moments with better ones of the same posterior, and judge."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.diagnostics.ais import MAX_KHAT, ROUND_DRAWS, Adapted
from advi.diagnostics.better import (
    CHECK_ROUNDS,
    Better,
    Moments,
    Target,
    better_moments,
    by_hmc,
    remoteness,
)
from advi.diagnostics.psis import khat_threshold
from advi.diagnostics.verdict import REMEDIES, Alarm, Verdict

Floats = NDArray[np.float64]
Advice = Callable[[Better, frozenset[str]], str]  # of better draws, and the columns that are off

# Half-way to what "good" promises (.25 sd, a factor 1.25), so that the error of the better
# moments themselves does not break the promise.
MAX_SHIFT, MAX_RATIO = 0.15, 1.15
# Nearer than this, a high k-hat of q is the light tail of a Gaussian and no sign of a miss.
NEAR_SHIFT, NEAR_RATIO = 0.05, 1.05
RIVAL_NATS, RIVAL_SDS = 3.0, 0.5
NARROW = 1.5  # ratio of sds beyond which a shift is measured in the larger
NAMED = 3  # columns named in a reason
MAX_RESOLUTION = 1.0  # nats: importance weights are noise where log densities are coarser
FEW_FLOATS = 4.0  # spacings of floats at a mean that an sd is above, or draws have no spread
PROBES = 8


class Comparison(NamedTuple):
    """The fit's moments against better ones."""

    shift: Floats  # (K,) |better mean - fit's mean| in sds, the worst estimate
    log_ratio: Floats  # (K,) log of better sd over the fit's, the one farthest from zero
    method: str  # the last method used

    @property
    def off_mean(self) -> NDArray[np.bool_]:
        """Which means are off, (K,)."""
        return self.shift > MAX_SHIFT

    @property
    def off_sd(self) -> NDArray[np.bool_]:
        """Which sds are off, (K,)."""
        return np.abs(self.log_ratio) > np.log(MAX_RATIO)


class Checked(NamedTuple):
    """What an examination found."""

    verdict: Verdict
    khat: float
    comparison: Comparison | None  # None where nothing reliable was found to compare with


def examine(
    target: Target,
    names: tuple[str, ...],
    alarms: tuple[Alarm, ...],
    rng: np.random.Generator,
    advice: Advice,
) -> Checked:
    """Compare a fit's moments with better ones, and judge.

    A ladder: importance sampling first; where that is unreliable, many short HMC chains as well.
    They also run where it finds only sds of a full-rank fit to be off: the posterior is then like
    no Gaussian, which is when importance draws may miss a part of it; and where it finds nothing
    off, but the Pareto k-hat is high and the moments are not quite the same. The k-hat is reported,
    but is not the rule: it is high on fits that are nearly exact in few dimensions, and low on some
    that are wrong.

    An estimate that failed is not compared with, and if none is left the fit could not be checked.

    Parameters
    ----------
    target
        The posterior and its fit.
    names
        Names of the K columns.
    alarms
        Reasons, found elsewhere, for calling the fit poor whatever its moments.
    rng
        Generator.
    advice
        How to reparameterise, in a sentence, from better draws and the columns that are off.

    Returns
    -------
    Checked
    """
    adapted, found = better_moments(target, target.marginal, rng, CHECK_ROUNDS, early=True)
    khat, plain = adapted.first_khat, found[0].plain()
    stuck = _stuck(target, plain)
    if stuck.any():
        return Checked(_without_spread(target, names, plain.mean, stuck, alarms), khat, None)
    resolution = _resolution(target, adapted)
    if resolution > MAX_RESOLUTION:
        return Checked(_unresolved(target, resolution, alarms), khat, None)
    comparison = compare_moments(found)
    if len(found) == 1 and _doubtful(target, comparison, khat):
        found.append(by_hmc(target, adapted, rng))
        comparison = compare_moments(found)
    reliable = [b for b in found if b.confident]
    if comparison is None or not reliable:
        return Checked(_unchecked(found, alarms, target.structure.full), khat, None)
    off = frozenset(np.array(names)[comparison.off_mean | comparison.off_sd].tolist())
    how = advice(reliable[-1], off) if off else ""
    doubt = _doubt(target, reliable[-1])
    verdict = judge(names, comparison, alarms, target.structure.full, doubt, how)
    return Checked(verdict, khat, comparison)


def compare_moments(found: list[Better]) -> Comparison | None:
    """Return how far the estimates are from the fit's means and sds, the worst of each column.

    Estimates that failed are left out; None if all did.
    """
    found = [b for b in found if not b.failed]
    if not found:
        return None
    shifts, ratios = [], []
    for better in found:
        mean, sd = better.plain()
        live = sd > 0  # entries that are the same everywhere, as above a triangular matrix, are not
        safe = np.where(live, sd, 1.0)
        # A mean-field sd can be a hundredth of the posterior's, which is what a mean is measured
        # by where it is known. Otherwise, and where sds differ little, the smaller is stricter.
        wide = found[-1].confident & (better.moments.sd > NARROW * safe)
        unit = np.where(wide, better.moments.sd, safe)
        shifts.append(np.where(live, np.abs(better.moments.mean - mean) / unit, 0.0))
        with np.errstate(divide="ignore"):
            ratios.append(np.where(live, np.log(better.moments.sd / safe), 0.0))
    # a moment that could not be computed is as far off as can be
    shift, ratio = (np.where(np.isnan(x), np.inf, x) for x in (shifts, ratios))
    worst = np.abs(ratio).argmax(0)
    return Comparison(shift.max(0), np.take_along_axis(ratio, worst[None], 0)[0], found[-1].method)


def _doubtful(target: Target, comparison: Comparison | None, khat: float) -> bool:
    """Return whether importance sampling alone is not to be believed."""
    if comparison is None:
        return False
    off_mean, off_sd = bool(comparison.off_mean.any()), bool(comparison.off_sd.any())
    if off_mean or off_sd:
        return target.structure.full and not off_mean
    near = (comparison.shift <= NEAR_SHIFT) & (np.abs(comparison.log_ratio) <= np.log(NEAR_RATIO))
    return khat > MAX_KHAT and not near.all()


def _doubt(target: Target, better: Better) -> str:
    """Return why means that agree may be off all the same, in a sentence, or nothing."""
    if not target.structure.full:
        return ""  # correlations that the family lacks are reason enough to go far
    remote = remoteness(target, target.marginal, better)
    if remote.far:
        return (
            f"On the real scale {remote}: where a posterior is so far from any Gaussian, means may "
            "be farther off than was found."
        )
    return ""


def _stuck(target: Target, plain: Moments) -> NDArray[np.bool_]:
    """Return which columns have draws on so few floats that they show no sd, (K,)."""
    mean, sd = plain
    stuck = ~(sd > FEW_FLOATS * np.finfo(target.density.dtype).eps * np.abs(mean))
    if not stuck.any():
        return stuck
    # entries such as those above a triangular matrix are the same wherever one looks
    rng = np.random.default_rng(0)
    probes = target.columns(rng.standard_normal((PROBES, len(target.gaussian.loc))))
    return stuck & ~((np.ptp(probes, axis=0) == 0) & (probes[0] == mean))


def _without_spread(
    target: Target,
    names: tuple[str, ...],
    mean: Floats,
    stuck: NDArray[np.bool_],
    alarms: tuple[Alarm, ...],
) -> Verdict:
    kind = target.density.dtype.name
    told = _list(names, mean, stuck, lambda v: f"(at {v:.3g})")
    reason = (
        f"The sd of {told} cannot be told: its draws fall on a few {kind} numbers, and there is "
        "nothing to compare."
    )
    wider = ", or compute with x64=True" if kind == "float32" else ""
    faulty = [alarm for alarm in alarms if alarm.cause in ("gradient", "improper")]
    action = REMEDIES[faulty[0].cause] if faulty else (
        f"center or scale the latents named, so that they are within some sds of zero{wider}. If "
        "they should not be there, see whether log_joint falls far out and its sign is right."
    )  # fmt: skip
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def _resolution(target: Target, adapted: Adapted) -> float:
    """Return the smallest difference of log densities that can be told, in nats."""
    finite = adapted.log_ratios[np.isfinite(adapted.log_ratios)]
    size = np.median(np.abs(finite)) if len(finite) else 0.0
    return float(np.finfo(target.density.dtype).eps * size)


def _unresolved(target: Target, resolution: float, alarms: tuple[Alarm, ...]) -> Verdict:
    kind = target.density.dtype.name
    reason = (
        f"The fit could not be checked: the log density is so large a number that {kind} tells "
        f"nothing below {resolution:.2g} nats apart."
    )
    wider = "compute with x64=True, or " if kind == "float32" else ""
    action = REMEDIES[alarms[0].cause] if alarms else (
        f"{wider}center and scale latents and data, and leave constants out of log_joint."
    )  # fmt: skip
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def _unchecked(found: list[Better], alarms: tuple[Alarm, ...], full: bool) -> Verdict:
    """Return the verdict where nothing reliable was found to compare a fit with."""
    why = [] if found[0].confident else [f"importance weights are too uneven ({found[0].size})"]
    if found[-1].method == "HMC":
        why.append(f"HMC had not settled after {found[-1].size}")
    reason = f"The fit could not be checked: {', and '.join(why)}."
    action = (
        "reparameterise the model, such as a hierarchy from centred to non-centred or back, or "
        "compare with long MCMC runs."
    )
    if not full:
        action = f"fit with correlations, such as family='full_rank'; or {action}"
    action = REMEDIES[alarms[0].cause] if alarms else action
    return Verdict("poor", (*(a.reason for a in alarms), reason), action)


def judge(
    names: tuple[str, ...],
    comparison: Comparison,
    alarms: tuple[Alarm, ...],
    full: bool,
    doubt: str = "",
    how: str = "",
) -> Verdict:
    """Return the verdict on a comparison.

    Parameters
    ----------
    names
        Names of the columns.
    comparison
        The fit against better moments.
    alarms
        Reasons for calling the fit poor whatever its moments.
    full
        Whether the family holds every Gaussian.
    doubt
        Reason not to call only its means good.
    how
        How to reparameterise, in a sentence, or nothing.
    """
    off_mean, off_sd = comparison.off_mean, comparison.off_sd
    reasons = [alarm.reason for alarm in alarms]
    if off_mean.any():
        reasons.append(
            f"By {comparison.method}, the mean of "
            + _list(names, comparison.shift, off_mean, lambda v: f"is off by {v:.2g} sd")
            + "."
        )
    if off_sd.any():
        reasons.append(
            f"By {comparison.method}, the sd of "
            + _list(names, comparison.log_ratio, off_sd, _too_small)
            + "."
        )
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
        action += ", or a family with correlations, such as family='full_rank'"
        action += "" if off_mean.any() else ", or fit.linear_response()"
    action += f", or reparameterise: {how}" if how else ""
    action += "." if how or not full else ", or reparameterise the latents named."
    if doubt and not off_mean.any():
        reasons.append(doubt)
    means_agree = not off_mean.any() and not doubt
    return Verdict("means_only" if means_agree else "poor", tuple(reasons), action)


def khat_words(khat: float) -> str:
    """Return a k-hat with the threshold for its number of draws."""
    threshold = khat_threshold(ROUND_DRAWS)
    return f"k-hat {khat:.2f} (importance weights are reliable below {threshold:.2f})"


def _too_small(log_ratio: float) -> str:
    if not np.isfinite(log_ratio):
        return "could not be compared"
    factor = np.exp(-log_ratio)  # the fit's sd over the better one
    return f"is {1 - factor:.0%} too small" if factor < 1 else f"is {factor - 1:.0%} too large"


def _list(names: tuple[str, ...], values: Floats, where: NDArray, words) -> str:
    order = np.flatnonzero(where)[np.argsort(-np.abs(values[where]), kind="stable")]
    told = [f"{names[k]} {words(values[k])}" for k in order[:NAMED]]
    more = len(order) - NAMED
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")
