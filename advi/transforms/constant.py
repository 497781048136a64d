"""The transform of a latent that is held at a value: it has no coordinate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.transforms.base import Transform


@dataclass(frozen=True, eq=False)
class Constant:
    """R^0 to one value, whatever it is; ``log |d value / d x|`` = 0.

    `free` is the transform of the latent where it is not held. The value has the shape of one
    event, `event_dim` axes; with more axes, it is one for each entry of a batch. Two are equal if
    their transforms are, and their values bit by bit.

    Examples
    --------
    >>> from advi.transforms import Identity
    >>> held = Constant(np.ones(3), Identity(1), 1)
    >>> held.unconstrained_shape((3,)), held.forward(jnp.zeros(0))[0].tolist()
    ((0,), [1.0, 1.0, 1.0])
    """

    value: NDArray[Any]  # (*batch, *event), on the host
    free: Transform
    event_dim: int
    bijective = True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[: len(shape) - self.event_dim], 0)

    def forward(self, x: Array) -> tuple[Array, Array]:
        batch = x.shape[:-1]
        event = self.value.shape[self.value.ndim - self.event_dim :]
        value = jnp.broadcast_to(jnp.asarray(self.value, x.dtype), batch + event)
        return value, jnp.zeros(batch, x.dtype)

    def inverse(self, value: Array) -> Array:
        return jnp.zeros(self.unconstrained_shape(value.shape), value.dtype)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        value = np.ascontiguousarray(self.value)
        return value.shape, value.dtype.str, value.tobytes(), self.free, self.event_dim

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)
