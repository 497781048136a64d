"""The protocol of variational families, and the base of families of local latents."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.errors import describe
from advi.variational.scale import DiagonalScale, Scale

if TYPE_CHECKING:
    from jaxtyping import Float


@runtime_checkable
class Family(Protocol):
    """Distribution q of one real vector of dimension d, a pure function of its parameters.

    Families are frozen dataclasses: hashable settings. Parameters are a NamedTuple of
    unconstrained arrays, so that any optimiser may move them. The automatic plan takes Gaussians
    with any mean and any scale of the kind that `to_gaussian` returns; an optimiser takes others,
    too.
    """

    @abstractmethod
    def noise_dim(self, dim: int) -> int:
        """Return the number of standard normals in one draw."""

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
    def draw(self, params: Any, eps: Float[Array, " noise"]) -> Float[Array, " d"]:
        """Return the draw (d,) made of standard normal noise (noise_dim,)."""

    @abstractmethod
    def entropy(self, params: Any) -> Float[Array, ""]:
        """Return the entropy of q in nats, a scalar."""

    @abstractmethod
    def log_prob(self, params: Any, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Return log q(x) in nats for one point x (d,), a scalar."""


def unit_params(family: Family, dim: int) -> Any:
    """Return a family's parameters with mean zero and sds of one, host arrays."""
    return family.from_gaussian(np.zeros(dim), DiagonalScale(np.ones(dim)))


class RowFamily:
    """A family of local latents, `PerRow` or `Amortised`: every data row has its own parameters."""

    base: Family  # of one row's latents

    @abstractmethod
    def initial(self, loc: NDArray, sd: NDArray) -> Any:
        """Return parameters to start from, with means `loc` (N, d) and sds (d,)."""

    @abstractmethod
    def at_rows(self, params: Any, batch: Any, axes: Any) -> Any:
        """Return the base family's parameters, a row each, of every row in a batch of data."""


def check_base(name: str, base: Any) -> None:
    """Raise TypeError unless the base of a family of rows is a family of one vector."""
    if isinstance(base, RowFamily | type) or not isinstance(base, Family):
        raise TypeError(
            f"{name} base: got {describe(base)}; expected a family for one row, such as "
            "advi.MeanField()."
        )
