"""Gaussian with any covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from numpy.typing import NDArray

from advi.core.types import LOG_2PI, Floats
from advi.variational.family import GaussianFamily
from advi.variational.scale import Scale, TriangularScale

if TYPE_CHECKING:
    from jaxtyping import Float


class FullRankParams(NamedTuple):
    """Parameters of `FullRank`."""

    loc: Float[Array, " d"]
    raw_tril: Float[Array, "d d"]  # scale below the diagonal, log scale on it; the rest is unread


def _scale_tril(raw: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))


@dataclass(frozen=True)
class FullRank(GaussianFamily):
    """Full-rank Gaussian, q(x) = N(x; loc, L L') with L lower triangular.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, section 2.4.

    Examples
    --------
    >>> family = FullRank()
    >>> scale = TriangularScale(np.array([[1.0, 0.0], [0.5, 2.0]]))
    >>> params = family.from_gaussian(np.zeros(2), scale)
    >>> [float(v) for v in family.reparameterise(params, jnp.array([1.0, 1.0]))]
    [1.0, 2.5]
    """

    def noise_dim(self, dim: int) -> int:
        return dim

    def from_gaussian(self, loc: NDArray, scale: Scale) -> FullRankParams:
        L = scale.tril()
        raw = np.tril(L, -1) + np.diag(np.log(np.diag(L)))
        return FullRankParams(loc, raw)  # type: ignore[arg-type]

    def to_gaussian(self, params: FullRankParams) -> tuple[Floats, TriangularScale]:
        raw = np.asarray(params.raw_tril, np.float64)
        L = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))
        return np.asarray(params.loc, np.float64), TriangularScale(L)

    def moved(self, center: FullRankParams, step: FullRankParams) -> FullRankParams:
        # To first order the scale L of the center becomes L (I + V). Below the diagonal V is the
        # step over sqrt(d): its norm then stays near the learning rate in any dimension.
        V = jnp.tril(step.raw_tril, -1) * len(step.loc) ** -0.5
        log_diagonal = jnp.diagonal(step.raw_tril)
        below = jnp.tril(_scale_tril(center.raw_tril) @ (V + jnp.diag(log_diagonal)), -1)
        raw = center.raw_tril + below + jnp.diag(log_diagonal)
        return FullRankParams(self.reparameterise(center, step.loc), raw)

    def reparameterise(
        self, params: FullRankParams, eps: Float[Array, " noise"]
    ) -> Float[Array, " d"]:
        return params.loc + _scale_tril(params.raw_tril) @ eps

    def entropy(self, params: FullRankParams) -> Float[Array, ""]:
        return jnp.diagonal(params.raw_tril).sum() + 0.5 * params.loc.size * (1 + LOG_2PI)

    def log_prob(self, params: FullRankParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        standard = solve_triangular(_scale_tril(params.raw_tril), x - params.loc, lower=True)
        log_scale = jnp.diagonal(params.raw_tril)
        return (-0.5 * standard**2 - log_scale - 0.5 * LOG_2PI).sum()
