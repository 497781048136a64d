"""Initial points that a model offers, its prior draws, where the first one is not finite."""

import numpy as np

from advi.core.types import Floats
from advi.model.density import Density

NUM_STARTS = 64


def prior_starts(density: Density, x: Floats) -> Floats | None:
    """Return points (n, D) that a model offers, if the density is not finite at x (D,)."""
    starts = density.model.program.starts
    if starts is None or len(_finite(density, x[None])):
        return None
    return starts(density.model, density.data, x, NUM_STARTS)


def finite_start(density: Density, x: Floats) -> Floats:
    """Return the highest point (D,) that a model offers, if x is not finite, or x itself."""
    points = prior_starts(density, x)
    if points is None or not len(points):
        return x
    found = _finite(density, points)
    return found[0] if len(found) else x


def _finite(density: Density, points: Floats) -> Floats:
    """Return the points where value and gradient are finite, the highest first."""
    values, gradients = density.value_and_grad(points)
    known = np.isfinite(values) & np.isfinite(gradients).all(1)
    return points[known][np.argsort(-values[known], kind="stable")]
