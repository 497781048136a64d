"""The protocol of variational families, and the base of families of local latents."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.errors import describe
from advi.variational.gaussian import Gaussian
from advi.variational.scale import DiagonalScale, Scale

if TYPE_CHECKING:
    from jaxtyping import Float


@runtime_checkable
class Family(Protocol):
    """Distribution q of one real vector of dimension d, a pure function of its parameters.

    A family maps standard normal noise to a point and knows the density there: all that fits,
    draws, moments, verdicts and corrections need. Families are frozen dataclasses: hashable
    settings. Parameters are a pytree of unconstrained float arrays, so that any optimiser may move
    them. A method ``log_prob(params, x) -> log q``, nats, at any point x (d,) is optional: with it
    gradients have less noise ("sticking the landing"), and `Fit.log_prob` works.

    The automatic plan fits a Gaussian first, from which `init` starts. Before a fit and after it
    log q is compared with the Jacobian of the draw. ``advi.load(path, known=[MyFamily])`` reads a
    file.
    """

    @abstractmethod
    def noise_dim(self, dim: int) -> int:
        """Return the number of standard normals in one draw of a vector of dimension `dim`."""

    @abstractmethod
    def init(self, gaussian: Gaussian, key: Array) -> Any:
        """Return parameters as near a Gaussian as they can be.

        ``gaussian.loc`` is its mean (d,), ``gaussian.scale.tril()`` a lower triangular scale
        (d, d), and ``gaussian.scale.sds`` the marginal sds (d,), all NumPy arrays. `key` is a JAX
        key for what is random.
        """

    @abstractmethod
    def draw(
        self, params: Any, eps: Float[Array, " noise"]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Return the draw x (d,) made of standard normal noise (noise_dim,), and log q(x), nats."""


@runtime_checkable
class GaussianFamily(Family, Protocol):
    """A family of Gaussians, in closed form: the automatic plan moves their mean and scale."""

    @abstractmethod
    def from_gaussian(self, loc: NDArray, scale: Scale) -> Any:
        """Return parameters with mean `loc` (d,) and the given scale, or the nearest one."""

    @abstractmethod
    def to_gaussian(self, params: Any) -> tuple[NDArray[np.float64], Scale]:
        """Return the mean (d,) and the scale."""

    @abstractmethod
    def moved(self, center: Any, step: Any) -> Any:
        """Return the parameters after a step of the same shape, to which the result is linear.

        The step is relative to `center`: the mean in its sds, the scale relative to its scale.
        """

    @abstractmethod
    def reparameterise(self, params: Any, eps: Float[Array, " noise"]) -> Float[Array, " d"]:
        """Return the point (d,) of standard normal noise (noise_dim,)."""

    @abstractmethod
    def entropy(self, params: Any) -> Float[Array, ""]:
        """Return the entropy of q in nats, a scalar."""

    @abstractmethod
    def log_prob(self, params: Any, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Return log q(x) in nats for one point x (d,), a scalar."""

    def init(self, gaussian: Gaussian, key: Array) -> Any:
        return self.from_gaussian(gaussian.loc, gaussian.scale)

    def draw(
        self, params: Any, eps: Float[Array, " noise"]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        log_q = 0.5 * (eps.size - (eps**2).sum()) - self.entropy(params)
        return self.reparameterise(params, eps), log_q


def unit_params(family: GaussianFamily, dim: int) -> Any:
    """Return a family's parameters with mean zero and sds of one, host arrays."""
    return family.from_gaussian(np.zeros(dim), DiagonalScale(np.ones(dim)))


class RowFamily:
    """A family of local latents, `PerRow` or `Amortised`: every data row has its own parameters."""

    base: GaussianFamily  # of one row's latents

    @abstractmethod
    def initial(self, loc: NDArray, sd: NDArray) -> Any:
        """Return parameters to start from, with means `loc` (N, d) and sds (d,)."""

    @abstractmethod
    def at_rows(self, params: Any, batch: Any, axes: Any) -> Any:
        """Return the base family's parameters, a row each, of every row in a batch of data."""


def check_base(name: str, base: Any) -> None:
    """Raise TypeError unless the base of a family of rows is a family of one vector."""
    if isinstance(base, RowFamily | type) or not isinstance(base, GaussianFamily):
        raise TypeError(
            f"{name} base: got {describe(base)}; expected a Gaussian family for one row, such as "
            "advi.MeanField()."
        )
