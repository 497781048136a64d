"""Comparison of a fit's moments with reference moments of the same posterior."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.core.verdict import Alarm
from advi.diagnostics.chain_moments import Budget, by_hmc, by_long_hmc
from advi.diagnostics.importance_sampling import NEAR_KHAT, ROUND_DRAWS, Adapted
from advi.diagnostics.judge import judge, unchecked, unresolved, without_spread
from advi.diagnostics.long_hmc import CHAINS
from advi.diagnostics.many_columns import ManyColumns
from advi.diagnostics.monte_carlo_error import beyond_chance
from advi.diagnostics.psis import fit_pareto
from advi.diagnostics.reference import NESTED, ReferenceMoments, shift_from
from advi.diagnostics.reference_moments import CHECK_ROUNDS, reference_moments
from advi.diagnostics.target import Moments, Target
from advi.posterior.record import Comparison, Examination

# a sentence on how to reparameterise, from reference draws and the columns that are off
Advice = Callable[[ReferenceMoments, frozenset[str]], str]

# Nearer than this, a high k-hat of q is due to the light tail of a Gaussian.
NEAR_SHIFT, NEAR_RATIO = 0.05, 1.05
NARROW = 1.5  # ratio of sds beyond which a shift is measured in the larger
MAX_RESOLUTION = 1.0  # nats: importance weights are noise where log densities are coarser
FEW_FLOATS = 4.0  # spacings of floats at a mean, which an sd exceeds
PROBES = 8
CHAIN_SECONDS = 30.0  # predicted, of chains where nested importance sampling is unreliable
WIDE, TAIL_DRAWS, MAX_TAIL_INDEX = 2.0, 2000, 0.7
FEW_LARGEST, LARGE_SHARE = 20, 0.1  # squares, and their share of a variance that is looked at


def compare_with_reference(
    target: Target,
    names: tuple[str, ...],
    alarms: tuple[Alarm, ...],
    rng: np.random.Generator,
    advice: Advice,
    offer: str = "",
) -> Examination:
    """Compare a fit's moments with better ones, and return its examination.

    `offer` says how to reparameterise whatever the moments are, or nothing.

    Importance sampling comes first, and where it is unreliable many short HMC chains. These also
    run where only sds of a full-rank fit are off, since the posterior is then far from Gaussian
    and importance draws may miss a part of it; and where nothing is off, but k-hat is high and the
    moments differ a little. k-hat alone decides nothing: it is high for nearly exact fits in few
    dimensions, and low for some that are wrong. Estimates that failed are left out.
    """
    adapted, found = reference_moments(target, target.first, rng, CHECK_ROUNDS, early=True)
    khat, own, kind = adapted.first_khat, found[0].own(), target.density.dtype.name
    stuck = _stuck(target, own)
    if stuck.any():
        return Examination(without_spread(names, own.mean, stuck, alarms, kind), khat, None)
    coarse = resolution(adapted.log_ratios, target.density.dtype)
    if coarse > MAX_RESOLUTION:
        return Examination(unresolved(coarse, alarms, kind), khat, None)
    if target.hessian is not None and not found[-1].confident:
        found += _by_chains(target, adapted, found[-1], rng)
    comparison = compare_moments(found, target.many)
    dense = target.hessian is None
    if dense and len(found) == 1 and unreliable(target.structure.full, comparison, khat):
        found.append(by_hmc(target, adapted, rng))
        comparison = compare_moments(found, target.many)
    reliable = [b for b in found if b.confident]
    if comparison is None or not reliable:
        why = unchecked(found, alarms, target.structure.full, len(names), offer)
        return Examination(why, khat, None)
    off = frozenset(np.array(names)[comparison.off_mean | comparison.off_sd].tolist())
    how = offer or (advice(reliable[-1], off) if off else "")
    caveat = _caveat(target, reliable[-1]) or heavy_tail(target, names, reliable[-1])
    verdict = judge(names, comparison, alarms, target.structure.full, caveat, how)
    reference = reliable[-1] if target.hessian is not None else None
    return Examination(verdict, khat, comparison, reference)


def _by_chains(
    target: Target, adapted: Adapted, known: ReferenceMoments, rng: np.random.Generator
) -> list[ReferenceMoments]:
    """Return the moments of long chains, whitened by a sparse precision, if they can be held."""
    states = known.states
    if adapted.draws.ess <= CHAINS:
        states = target.first.points(rng.standard_normal((CHAINS, len(target.first.loc))))
    further = by_long_hmc(target, adapted, states, rng, Budget(predicted=CHAIN_SECONDS))
    return [] if further is None else [further]


def compare_moments(
    found: list[ReferenceMoments], many: ManyColumns | None = None
) -> Comparison | None:
    """Return the comparison of a fit with estimates, the worst of each column.

    Estimates that failed are left out; None if all did. Of `many` columns only the differences
    beyond chance count.
    """
    found = [b for b in found if not b.failed]
    if not found:
        return None
    shifts, ratios = [], []
    for better in found:
        shift, ratio = differences(better.own(), better.moments, found[-1].confident)
        if many is not None and better.error is not None:
            shift = beyond_chance(shift, better.error.shift, many.long)
            ratio = beyond_chance(ratio, better.error.log_ratio, many.long)
        shifts.append(shift)
        ratios.append(ratio)
    # a moment that could not be computed counts as infinitely far
    shift, ratio = (np.where(np.isnan(x), np.inf, x) for x in (shifts, ratios))
    worst = np.abs(ratio).argmax(0)
    return Comparison(shift.max(0), np.take_along_axis(ratio, worst[None], 0)[0], found[-1].method)


def differences(own: Moments, better: Moments, confident: bool) -> tuple[Floats, Floats]:
    """Return |difference of means| in sds, and the log of the better sd over the fit's, (K,)."""
    mean, sd = own
    varies = sd > 0  # not so for constant entries, as above a triangular matrix
    safe = np.where(varies, sd, 1.0)
    # The unit is the posterior's sd where it is known and much larger: a mean-field sd can be a
    # hundredth of it. Otherwise the smaller sd is stricter.
    wide = confident & (better.sd > NARROW * safe)
    unit = np.where(wide, better.sd, safe)
    shift = np.where(varies, np.abs(better.mean - mean) / unit, 0.0)
    with np.errstate(divide="ignore"):
        return shift, np.where(varies, np.log(better.sd / safe), 0.0)


def unreliable(full: bool, comparison: Comparison | None, khat: float) -> bool:
    """Return whether importance sampling alone is unreliable; `full`: as in `judge`."""
    if comparison is None:
        return False
    off_mean, off_sd = bool(comparison.off_mean.any()), bool(comparison.off_sd.any())
    if off_mean or off_sd:
        return full and not off_mean
    near = (comparison.shift <= NEAR_SHIFT) & (np.abs(comparison.log_ratio) <= np.log(NEAR_RATIO))
    return khat > NEAR_KHAT and not near.all()


def _caveat(target: Target, better: ReferenceMoments) -> str:
    """Return a sentence on why means that agree may still be off, or ""."""
    if not target.structure.full or better.method == NESTED:
        return ""  # missing correlations explain a large shift
    shift = shift_from(target, better, target.first)
    if not shift.far:
        return ""
    return (
        f"On the real scale {shift}: where a posterior is so far from any Gaussian, means may "
        "have a larger error than was found."
    )


def heavy_tail(target: Target, names: tuple[str, ...], better: ReferenceMoments) -> str:
    """Return a sentence on a column whose tail is too heavy for its mean to be known, or "".

    Only columns with an sd far above the fit's are examined: others have the tail of the fit.
    """
    _, sd = better.own()
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = np.flatnonzero(better.moments.sd > WIDE * sd)
    if not len(wide):
        return _imprecise(target, names, better)
    draws = better.draws.resample(TAIL_DRAWS, np.random.default_rng(0))
    columns = target.columns(draws)[:, wide]
    for k, column in zip(wide, np.abs(columns - np.median(columns, axis=0)).T, strict=True):
        tail = np.sort(column)[-int(3 * np.sqrt(TAIL_DRAWS)) :]
        index = fit_pareto(tail[1:] - tail[0])[0] if tail[1] > tail[0] else 0.0
        if index > MAX_TAIL_INDEX:
            return (
                f"The tail of {names[k]} is so heavy (tail index {index:.1f}) that its mean, if it "
                "exists, cannot be estimated from draws."
            )
    return _imprecise(target, names, better)


def _imprecise(target: Target, names: tuple[str, ...], better: ReferenceMoments) -> str:
    """Return a sentence on a column whose sd rests on a few of the weighted draws, or "".

    By k-hat of its weighted squares (Vehtari et al. 2024, Pareto Smoothed Importance Sampling,
    section 2.4).
    """
    points, weights = better.draws
    if better.method != "importance sampling" or len(weights) < ROUND_DRAWS:
        return ""
    mean, sd = better.moments
    squares = weights[:, None] * ((target.columns(points) - mean) / np.where(sd > 0, sd, 1.0)) ** 2
    most = np.partition(squares, -FEW_LARGEST, axis=0)[-FEW_LARGEST:].sum(0)
    for k in np.flatnonzero(most > LARGE_SHARE * squares.sum(0)):
        tail = np.sort(squares[:, k])[-int(3 * np.sqrt(len(weights))) :]
        index = fit_pareto(tail[1:] - tail[0])[0]
        if index > MAX_TAIL_INDEX:
            return (
                f"The sd of {names[k]} rests on a few draws far out (k-hat {index:.2f} of its "
                "squares): the tail is too heavy for it to be known."
            )
    return ""


def few_floats(own: Moments, dtype: Any) -> NDArray[np.bool_]:
    """Return (K,) whether the sd of a column is a few spacings of floats at its mean, or none."""
    return ~(own.sd > FEW_FLOATS * np.finfo(dtype).eps * np.abs(own.mean))


def _stuck(target: Target, own: Moments) -> NDArray[np.bool_]:
    """Return (K,) whether the draws of a column take so few floats that they have no sd."""
    stuck = few_floats(own, target.density.dtype)
    if not stuck.any():
        return stuck
    # constant entries, as above a triangular matrix, are not stuck
    rng = np.random.default_rng(0)
    probes = target.columns(rng.standard_normal((PROBES, len(target.gaussian.loc))))
    return stuck & ~((np.ptp(probes, axis=0) == 0) & (probes[0] == own.mean))


def resolution(log_ratios: Floats, dtype: Any) -> float:
    """Return the smallest difference of log densities in float arithmetic, nats."""
    finite = log_ratios[np.isfinite(log_ratios)]
    size = np.median(np.abs(finite)) if len(finite) else 0.0
    return float(np.finfo(dtype).eps * size)
