"""What can be asked of a fit about trust: its verdict, corrected moments, linear response."""

import contextlib
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.diagnostics.examine import (
    RIVAL_NATS,
    RIVAL_SDS,
    Checked,
    compare_moments,
    examine,
    heavy_tail,
)
from advi.diagnostics.linear_response import linear_response_covariance
from advi.diagnostics.parametrisation import parametrisation
from advi.diagnostics.reference_moments import (
    CORRECT_ROUNDS,
    MAX_DIM,
    Better,
    Remoteness,
    Target,
    better_moments,
    remoteness,
)
from advi.diagnostics.verdict import REMEDIES, Alarm, Cause, Verdict
from advi.inference.plan.path import MIN_DRAWS, even
from advi.inference.plan.plan import run_plan
from advi.inference.stochastic.convergence import MAX_DRIFT
from advi.model.checks.tails import growth
from advi.model.density import SOME_ROWS, Density
from advi.transforms import is_angle
from advi.transforms.base import Identity, base_of
from advi.transforms.scalars import HalfLine
from advi.variational import draws
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian, structure_of
from advi.variational.guide import Block, Guide
from advi.variational.point import Point
from advi.variational.resolve_family import make_guide

if TYPE_CHECKING:
    from advi.results.fit import Fit

Floats = NDArray[np.float64]

ELBO_DRAWS = 256
ADVICE_DRAWS = 500  # that tell which way a hierarchy is better written
RESPONSE_ELEMENTS = 2**17  # of the draws that a linear response averages over: 2 D up to D = 256
RESPONSE_DIM = 512  # up to which a mean field is corrected from its linear response
ONLY_POINTS = "A point estimate has no posterior to compare with."
NEXT_OF_STREAM = "fit rows that memory holds in the same way, and check that fit."


def checked(fit: "Fit") -> Checked:
    """Examine a fit, or say why that cannot be done."""
    if fit.density.scale != 1:
        reason = f"The posterior cannot be compared with: {SOME_ROWS}."
        return Checked(unchecked(fit, reason, action=NEXT_OF_STREAM), math.nan, None)
    if not fit.structure.dim:
        return Checked(unchecked(fit, ONLY_POINTS), math.nan, None)
    if fit.structure.dim > MAX_DIM:
        return Checked(unchecked(fit, _too_many(fit)), math.nan, None)
    if not _has_scale(fit):
        reason = "The fit has no finite mean, or no sd above zero: there is nothing to compare."
        alarms = _alarms(fit) or (Alarm("diverged", "The fit has diverged."),)
        told = (*(alarm.reason for alarm in alarms), reason)
        return Checked(Verdict("poor", told, REMEDIES[alarms[0].cause]), math.nan, None)
    target = _target(fit, fit.density)
    rng = host_rng(fit.key, Stream.CHECK)

    def advice(better: Better, off: frozenset[str]) -> str:
        return parametrisation(*_by_name(fit, better), off)

    alarms = (*_improper(fit), *_alarms(fit))
    return examine(target, _column_names(fit), alarms, rng, advice)


def _has_scale(fit: "Fit") -> bool:
    """Return whether a Gaussian is one: its mean finite, its scale of full rank."""
    q, noisy = fit.gaussian, fit.structure.noisy
    scales = q.diagonal[noisy]
    return bool(np.all(np.isfinite(q.loc)) and np.all(np.isfinite(scales) & (scales > 0)))


def _improper(fit: "Fit") -> list[Alarm]:
    """Look along rays for a log density that does not fall."""
    found = growth(fit.density, fit.gaussian.loc)
    return [] if found is None else [Alarm("improper", str(found))]


def _by_name(fit: "Fit", better: Better) -> tuple[dict[str, Floats], dict[str, Floats], Floats]:
    """Return some draws of the real latents and of the positive ones, and their weights."""
    some = better.draws.resample(ADVICE_DRAWS, np.random.default_rng(0))
    values = fit.constrain(some)

    def of(kind: type) -> dict[str, Floats]:
        return {
            name: np.asarray(values[name], float)
            for name, latent in fit.model.latents.items()
            if name not in fit.guide.estimated and isinstance(base_of(latent.bijection), kind)
        }

    return of(Identity), of(HalfLine), np.full(len(some), 1 / len(some))


def corrected(fit: "Fit") -> "Fit":
    """Return the fit with draws nearer to the posterior."""
    if not fit.structure.dim:
        raise ValueError(f"corrected: {ONLY_POINTS}")
    target = _target(fit, fit.density.on(None))
    first = target.marginal
    if fit.structure.dim > MAX_DIM:
        raise ValueError(f"corrected: {_too_many(fit)}")
    if not fit.structure.coupled and 1 < fit.structure.dim <= RESPONSE_DIM:
        # without a response the fit's own scale will do
        with contextlib.suppress(ValueError, np.linalg.LinAlgError):
            first = Gaussian(first.loc, _response_scale(fit))
    rng = host_rng(fit.key, Stream.CORRECT)
    adapted, found = better_moments(target, first, rng, CORRECT_ROUNDS)
    best = found[-1]
    comparison = compare_moments([best])
    how = parametrisation(*_by_name(fit, best), frozenset())
    alarms = (*_improper(fit), *_alarms(fit))
    heavy = heavy_tail(target, _column_names(fit), best)
    verdict = _verdict_of(best, remoteness(target, first, best), alarms, heavy, how)
    return dataclasses.replace(
        fit, corrected_draws=best.draws, checked=Checked(verdict, adapted.first_khat, comparison)
    )


def linear_response(fit: "Fit") -> "Fit":
    """Return the full-rank fit with the linear-response covariance."""
    if not fit.structure.dim:
        raise ValueError(f"linear_response: {ONLY_POINTS}")
    noisy = fit.structure.noisy
    scale = np.zeros((fit.model.size, fit.model.size))
    scale[np.ix_(noisy, noisy)] = _response_scale(fit)
    estimated = fit.guide.estimated
    names = [name for name in fit.model.latents if name not in estimated]
    blocks = [Block(tuple(names), FullRank())]
    if estimated:
        points = tuple(name for name in fit.model.latents if name in estimated)
        blocks.append(Block(points, Point()))
    guide = Guide(fit.model, tuple(blocks))
    params = guide.params_of((fit.gaussian.loc, scale), fit.float_dtype)
    responded = dataclasses.replace(
        fit, guide=guide, params=params, checked=None, corrected_draws=None
    )
    return dataclasses.replace(responded, elbo=_elbo(responded))


def refined(fit: "Fit", family: Any) -> "Fit":
    """Return the automatic plan's fit of a family, begun at the fit, with a verdict."""
    guide = make_guide(fit.model, family)
    density = fit.density.on(None)
    density = Density(fit.model, density.data, density.spec, guide.estimated)
    outcome = run_plan(
        density,
        structure_of(guide),
        host_rng(fit.key, Stream.REFINE),
        fit.gaussian.revived(),
        warm=True,
    )
    result = dataclasses.replace(
        fit,
        guide=guide,
        params=guide.params_of(outcome.gaussian, density.dtype),
        status=outcome.status,
        elbo=outcome.elbo,
        trace=outcome.trace,
        num_gradients=density.num_gradients,
        density=density,
        held_out_gap=outcome.held_out_gap,
        drift=math.nan,
        rivals=(),
        corrected_draws=None,
        checked=None,
    )
    return dataclasses.replace(result, checked=checked(result))


def diagnostics(fit: "Fit") -> dict[str, Any]:
    """Return the figures behind a fit's verdict."""
    figures: dict[str, Any] = {
        "elbo": fit.elbo,
        "held_out_gap": fit.held_out_gap,
        "drift": fit.drift,
        "khat": fit.khat,
        "num_gradients": fit.num_gradients,
        "num_values": fit.density.num_values,
        "restarts": [_rival_figures(fit, rival) for rival in fit.rivals],
    }
    if fit.checked is not None and fit.checked.comparison is not None:
        comparison, names = fit.checked.comparison, _column_names(fit)
        figures["method"] = comparison.method
        figures["mean_shift"] = dict(zip(names, comparison.shift.tolist(), strict=True))
        figures["sd_ratio"] = dict(zip(names, np.exp(comparison.log_ratio).tolist(), strict=True))
    return figures


def _rival_figures(fit: "Fit", rival: Any) -> dict[str, Any]:
    distances = {
        name: float(rival.distance[slice(*span)].max(initial=0.0))
        for name, span in fit.model.spans.items()
    }
    return {"elbo_difference": rival.elbo_difference, "distance": distances}


def _too_many(fit: "Fit") -> str:
    return f"{fit.structure.dim} coordinates are more than the {MAX_DIM} that can be examined."


def _verdict_of(
    best: Better, remote: Remoteness, alarms: tuple[Alarm, ...], heavy: str, how: str
) -> Verdict:
    if alarms:
        return Verdict("poor", tuple(a.reason for a in alarms), REMEDIES[alarms[0].cause])
    if not best.confident:
        reason = f"Corrected by {best.method}, which had not settled after {best.size}."
    elif remote.far:
        reason = (
            f"Corrected by {best.method}, {best.size}, but {remote}: where a correction goes so "
            "far, it may have farther to go."
        )
    elif heavy:
        reason = f"Corrected by {best.method}, {best.size}, but: {heavy}"
    else:
        return Verdict("good", (f"Corrected by {best.method}: {best.size}.",))
    return Verdict(
        "poor", (reason,), f"reparameterise{f': {how}' if how else ' the model'}, or run long MCMC."
    )


def unchecked(fit: "Fit", *reasons: str, action: str = "") -> Verdict:
    """Return the verdict on a fit that was not examined, from what is known all the same."""
    alarms = _alarms(fit)
    told = (*(alarm.reason for alarm in alarms), *reasons)
    for alarm in alarms:
        if alarm.cause in ("gradient", "diverged", "moving"):
            return Verdict("poor", told, REMEDIES[alarm.cause])
    return Verdict("not checked", told, action)


def _alarms(fit: "Fit") -> tuple[Alarm, ...]:
    """Return reasons for distrust that no comparison of moments can see."""
    alarms = [Alarm("gradient", reason) for reason in fit.alarms]
    steps_asked_for = (
        fit.status == "max_steps" and bool(fit.trace) and fit.trace[-1].stage == "optimize"
    )
    if fit.status != "converged" and not steps_asked_for:
        cause: Cause = str(fit.status)  # type: ignore[assignment]
        alarms.append(Alarm(cause, f"The fit did not converge: {fit.status.message}."))
    if fit.drift > MAX_DRIFT:
        to_go = f"means and sds may have some {fit.drift:.2g} sd to go"
        if math.isinf(fit.drift):
            to_go = "the ELBO was still rising, and how far there is to go is not known"
        reason = f"The steps had not arrived: {to_go}."
        alarms.append(Alarm("moving", reason))
    for rival in fit.rivals:
        distances = _rival_figures(fit, rival)["distance"]
        name = max(distances, key=lambda k: distances[k])
        if rival.elbo_difference > -RIVAL_NATS and distances[name] > RIVAL_SDS:
            reason = (
                f"Another start ends {-rival.elbo_difference:.2g} nats lower, with the mean of "
                f"{name} {distances[name]:.1f} sd away: there is more than one mode."
            )
            alarms.append(Alarm("multimodal", reason))
    return tuple(alarms)


def _response_scale(fit: "Fit") -> Floats:
    """Return the linear-response scale (dim, dim) of the coordinates with noise."""
    rng = host_rng(fit.key, Stream.RESPONSE)
    dim = fit.structure.dim
    num = max(MIN_DRAWS, min(2 * dim, RESPONSE_ELEMENTS // dim))
    E = fit.structure.fixed_draws(rng, even(num, dim))
    density, noisy = fit.density.on(None), fit.structure.noisy
    with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
        covariance = linear_response_covariance(
            density.hessian_vector, density.value_and_grad, fit.gaussian, fit.structure, E
        )
    return np.asarray(np.linalg.cholesky(covariance[np.ix_(noisy, noisy)]), float)


def _elbo(fit: "Fit") -> Estimate:
    rng = host_rng(fit.key, Stream.RESPONSE_ELBO)
    E = fit.structure.spread(draws.antithetic(rng, ELBO_DRAWS, fit.structure.dim))
    log_p = fit.density.value(fit.gaussian.points(E))
    return Estimate.of(fit.structure.paired_elbos(log_p, E, fit.gaussian))


def _target(fit: "Fit", density: Density) -> Target:
    return Target(
        density,
        fit.gaussian,
        fit.structure,
        columns=lambda X: _columns(fit, fit.constrain(X)),
        plain=lambda: _columns(fit, fit.moment_draws.values),
    )


def _columns(fit: "Fit", values: Any) -> Floats:
    """Return scalar columns (n, K); an angle counts by its cosine and sine."""
    parts = []
    for name, latent in fit.model.latents.items():
        if name in fit.guide.estimated:
            continue
        flat = np.asarray(values[name], float).reshape(len(values[name]), -1)
        angle = is_angle(latent.bijection)
        parts.append(np.concatenate([np.cos(flat), np.sin(flat)], axis=1) if angle else flat)
    return np.concatenate(parts, axis=1)


def _column_names(fit: "Fit") -> tuple[str, ...]:
    names: list[str] = []
    for name, coordinates in fit.model.coordinates.items():
        if name in fit.guide.estimated:
            continue
        if is_angle(fit.model.latents[name].bijection):
            names += [f"cos {c}" for c in coordinates] + [f"sin {c}" for c in coordinates]
        else:
            names += coordinates
    return tuple(names)
