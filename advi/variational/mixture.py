"""A mixture of Gaussians, one for each optimum that the automatic plan finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp, ndtr

from advi.core.errors import check_count
from advi.core.types import LOG_2PI
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float


class MixtureParams(NamedTuple):
    """Parameters of `Mixture`: weights, means and scales of K Gaussians."""

    log_weights: Float[Array, " K"]  # up to a constant
    locs: Float[Array, "K d"]
    trils: Float[Array, "K d d"]  # lower triangular


@dataclass(frozen=True)
class Mixture(Family):
    """A mixture of Gaussians of full rank, for posteriors with several modes.

    The automatic plan fits a Gaussian at every optimum that its search finds. Their weights begin
    at the exponentials of their ELBOs; then weights, means and covariances are improved by the
    expectation-maximisation algorithm on importance draws, while the ELBO does not fall. The first
    standard normal of a draw chooses the component, so that steps cannot move the weights:
    optimisers and minibatches do not take the family.

    Parameters
    ----------
    components
        Number of Gaussians K. None: in a fit, as many as there are optima, up to 8.

    References
    ----------
    Cappé, Douc, Guillin, Marin & Robert (2008), Adaptive importance sampling in general mixture
    classes: the steps on importance draws.

    Examples
    --------
    >>> family = Mixture(2)
    >>> params = MixtureParams(jnp.zeros(2), jnp.array([[-3.0], [3.0]]), jnp.ones((2, 1, 1)))
    >>> x, log_q = family.draw(params, jnp.array([1.0, 0.5]))
    >>> x.tolist(), round(float(log_q), 4)
    ([3.5], -1.7371)
    """

    components: int | None = None

    def __post_init__(self) -> None:
        if self.components is not None:
            check_count("Mixture components", self.components)

    def noise_dim(self, dim: int) -> int:
        return dim + 1

    def init(self, gaussian: Gaussian, key: Array | None = None) -> MixtureParams:
        num = self.components or 1
        many = lambda a: np.repeat(a[None], num, axis=0)  # noqa: E731
        return MixtureParams(np.zeros(num), many(gaussian.loc), many(gaussian.scale.tril()))  # type: ignore[arg-type]

    def draw(
        self, params: MixtureParams, eps: Float[Array, " noise"]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        bounds = jnp.cumsum(jax.nn.softmax(params.log_weights))[:-1]
        k = (ndtr(eps[0]) > bounds).sum()
        x = jnp.asarray(params.locs)[k] + jnp.asarray(params.trils)[k] @ eps[1:]
        return x, self.log_prob(params, x)

    def log_prob(self, params: MixtureParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Return log q(x) in nats for one point x (d,), a scalar."""

        def of_component(loc: Array, tril: Array) -> Array:
            u = solve_triangular(tril, x - loc, lower=True)
            return -0.5 * (u**2 + LOG_2PI).sum() - jnp.log(jnp.diagonal(tril)).sum()

        each = jax.vmap(of_component)(params.locs, params.trils)
        return logsumexp(jax.nn.log_softmax(params.log_weights) + each)
