"""Gaussian with independent coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.types import LOG_2PI, Floats
from advi.variational.family import GaussianFamily
from advi.variational.scale import DiagonalScale, Scale

if TYPE_CHECKING:
    from jaxtyping import Float


class MeanFieldParams(NamedTuple):
    """Parameters of `MeanField`."""

    loc: Float[Array, " d"]
    log_sd: Float[Array, " d"]


@dataclass(frozen=True)
class MeanField(GaussianFamily):
    """Mean-field Gaussian, q(x) = prod_k N(x_k; loc_k, sd_k^2).

    On a Gaussian target with precision matrix P its variances are 1 / P_kk (Bishop 2006,
    eq. 10.13): too small wherever the posterior is correlated.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, section 2.4.

    Examples
    --------
    >>> family = MeanField()
    >>> params = family.from_gaussian(np.zeros(2), DiagonalScale(np.ones(2)))
    >>> round(float(family.entropy(params)), 4)
    2.8379
    """

    def noise_dim(self, dim: int) -> int:
        return dim

    def from_gaussian(self, loc: NDArray, scale: Scale) -> MeanFieldParams:
        return MeanFieldParams(loc, np.log(scale.sds))  # type: ignore[arg-type]

    def to_gaussian(self, params: MeanFieldParams) -> tuple[Floats, DiagonalScale]:
        sd = np.exp(np.asarray(params.log_sd, np.float64))
        return np.asarray(params.loc, np.float64), DiagonalScale(sd)

    def moved(self, center: MeanFieldParams, step: MeanFieldParams) -> MeanFieldParams:
        return MeanFieldParams(self.reparameterise(center, step.loc), center.log_sd + step.log_sd)

    def reparameterise(
        self, params: MeanFieldParams, eps: Float[Array, " noise"]
    ) -> Float[Array, " d"]:
        return params.loc + jnp.exp(params.log_sd) * eps

    def entropy(self, params: MeanFieldParams) -> Float[Array, ""]:
        return params.log_sd.sum() + 0.5 * params.log_sd.size * (1 + LOG_2PI)

    def log_prob(self, params: MeanFieldParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        standard = (x - params.loc) * jnp.exp(-params.log_sd)
        return (-0.5 * standard**2 - params.log_sd - 0.5 * LOG_2PI).sum()
