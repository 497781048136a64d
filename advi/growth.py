"""Whether a log density falls far out, as that of a proper posterior does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.density import Density
from advi.model import Model
from advi.transforms.base import Identity, base_of

Floats = NDArray[np.float64]

MAX_RAYS = 15  # coordinates looked along, to both sides: 60 points and the one between
# Distances on the real scale. Real latents are taken to where no prior in use is flat any more;
# the values of others are exponentials of theirs, of which floats hold the squares up to some 44.
OF_REAL = (1e6, 1e9, 1e12, 1e15, 1e18)
OF_OTHERS = (10.0, 20.0, 25.0, 30.0, 40.0)
FIRST_LOOK = (0, 4)  # places of the distances that decide whether to look at the others
RISE = 1.0  # nats from one distance of the tail to the next that count as growth
SLOW = 0.9  # a tail that falls no faster than r^-0.9 has no finite integral
ROUNDINGS = 20
NEAR = 1e3  # of a point's coordinates those beyond are not what to look from


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
    real: bool

    @property
    def distances(self) -> Floats:
        return np.array(OF_REAL if self.real else OF_OTHERS)


def growth(density: Density, x: Floats) -> Growth | None:
    """Look along rays from a point, parallel to the axes; return one on which nothing falls.

    Coordinates stand for their latents: every latent has some, as many as there is room for. A
    density with a loop that runs until something has converged, such as a solver of differential
    equations, is not evaluated so far out.

    Parameters
    ----------
    density
        Log density on R^D.
    x
        (D,) a point where it is finite, not too special.
    """
    if density.log_joint.open_ended:
        return None
    x = np.where(np.abs(x) < NEAR, x, 0.0)
    rays = [_Ray(k, sign, real) for k, real in _places(density.model) for sign in (1, -1)]
    with np.errstate(all="ignore"):
        near, far = _along(density, x, rays, FIRST_LOOK).T
        # a ray is left out where the density has fallen, or is out of the range of floats
        left = [ray for ray, a, b in zip(rays, near, far, strict=True) if b > a - RISE]
        if not left:
            return None
        every = range(len(OF_REAL))
        for ray, heights in zip(left, _along(density, x, left, every), strict=True):
            rises = _rises(heights, ray, float(np.finfo(density.dtype).eps))
            if rises is not None:
                return Growth(_name(density.model, ray.coordinate), ray.sign, ray.real, rises)
    return None


def _along(density: Density, x: Floats, rays: Sequence[_Ray], which: Sequence[int]) -> Floats:
    """Return log densities at some distances along rays, (rays, distances)."""
    points = np.tile(x, (len(rays), len(which), 1))
    for i, ray in enumerate(rays):
        points[i, :, ray.coordinate] += ray.sign * ray.distances[list(which)]
    return density.value(points.reshape(-1, len(x))).reshape(len(rays), -1)


def _rises(heights: Floats, ray: _Ray, eps: float) -> bool | None:
    """Return whether a log density goes on rising, False if it only does not fall, else None.

    Of latents that are not real infinity says nothing: it may be a logarithm of what has become 0.
    """
    if ray.real:
        heights = heights[: 1 + np.argmax(np.isposinf(np.append(heights, np.inf)))]
    if not len(heights) or np.isnan(heights).any() or np.isneginf(heights).any():
        return None
    if np.isposinf(heights[0]):
        return True
    finite = heights[np.isfinite(heights)]
    steps = np.diff(finite)
    rounding = ROUNDINGS * eps * np.maximum(np.abs(finite[1:]), np.abs(finite[:-1]))
    if len(steps) and np.all(steps > np.maximum(RISE, rounding)):
        return True
    falls = steps < -SLOW * np.diff(np.log(ray.distances))[: len(steps)]
    flat = ray.real and len(finite) == len(ray.distances) and not falls.any()
    return False if flat and np.all(rounding < RISE) else None


def _places(model: Model) -> list[tuple[int, bool]]:
    """Return some coordinates of every latent, and whether they are its values themselves."""
    spans = list(model.spans.values())
    num = max(1, MAX_RAYS // len(spans))
    step = -(-len(spans) // MAX_RAYS)  # more latents than rays: every so many
    places = []
    for (start, stop), latent in list(zip(spans, model.latents.values(), strict=True))[::step]:
        real = isinstance(base_of(latent.bijection), Identity)
        chosen = np.unique(np.linspace(start, stop - 1, min(num, stop - start)).astype(int))
        places += [(int(k), real) for k in chosen]
    return places


def _name(model: Model, k: int) -> str:
    """Return the name of a coordinate: that of the entry if each entry has one of its own."""
    for name, (start, stop) in model.spans.items():
        if start <= k < stop:
            entries = model.coordinates[name]
            return entries[k - start] if len(entries) == stop - start else name
    raise IndexError(k)
