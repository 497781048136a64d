"""The verdict: whether a fit's means and sds may be used, and what to do if not."""

import html
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.diagnostics.ais import ROUND_DRAWS
from advi.diagnostics.better import (
    CHECK_ROUNDS,
    Better,
    Target,
    better_moments,
    by_hmc,
    remoteness,
)
from advi.diagnostics.psis import khat_threshold, pareto_smooth

Floats = NDArray[np.float64]
Level = Literal["good", "means_only", "poor", "not checked"]

# Half-way to what "good" promises (.25 sd, a factor 1.25), so that the error of the better
# moments themselves does not break the promise.
MAX_SHIFT, MAX_RATIO = 0.15, 1.15
RIVAL_NATS, RIVAL_SDS = 3.0, 0.5
NARROW = 1.5  # ratio of sds beyond which a shift is measured in the larger
# Behind white letters, on light and on dark pages: green, amber, red, grey.
COLOURS: dict[Level, str] = {
    "good": "#1a7f37",
    "means_only": "#8f5a00",
    "poor": "#c62828",
    "not checked": "#5f6b76",
}
NAMED = 3  # columns named in a reason


@dataclass(frozen=True)
class Verdict:
    """Whether a fit can be trusted, why, and what to do next.

    Attributes
    ----------
    level
        "good": means and sds may be used (means within a quarter sd, sds within a factor 1.25).
        "means_only": the means may. "poor": neither. "not checked": nothing was examined.
    reasons
        What was found, one sentence each, naming the latents concerned.
    action
        What to do next.
    """

    level: Level
    reasons: tuple[str, ...] = ()
    action: str = ""

    def __str__(self) -> str:
        lines = [f"verdict: {self.level.replace('_', ' ')}", *self.reasons]
        if self.action:
            lines.append(f"Next: {self.action}")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        word = self.level.replace("_", " ")
        style = f"background:{COLOURS[self.level]};color:#fff;padding:0 .5em;border-radius:.3em"
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return (
            f'<div>verdict: <span style="{style}">{word}</span></div>'
            + (f"<ul>{reasons}</ul>" if reasons else "")
            + (f"<div>Next: {html.escape(self.action)}</div>" if self.action else "")
        )


class Comparison(NamedTuple):
    """One column: the fit's moments against better ones."""

    shift: Floats  # (K,) |better mean - fit's mean| in sds, the worst estimate
    log_ratio: Floats  # (K,) log of better sd over the fit's, the one farthest from zero
    method: str  # the last method used


class Checked(NamedTuple):
    """What an examination found."""

    verdict: Verdict
    khat: float
    comparison: Comparison | None


def examine(
    target: Target,
    names: tuple[str, ...],
    plain: Floats,
    alarms: tuple[str, ...],
    rng: np.random.Generator,
) -> Checked:
    """Compare a fit's moments with better ones, and judge.

    A ladder: adaptive importance sampling first; where that is unreliable, many short HMC chains
    as well. They also run where it finds only sds of a full-rank fit to be off: the posterior is
    then like no Gaussian, which is when importance draws may miss a part of it. The Pareto k-hat is
    reported, but is not the rule: it is high on fits that are nearly exact in few dimensions, and
    low on some that are wrong.

    Parameters
    ----------
    target
        The posterior and its fit.
    names
        Names of the K columns.
    plain
        (S, K) columns of the fit's own draws.
    alarms
        Reasons, found elsewhere, for calling the fit poor whatever its moments.
    rng
        Generator.

    Returns
    -------
    Checked
    """
    mean, sd = plain.mean(0), plain.std(0)
    adapted, found = better_moments(target, target.marginal, rng, CHECK_ROUNDS)
    khat = pareto_smooth(adapted.log_ratios)[1]
    comparison = compare_moments(mean, sd, found)
    if (
        target.structure.full
        and len(found) == 1
        and judge(names, comparison, ()).level == "means_only"
    ):
        found.append(by_hmc(target, adapted, rng))
        comparison = compare_moments(mean, sd, found)
    return Checked(judge(names, comparison, alarms, _doubt(target, found[-1])), khat, comparison)


def compare_moments(mean: Floats, sd: Floats, found: list[Better]) -> Comparison:
    """Return how far every estimate is from the fit's means and sds, the worst of each column."""
    live = sd > 0
    safe = np.where(live, sd, 1.0)
    # A mean-field sd can be a hundredth of the posterior's, which is what a mean is measured by
    # where it is known. Otherwise, and where sds differ little, the smaller is the stricter unit.
    known = found[-1].confident
    units = [np.where(known & (b.sd > NARROW * safe), b.sd, safe) for b in found]
    shifts = np.array(
        [np.where(live, np.abs(b.mean - mean) / u, 0.0) for b, u in zip(found, units, strict=True)]
    )
    with np.errstate(divide="ignore"):
        ratios = np.array([np.where(live, np.log(b.sd / safe), 0.0) for b in found])
    # a moment that could not be computed is as far off as can be
    shifts, ratios = (np.where(np.isnan(x), np.inf, x) for x in (shifts, ratios))
    worst = np.abs(ratios).argmax(0)
    return Comparison(
        shifts.max(0), np.take_along_axis(ratios, worst[None], 0)[0], found[-1].method
    )


def _doubt(target: Target, better: Better) -> str:
    """Return why even the better means may be off, in a sentence, or nothing."""
    if not better.confident:
        return f"{better.method} had not settled, and vouches for no mean."
    if not target.structure.full:
        return ""  # correlations that the family lacks are reason enough to go far
    remote = remoteness(target, target.marginal, better)
    if remote.far:
        return (
            f"On the real scale {remote}: where a posterior is so far from any Gaussian, means may "
            "be farther off than was found."
        )
    return ""


def judge(
    names: tuple[str, ...], comparison: Comparison, alarms: tuple[str, ...], doubt: str = ""
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
    doubt
        Reason not to call only its means good.
    """
    off_mean = comparison.shift > MAX_SHIFT
    off_sd = np.abs(comparison.log_ratio) > np.log(MAX_RATIO)
    reasons = list(alarms)
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
        return Verdict("poor", tuple(reasons), "fit with restarts=8, or write the model anew.")
    doubted = bool(doubt) and off_sd.any() and not off_mean.any()
    if doubted:
        reasons.append(doubt)
    if doubted or off_mean.any():
        return Verdict(
            "poor",
            tuple(reasons),
            "use fit.corrected(), a richer family, or other coordinates for the latents named.",
        )
    if off_sd.any():
        return Verdict(
            "means_only", tuple(reasons), "use fit.corrected(), or family='full_rank' if it is not."
        )
    closest = (
        f"Against {comparison.method} every mean agrees within {comparison.shift.max():.2g} sd and "
        f"every sd within {np.expm1(np.abs(comparison.log_ratio).max()):.0%}."
    )
    return Verdict("good", (closest,))


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
