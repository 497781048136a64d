"""How a plan ended: converged, out of evaluations, or led away by a density without a maximum."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from advi.gaussian import Floats, Gaussian, Structure
from advi.model import Model
from advi.scales import LowRankScale
from advi.stages.lockstep import Stage
from advi.stages.path import Path
from advi.status import Status

Bools = NDArray[np.bool_]

NEARLY = 0.1  # a search stalled by rounding counts as converged below this scaled gradient
FAR = 1e4  # on the real scale, from which on a coordinate may be on its way to infinity
STRETCHES = (1.0, 10.0, 100.0)
STRETCH_PAIRS = 8  # of antithetic draws
GROWTH_NATS = 1.0  # that a density without a maximum gains at least by every stretch
NO_SPREAD = 4.0  # roundings that a sd has to exceed for draws not to fall on one float


def ended_how(
    ended: Path,
    start: Floats,
    structure: Structure,
    held_out_draws: Floats,
    eps: float,
    model: Model,
    spent: Callable[[], str],
) -> Stage[Status]:
    """Return the status of a plan.

    Parameters
    ----------
    ended
        The path that is kept.
    start
        (D,) where the search began.
    structure
        Which coordinates have noise.
    held_out_draws
        (n, D) antithetic draws, those without sign first.
    eps
        Machine epsilon of the log density.
    model
        The model, which names the coordinates.
    spent
        Returns what was spent, in words.
    """
    q, fitted = ended.held_out.gaussian, ended.fitted
    sds = np.where(structure.noisy, q.sds, np.inf)
    # points are compared with the float they lie at, estimates of a point are not
    merged = ~(sds > NO_SPREAD * eps * np.abs(q.loc))
    out = (np.abs(q.loc - start) > FAR) | (structure.noisy & (q.sds > FAR))
    if out.any() and (yield from _grows(q, start, out, structure, held_out_draws)):
        return Status(
            "diverged",
            f"the log density has no maximum: it goes on growing, or does not fall, as "
            f"{_names(model, out)} {_goes(model, out)} to infinity. Is its sign right, does the "
            f"function return a loss instead of a log density, does every latent have a prior? "
            f"({spent()})",
        )
    if merged.any():
        k = int(np.argmax(merged))
        remedy = ", or give x64=True" if eps > 1e-10 else ""
        return Status(
            "diverged",
            f"{_names(model, merged)} {_goes(model, merged, 'lies', 'lie')} so far from zero, at "
            f"{q.loc[k]:.4g} on the real scale, that numbers there are further apart than the sd: "
            f"center or scale {'it' if merged.sum() == 1 else 'them'}{remedy} ({spent()})",
        )
    if not (np.isfinite(fitted.gradient) and np.isfinite(ended.held_out.elbo.value)):
        return Status(
            "diverged",
            f"the log density or its gradient is not finite at some draws of every fit that was "
            f"tried, however narrow ({spent()})",
        )
    if fitted.reason == "converged":
        return Status("converged", f"the ELBO has settled ({spent()})")
    if fitted.reason == "stalled" and fitted.gradient < NEARLY:
        return Status("converged", f"as far as the precision of {eps:.0e} allows ({spent()})")
    if fitted.reason == "stalled":
        remedy = "; x64=True may go further" if eps > 1e-10 else ""
        return Status(
            "max_steps",
            f"stopped before convergence: rounding noise hides the descent at a scaled gradient "
            f"of {fitted.gradient:.2g}{remedy} ({spent()})",
        )
    return Status(
        "max_steps",
        f"a stage used all its evaluations at a scaled gradient of {fitted.gradient:.2g} "
        f"({spent()})",
    )


def _grows(
    q: Gaussian, start: Floats, out: Bools, structure: Structure, held_out_draws: Floats
) -> Stage[bool]:
    """Return whether the ELBO goes on growing as some coordinates are stretched away."""
    half = len(held_out_draws) // 2
    kept = np.r_[:STRETCH_PAIRS, half : half + STRETCH_PAIRS]
    E = held_out_draws[kept]
    stretched = [_stretched(q, start, np.where(out, factor, 1.0)) for factor in STRETCHES]
    values, _ = yield np.concatenate([s.points(E) for s in stretched])
    elbos = [
        float(structure.elbos(v, E, s).mean())
        for v, s in zip(np.split(values, len(stretched)), stretched, strict=True)
    ]
    if not np.isfinite(elbos[0]):
        return False
    # what overflows to plus infinity grows as well
    return all(
        later == np.inf or later > earlier + GROWTH_NATS
        for earlier, later in itertools.pairwise(elbos)
    )


def _stretched(q: Gaussian, start: Floats, factor: Floats) -> Gaussian:
    loc = start + factor * (q.loc - start)
    if isinstance(q.scale, LowRankScale):
        return Gaussian(loc, q.scale._replace(sd=factor * q.scale.sd))
    return Gaussian(loc, factor * q.scale if q.scale.ndim == 1 else factor[:, None] * q.scale)


def _names(model: Model, which: Bools) -> str:
    """Return the latents that some coordinates on the real scale belong to."""
    names = [n for n, (start, stop) in model.spans.items() if which[start:stop].any()]
    return ", ".join(names)


def _goes(model: Model, which: Bools, one: str = "goes", more: str = "go") -> str:
    return more if "," in _names(model, which) else one
