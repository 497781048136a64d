"""Whether a log density falls far out, as that of a proper posterior does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.model.density import Density
from advi.model.model import Model
from advi.transforms.base import Identity, base_of
from advi.transforms.scalars import HalfLine

MAX_RAYS = 10  # coordinates, in both directions: 60 points at first
# Distances on the real scale. Real latents are moved to where no prior in use is flat any more;
# the values of others are exponentials of theirs, of which floats hold the squares up to some 44,
# and the differences to an upper bound up to some 12.
OF_REAL = (1e6, 1e7, 1e8, 1e9, 1e12, 1e14, 1e15, 1e18)
OF_OTHERS = (6.0, 8.0, 10.0, 12.0, 20.0, 25.0, 30.0, 40.0)
NUM_NEAR = 4  # of these, within which floats resolve an upper bound
FIRST = (0, 3, 7)  # indices of the distances that decide whether the others are evaluated
RISE = 1.0  # nats from one distance of the tail to the next that count as growth
SLOW = 0.9  # a tail that falls no faster than r^-0.9 has no finite integral
# Log densities of others, such as that of Gamma(.001, .001), fall by as little as .001 for a unit.
FLAT, FLAT_NEAR = 1e-3, 0.05  # nats over the far distances, and over the near ones
ROUNDINGS = 20
NEAR = 1e3  # a point's coordinates beyond are drawn anew near zero


class Growth(NamedTuple):
    """A ray along which a log density does not fall."""

    name: str  # of the coordinate
    sign: int  # to which side
    real: bool  # whether the coordinate is the value itself
    rises: bool  # whether the log density goes on rising; else it levels off

    def __str__(self) -> str:
        if self.real:
            side = "+inf" if self.sign > 0 else "-inf"
        else:
            side = f"the {'upper' if self.sign > 0 else 'lower'} end of its support"
        if self.rises:
            return (
                f"The log density goes on rising as {self.name} goes to {side}, so that there is "
                "no posterior: does log_joint return a loss, is a sign wrong, or is a prior "
                "missing?"
            )
        return (
            f"The log density does not fall as {self.name} goes to {side}: the posterior is "
            f"improper. Give {self.name} a prior."
        )


class _Ray(NamedTuple):
    coordinate: int
    sign: int
    real: bool  # whether the coordinate is the value itself
    bounded: bool  # whether the value may have an upper bound, too

    @property
    def distances(self) -> Floats:
        return np.array(OF_REAL if self.real else OF_OTHERS)


def generic(x: Floats) -> Floats:
    """Return a point x (D,) with coordinates far out drawn anew near zero.

    All at one number a mean and its effects would agree, where a centred hierarchy is unbounded.
    """
    return np.where(np.abs(x) < NEAR, x, np.random.default_rng(0).standard_normal(len(x)))


def first_steps(model: Model) -> Floats:
    """Return the steps (n, D) from a point to where rays are evaluated first."""
    return _steps(_rays(model), FIRST, model.size)


def growth(density: Density, x: Floats, first: Floats | None = None) -> Growth | None:
    """Evaluate rays from a point x (D,), parallel to the axes; return one on which nothing falls.

    Coordinates stand for their latents: every latent has some, as many as there is room for. A
    density with a loop that runs until something has converged, such as a solver of differential
    equations, is not evaluated so far out. The density is finite at x. `first` (n,) are its values
    after `first_steps`, where these are known.
    """
    if density.log_joint.open_ended:
        return None
    x, rays = generic(x), _rays(density.model)
    with np.errstate(all="ignore"):
        if first is None:
            first = density.value(x + first_steps(density.model))
        first = np.asarray(first, float).reshape(len(rays), -1)
        # a ray is left out where the density has fallen, or is out of the range of floats
        left = [
            ray
            for ray, (near, middle, far) in zip(rays, first, strict=True)
            if far > near - RISE or (ray.bounded and middle > near - FLAT_NEAR)
        ]
        if not left:
            return None
        points = x + _steps(left, range(len(OF_REAL)), len(x))
        for ray, log_p in zip(left, density.value(points).reshape(len(left), -1), strict=True):
            rises = _rises(log_p, ray, float(np.finfo(density.dtype).eps))
            if rises is not None:
                return Growth(_name(density.model, ray.coordinate), ray.sign, ray.real, rises)
    return None


def _rays(model: Model) -> list[_Ray]:
    return [_Ray(k, sign, *kind) for k, *kind in _chosen(model) for sign in (1, -1)]


def _steps(rays: Sequence[_Ray], which: Sequence[int], dim: int) -> Floats:
    """Return steps (rays * distances, D) along rays, to distances by index."""
    steps = np.zeros((len(rays), len(which), dim))
    for i, ray in enumerate(rays):
        steps[i, :, ray.coordinate] = ray.sign * ray.distances[list(which)]
    return steps.reshape(-1, dim)


def _rises(log_p: Floats, ray: _Ray, eps: float) -> bool | None:
    """Return whether a log density goes on rising, False if it only does not fall, else None.

    Of latents that are not real infinity says nothing: it may be the logarithm of an underflow.
    """
    if ray.real:
        log_p = log_p[: 1 + np.argmax(np.isposinf(np.append(log_p, np.inf)))]
    elif _is_flat(log_p[:NUM_NEAR], FLAT_NEAR, eps) and ray.bounded:
        return False
    else:
        log_p = log_p[NUM_NEAR:]
        if _is_flat(log_p, FLAT, eps):
            return False
    if not len(log_p) or np.isnan(log_p).any() or np.isneginf(log_p).any():
        return None
    if np.isposinf(log_p[0]):
        return True
    finite = log_p[np.isfinite(log_p)]
    steps = np.diff(finite)
    rounding = ROUNDINGS * eps * np.maximum(np.abs(finite[1:]), np.abs(finite[:-1]))
    if len(steps) and np.all(steps > np.maximum(RISE, rounding)):
        return True
    if not ray.real:
        return None
    falls = steps < -SLOW * np.diff(np.log(ray.distances))[: len(steps)]
    flat = len(finite) == len(ray.distances) and not falls.any()
    return False if flat and np.all(rounding < RISE) else None


def _is_flat(log_p: Floats, most: float, eps: float) -> bool:
    rounding = ROUNDINGS * eps * np.max(np.abs(log_p))
    return bool(np.isfinite(log_p).all() and np.ptp(log_p) <= most and rounding < most)


def _chosen(model: Model) -> list[tuple[int, bool, bool]]:
    """Return some coordinates of every latent: index, `_Ray.real` and `_Ray.bounded`."""
    spans = list(model.spans.values())
    num = max(1, MAX_RAYS // len(spans))
    step = -(-len(spans) // MAX_RAYS)  # more latents than rays: every so many
    found = []
    for (start, stop), latent in list(zip(spans, model.latents.values(), strict=True))[::step]:
        base = base_of(latent.bijection)
        real, half = isinstance(base, Identity), isinstance(base, HalfLine)
        chosen = np.unique(np.linspace(start, stop - 1, min(num, stop - start)).astype(int))
        found += [(int(k), real, not (real or half)) for k in chosen]
    return found


def _name(model: Model, k: int) -> str:
    """Return the name of a coordinate, that of its entry or, if there is none, of its latent."""
    for name, (start, stop) in model.spans.items():
        if start <= k < stop:
            entries = model.coordinates[name]
            return entries[k - start] if len(entries) == stop - start else name
    raise IndexError(k)
