"""Label switching: latents whose entries may be exchanged together without a change of density."""

import itertools
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.jax_config import compiled, precision
from advi.core.types import Floats
from advi.model.density import Density
from advi.model.model import Model

MAX_LATENTS = 6  # with an axis of one length, of which all subsets are tried
COPY_SDS = 1.0
EPS = 1e-30
MAX_NATS, ROUNDINGS = 0.01, 100.0  # of a log density that counts as unchanged; of its own size


class Exchange(NamedTuple):
    """Latents whose entries may be exchanged together along their axes of one length."""

    names: tuple[str, ...]
    length: int


def exchangeable(density: Density, X: Floats) -> Exchange | None:
    """Return the latents whose entries, exchanged together along an axis, leave the density.

    The density is that of the constrained values, without Jacobians, at points X (n, D). Of several
    sets of latents the largest is returned.
    """
    model = density.model
    lengths = {n for shape in model.shapes.values() for n in shape if n > 1}
    found = None
    with np.errstate(all="ignore"):
        for length in sorted(lengths):
            names = [name for name, shape in model.shapes.items() if length in shape]
            least = len(found.names) if found else 0
            for size in range(min(len(names), MAX_LATENTS), least, -1):
                subsets = itertools.combinations(names[:MAX_LATENTS], size)
                match = next((s for s in subsets if _is_symmetric(density, X, s, length)), None)
                if match:
                    found = Exchange(match, length)
                    break
    return found


def is_a_copy(
    density: Density, exchange: Exchange, loc: Floats, other: Floats, sds: Floats
) -> bool:
    """Return whether a point (D,) lies within an sd of another after an exchange of labels.

    `sds` are those around the other point.
    """
    (names, length), model = exchange, density.model
    with precision(density.dtype.name):
        both = np.stack([loc, other]).astype(density.dtype)
        values = jax.device_get(_programs(model)[0](both)[0])
    cost = np.zeros((length, length))
    for name in names:
        if model.shapes[name].count(length) == 1:
            axis = model.shapes[name].index(length) + 1
            one, two = np.moveaxis(values[name], axis, 1).reshape(2, length, -1).astype(float)
            cost += ((one[:, None] - two) ** 2).sum(-1) / max(np.var([one, two]), EPS)
    from scipy.optimize import linear_sum_assignment  # which takes a fifth of a second to import

    of_other, of_one = linear_sum_assignment(cost.T)
    moved = _exchanged(density, loc[None], names, of_one[np.argsort(of_other)])
    return bool((np.abs(moved[0] - other) <= COPY_SDS * sds).all())


def _is_symmetric(density: Density, X: Floats, names: tuple[str, ...], length: int) -> bool:
    """Return whether the density is left by a swap and by a rotation, hence by all exchanges."""
    before = _log_density(density, X)
    swap = np.r_[1, 0, 2:length]
    for order in (swap, np.roll(np.arange(length), 1))[: 1 if length == 2 else 2]:
        moved = _exchanged(density, X, names, order)
        difference = np.abs(_log_density(density, moved) - before)
        allowed = np.maximum(MAX_NATS, ROUNDINGS * np.finfo(density.dtype).eps * np.abs(before))
        if not (difference <= allowed).all():
            return False
    return True


def _exchanged(density: Density, X: Floats, names: tuple[str, ...], order: NDArray[Any]) -> Floats:
    """Return the points with entries of some latents in another order, along all axes so long."""
    model = density.model
    unravel, ravel = _programs(model)
    with precision(density.dtype.name):
        values = jax.device_get(unravel(X.astype(density.dtype))[0])
        for name in names:
            for axis, length in enumerate(model.shapes[name]):
                if length == len(order):
                    values[name] = np.take(values[name], order, axis + 1)
        return np.asarray(jax.device_get(ravel(values)), float)


def _log_density(density: Density, X: Floats) -> Floats:
    with precision(density.dtype.name):
        log_dets = _programs(density.model)[0](X.astype(density.dtype))[1]
    random = [name for name in log_dets if name not in density.estimated]
    # that of a local latent is one number for each row
    parts = [np.asarray(log_dets[n], float).reshape(len(X), -1).sum(1) for n in random]
    return density.value(X) - np.sum(parts, axis=0)


@lru_cache(maxsize=16)
def _programs(model: Model) -> tuple[Any, Any]:
    """Return the programs of constrained values with log-Jacobians, and of real coordinates."""
    return compiled(jax.vmap(model.unravel)), compiled(jax.vmap(model.ravel))
