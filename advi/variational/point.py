"""A single value: estimation instead of inference."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.variational.family import GaussianFamily
from advi.variational.scale import DiagonalScale, Scale


class PointParams(NamedTuple):
    """Parameters of `Point`."""

    loc: Array  # (d,)


@dataclass(frozen=True)
class Point(GaussianFamily):
    """Point mass: the latent is estimated, on its constrained scale, instead of inferred.

    With every other latent integrated out by its family this is variational EM: the maximum of
    the ELBO over the point. The log-Jacobian of the latent's transform is left out, so that the
    estimate does not depend on the transform, and log q and the entropy count as zero.

    Examples
    --------
    >>> float(Point().entropy(PointParams(jnp.zeros(3))))
    0.0
    """

    def noise_dim(self, dim: int) -> int:
        return 0

    def from_gaussian(self, loc: NDArray, scale: Scale) -> PointParams:
        return PointParams(loc)  # type: ignore[arg-type]

    def to_gaussian(self, params: PointParams) -> tuple[Floats, DiagonalScale]:
        loc = np.asarray(params.loc, np.float64)
        return loc, DiagonalScale(np.zeros_like(loc))

    def moved(self, center: PointParams, step: PointParams) -> PointParams:
        return PointParams(center.loc + step.loc)

    def reparameterise(self, params: PointParams, eps: Array) -> Array:
        return params.loc

    def entropy(self, params: PointParams) -> Array:
        return jnp.zeros((), params.loc.dtype)

    def log_prob(self, params: PointParams, x: Array) -> Array:
        return jnp.zeros((), params.loc.dtype)
