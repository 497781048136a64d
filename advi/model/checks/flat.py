"""Entries of latents that the log density does not depend on, whose posterior is improper.

Examples are entries that only pad an array, that a mask leaves out, or of a category without rows,
if they have no prior. Their gradient is that of the log-Jacobian alone, at every point.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core.errors import listed
from advi.core.jax_config import compiled, precision
from advi.core.types import Floats, Indices
from advi.model.density import Density
from advi.model.model import Model
from advi.transforms import HalfLine, Identity, LowerCholesky, Ordered, PositiveDefinite, ZeroSum
from advi.transforms.base import base_of

Values = Callable[[Floats], Floats]  # points (n, D) to log densities (n,)

MIN_POINTS = 16
BASES = 4  # points that entries are moved from
MOVES = (-20.0, -3.0, 3.0, 20.0)  # on the real scale
MOST, WORK = 2**22, 2**28  # numbers in all points, and elements read, where only values are there
ROUNDING = 64.0  # float spacings that a log density may differ by
# of unbounded supports: on a bounded one, a uniform density is proper
UNIT = (Identity, ZeroSum)  # log-Jacobian zero
BENT = (HalfLine, Ordered, LowerCholesky, PositiveDefinite)


def flat_entries(density: Density, X: Floats, values: Floats, gradients: Floats) -> Indices:
    """Return the coordinates that a log density does not depend on, increasing.

    X (n, D) are random points, 16 or more of them with finite values (n,) and gradients (n, D).
    None are returned where the density has a loop that runs until something has converged: far
    out, where entries have to be moved to, that may not end.
    """
    finite = np.isfinite(values) & np.isfinite(gradients).all(1)
    if finite.sum() < MIN_POINTS or density.log_joint.open_ended:
        return np.zeros(0, int)
    X, values, gradients = X[finite], values[finite], gradients[finite]
    found = _candidates(density, X, gradients)
    if len(found):
        best = np.argsort(-values, kind="stable")[:BASES]
        found = unmoved(density.value, density, X[best], found)
    return found


def flat_by_values(density: Density, x: Floats) -> Indices:
    """Return `flat_entries` of latents on the real line and scales, by values alone.

    Of densities that are cheap enough for one value for each coordinate, and finite at x (D,).
    """
    entries, slopes = _straight(density)
    num, log_joint = len(entries), density.log_joint
    if not num or num * len(x) > MOST or num * log_joint.cost > WORK or log_joint.open_ended:
        return np.zeros(0, int)
    moved = np.repeat(x[None], num + 1, axis=0)
    moved[np.arange(num), entries] += MOVES[-1]
    with np.errstate(all="ignore"):
        values = density.value(moved)
        off = np.abs(values[:-1] - values[-1] - slopes * MOVES[-1])
    size = 1 + np.abs(values).max(initial=0, where=np.isfinite(values))
    found = entries[off <= ROUNDING * np.finfo(density.dtype).eps * size]
    return unmoved(density.value, density, x[None], found) if len(found) else found


def _straight(density: Density) -> tuple[Indices, Floats]:
    """Return the coordinates whose log-Jacobian is linear, and its slopes."""
    entries, slopes = [np.zeros(0, int)], [np.zeros(0)]
    for name, span in density.model.spans.items():
        base = base_of(density.model.latents[name].bijection)
        scale = isinstance(base, HalfLine) and base.link == "exp"
        if name not in density.estimated and (scale or isinstance(base, UNIT)):
            entries.append(np.arange(*span))
            slopes.append(np.full(span[1] - span[0], float(scale)))
    return np.concatenate(entries), np.concatenate(slopes)


def unmoved(values: Values, density: Density, X: Floats, entries: Indices) -> Indices:
    """Return those coordinates of `entries` that do not change a log density when they are moved.

    They are moved from points X (n, D). `values` is the log density, of all rows if the
    coordinates were found on some, `density` one of the same model.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], X.shape[1])

    def stays(part: Indices) -> bool:
        moved = np.concatenate([X] * (1 + len(MOVES)))
        for i, move in enumerate(MOVES, 1):
            moved[i * len(X) : (i + 1) * len(X), part] += move * signs[part]
        log_p, curved = values(moved), _curved(density.model, part)
        rest = log_p - _log_jacobians(density, moved)[0] if curved else log_p
        rest = rest.reshape(-1, len(X))
        size = 1 + np.abs(log_p).max() + np.abs(rest[0])
        off = np.abs(rest - rest[0])
        return bool(np.all(off <= ROUNDING * np.finfo(density.dtype).eps * size))

    def kept(part: Indices) -> list[int]:
        if stays(part):
            return part.tolist()
        if len(part) == 1:
            return []
        half = len(part) // 2
        return kept(part[:half]) + kept(part[half:])

    return np.array(kept(entries), int)


def sentence(model: Model, entries: Sequence[int]) -> str:
    """Return the fault of flat coordinates and its remedy, in words."""
    which, it = ("that entry", "it") if len(entries) == 1 else ("these entries", "them")
    return (
        f"log_joint never depends on {listed(_names(model, entries))}: the posterior of {which} "
        f"is improper. Give {it} a prior, or remove {it} from the latents."
    )


def _names(model: Model, entries: Sequence[int]) -> list[str]:
    names = []
    for name, (start, stop) in model.spans.items():
        within = [i - start for i in entries if start <= i < stop]
        latent = model.latents[name]
        if not within:
            continue
        if len(within) == stop - start:
            names.append(name)
        elif latent.unconstrained_shape == latent.shape:
            names += [model.coordinates[name][i] for i in within]
        else:
            names.append(f"{name} ({len(within)} of its {stop - start} real coordinates)")
    return names


def _candidates(density: Density, X: Floats, gradients: Floats) -> Indices:
    """Return the coordinates whose gradient is that of the log-Jacobian at all points."""
    model, found, possible = density.model, [], []
    for name, span in model.spans.items():
        latent = model.latents[name]
        base = base_of(latent.bijection)
        if name in density.estimated or not isinstance(base, (*UNIT, *BENT)):
            continue
        own = gradients[:, slice(*span)]
        if isinstance(base, UNIT):
            found += (span[0] + np.flatnonzero((own == 0).all(0))).tolist()
        else:
            # the log-Jacobian's slope is at most one, of a matrix its number of rows and one
            most = 1.001 if isinstance(base, (HalfLine, Ordered)) else 1 + latent.shape[-1]
            possible += (span[0] + np.flatnonzero(np.abs(own).max(0) <= most)).tolist()
    if possible:
        slopes = _log_jacobians(density, X)[1]
        off = np.abs(gradients - slopes)[:, possible] > 1e-5 * (1 + np.abs(slopes[:, possible]))
        found += np.array(possible)[~off.any(0)].tolist()
    return np.sort(np.array(found, int))


def _curved(model: Model, entries: Indices) -> bool:
    """Return whether some coordinate is of a latent with a log-Jacobian."""
    return any(
        not isinstance(base_of(model.latents[name].bijection), UNIT)
        for name, (start, stop) in model.spans.items()
        if np.any((entries >= start) & (entries < stop))
    )


def _log_jacobians(density: Density, X: Floats) -> tuple[Floats, Floats]:
    """Return the log-Jacobians (n,) of all latents at points, and their slopes (n, D)."""
    with precision(density.spec.float_dtype):
        program = _program(density.model, density.estimated)
        values, slopes = jax.device_get(program(X.astype(density.dtype)))
    return values.astype(float), slopes.astype(float)


@lru_cache(maxsize=64)
def _program(model: Model, estimated: frozenset[str]) -> Any:
    def one(x: Array) -> Array:
        log_dets = model.unravel(x)[1]
        return sum((v.sum() for n, v in log_dets.items() if n not in estimated), x.sum() * 0)

    return compiled(jax.vmap(jax.value_and_grad(one)))
