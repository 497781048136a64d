"""NumPyro's transforms as transforms of this library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from numpyro.distributions import transforms as numpyro_transforms


@dataclass(frozen=True, eq=False)
class NumPyroAdapter:
    """A transform of ``numpyro.distributions.transforms``.

    Values and log-Jacobians are NumPyro's, and so are its limits far out.

    Examples
    --------
    >>> from numpyro.distributions.transforms import ExpTransform
    >>> adapter = NumPyroAdapter(ExpTransform())
    >>> adapter.forward(jnp.zeros(2))[0].tolist()
    [1.0, 1.0]
    """

    transform: "numpyro_transforms.Transform"
    bijective = True

    @property
    def event_dim(self) -> int:
        return self.transform.codomain.event_dim

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NumPyroAdapter)
            and type(self.transform) is type(other.transform)
            and self.transform == other.transform
        )

    def __hash__(self) -> int:
        # NumPyro's transforms compare by value but have no hash.
        return hash(type(self.transform))

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return self.transform.inverse_shape(tuple(shape))

    def forward(self, x: Array) -> tuple[Array, Array]:
        value = self.transform(x)
        log_det = jnp.asarray(self.transform.log_abs_det_jacobian(x, value))
        # Some NumPyro transforms give one number an entry, and complex ones a complex zero.
        axes = tuple(range(jnp.ndim(value) - self.event_dim, log_det.ndim))
        return jnp.asarray(value), jnp.real(log_det).sum(axes)

    def inverse(self, value: Array) -> Array:
        return jnp.asarray(self.transform.inv(value))
