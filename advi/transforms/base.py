"""The protocol of a transform, and the two without mathematics: identity and independent axes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array


@runtime_checkable
class Transform(Protocol):
    """Map from R^n to a support, as a pure function of the coordinates.

    A transform is a frozen dataclass: hashable, equal by value, holding no JAX arrays. Leading
    axes of every array are batch axes. To add one, write these members and register it with
    `register_transform`, or pass it to a latent as ``transform=``.
    """

    @property
    def event_dim(self) -> int:
        """Number of trailing axes of a value that one application covers; 0 if elementwise."""
        ...

    @property
    def bijective(self) -> bool:
        """False where several points map to one value.

        Then `inverse` returns one of them, and `forward` adds to the log-Jacobian the log density
        of which of them it is: densities still integrate to the same number on both sides.
        """
        ...

    @abstractmethod
    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the coordinates of a value of this shape (batch + event).

        Raises ValueError if no value of the support has this shape.
        """

    @abstractmethod
    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the value at `x`, and ``log |d value / d x|`` in nats.

        The log-Jacobian has the batch shape and the dtype of `x`. Where the support has fewer
        dimensions than the value has entries, it refers to the value's free coordinates, which
        the transform's docstring names.
        """

    @abstractmethod
    def inverse(self, value: Array) -> Array:
        """Return the coordinates of a value inside the support."""


def event_shape(transform: Transform, shape: Sequence[int], square: bool = False) -> list[int]:
    """Return the trailing axes of `shape` that `transform` covers, or raise ValueError."""
    name = type(transform).__name__
    if len(shape) < transform.event_dim:
        raise ValueError(
            f"{name} covers the last {transform.event_dim} axes of a value; got shape "
            f"{tuple(shape)}. Give the latent a shape of at least {transform.event_dim} axes."
        )
    event = list(shape[len(shape) - transform.event_dim :])
    if any(n < 1 for n in event):
        raise ValueError(f"{name} needs an event of at least one entry; got shape {tuple(shape)}.")
    if square and event[0] != event[1]:
        raise ValueError(f"{name} needs square matrices, (..., k, k); got shape {tuple(shape)}.")
    return event


def tiny(x: Array) -> float:
    """Return the smallest positive number of x's dtype that hardware does not flush to zero."""
    return float(jnp.finfo(x.dtype).tiny)


def eps(x: Array) -> float:
    """Return the relative spacing of numbers of x's dtype."""
    return float(jnp.finfo(x.dtype).eps)


@dataclass(frozen=True)
class Identity:
    """R^n itself; ``log |d value / d x|`` = 0."""

    event_dim: int = 0
    bijective = True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        return x, jnp.zeros(x.shape[: x.ndim - self.event_dim], x.dtype)

    def inverse(self, value: Array) -> Array:
        return value


@dataclass(frozen=True)
class Independent:
    """`base` with `extra` more axes in the event: its log-Jacobians are summed over them.

    Examples
    --------
    >>> Independent(Identity(), 2).event_dim
    2
    >>> Independent(Identity(), 1).forward(jnp.ones((4, 3)))[1].shape
    (4,)
    """

    base: Transform
    extra: int

    @property
    def event_dim(self) -> int:
        return self.base.event_dim + self.extra

    @property
    def bijective(self) -> bool:
        return self.base.bijective

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        event_shape(self, shape)
        return self.base.unconstrained_shape(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        value, log_det = self.base.forward(x)
        return value, log_det.sum(tuple(range(log_det.ndim - self.extra, log_det.ndim)))

    def inverse(self, value: Array) -> Array:
        return self.base.inverse(value)


def base_of(transform: Transform) -> Transform:
    """Return the transform within all `Independent` around it."""
    return base_of(transform.base) if isinstance(transform, Independent) else transform
