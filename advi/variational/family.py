"""What a variational family is."""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.variational.scale import Scale


@runtime_checkable
class Family(Protocol):
    """Distribution q of one real vector of dimension d, a pure function of its parameters.

    Families are frozen dataclasses: hashable settings. Parameters are a NamedTuple of
    unconstrained arrays, so that any optimiser may move them.
    """

    @abstractmethod
    def noise_dim(self, dim: int) -> int:
        """Return how many standard normals one draw needs."""

    @abstractmethod
    def from_gaussian(self, loc: NDArray, scale: Scale) -> Any:
        """Return parameters with mean `loc` (d,) and, as near as can be, the given scale.

        `scale` is a lower triangular matrix (d, d), its diagonal (d,), or a `LowRankScale`.
        """

    @abstractmethod
    def to_gaussian(self, params: Any) -> tuple[NDArray[np.float64], Scale]:
        """Return the mean (d,) and the scale, of one of the same kinds."""

    @abstractmethod
    def moved(self, center: Any, step: Any) -> Any:
        """Return the parameters that a step, shaped like them and in the frame of `center`, leads
        to: linear in the step, the mean in sds and the scale relative to that of `center`.
        """  # noqa: D205

    @abstractmethod
    def draw(self, params: Any, eps: Array) -> Array:
        """Return the draw (d,) that standard normal noise (noise_dim,) stands for."""

    @abstractmethod
    def entropy(self, params: Any) -> Array:
        """Return the entropy of q in nats, a scalar."""

    @abstractmethod
    def log_prob(self, params: Any, x: Array) -> Array:
        """Return log q(x) in nats for one point x (d,), a scalar."""
