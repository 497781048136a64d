"""Where else to begin where the first point is not finite: what a model offers, prior draws."""

import numpy as np

from advi.model.density import Density
from advi.variational.gaussian import Floats, Gaussian

NUM_STARTS = 64


def prior_starts(density: Density, first: Gaussian) -> Floats | None:
    """Return points (n, D) that a model offers, if the density is not finite at the first."""
    starts = density.model.starts
    if starts is None or len(_finite(density, first.loc[None])):
        return None
    return starts(density.model, density.data, first.loc, NUM_STARTS)


def finite_first(density: Density, first: Gaussian) -> Gaussian:
    """Return a first Gaussian about the highest point that a model offers, if its own is no use."""
    points = prior_starts(density, first)
    if points is None or not len(points):
        return first
    found = _finite(density, points)
    return first._replace(loc=found[0]) if len(found) else first


def _finite(density: Density, points: Floats) -> Floats:
    """Return the points where value and gradient are finite, the highest first."""
    values, gradients = density.value_and_grad(points)
    known = np.isfinite(values) & np.isfinite(gradients).all(1)
    return points[known][np.argsort(-values[known], kind="stable")]
