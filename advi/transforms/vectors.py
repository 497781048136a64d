"""Transforms to vectors with a constraint across their entries: sums and orderings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from advi.transforms.base import eps, event_shape, tiny


def lift(x: Array, axis: int) -> Array:
    """Map n - 1 numbers along `axis` isometrically to n that sum to zero.

    The basis is that of the Householder reflection which maps (0, ..., 0, 1) to the direction of
    (1, ..., 1): every coordinate but a share of their sum is one entry of the result, and no
    matrix is formed.
    """
    total = x.sum(axis, keepdims=True)
    root = math.sqrt(x.shape[axis] + 1)
    return jnp.concatenate([x - total / (root * (root + 1)), -total / root], axis)


def drop(z: Array, axis: int) -> Array:
    """Invert `lift`."""
    n = z.shape[axis]
    last = jax.lax.slice_in_dim(z, n - 1, n, axis=axis)
    return jax.lax.slice_in_dim(z, 0, n - 1, axis=axis) - last / (math.sqrt(n) + 1)


@dataclass(frozen=True)
class ZeroSum:
    """Arrays that sum to zero along each of the last `event_dim` axes.

    n - 1 coordinates an axis, through an orthonormal basis: an isometry, log|J| = 0 with respect
    to the volume of the subspace, and a standard normal on the coordinates is the projection of
    a standard normal on the entries.

    Examples
    --------
    >>> ZeroSum(2).unconstrained_shape((5, 3, 4))
    (5, 2, 3)
    """

    event_dim: int = 1
    bijective = True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        event = event_shape(self, shape)
        return (*shape[: len(shape) - self.event_dim], *(n - 1 for n in event))

    def forward(self, x: Array) -> tuple[Array, Array]:
        value = x
        for axis in range(-self.event_dim, 0):
            value = lift(value, axis)
        return value, jnp.zeros(x.shape[: x.ndim - self.event_dim], x.dtype)

    def inverse(self, value: Array) -> Array:
        for axis in range(-self.event_dim, 0):
            value = drop(value, axis)
        return value


@dataclass(frozen=True)
class Simplex:
    """n positive numbers that sum to one: softmax(V x), V an orthonormal basis of zero sums.

    The inverse isometric log-ratio transform; with respect to the first n - 1 entries,

        log|J| = sum_i log p_i + log(n) / 2.

    All entries play the same part (permuting them rotates x), so a full-rank Gaussian treats them
    alike, which it does not under stick breaking. Entries that round to 0 or 1 become the next
    number inside; log|J| is exact there, too.

    References
    ----------
    Egozcue et al. (2003), Isometric logratio transformations for compositional data analysis,
    Mathematical Geology 35(3).

    Examples
    --------
    >>> value, _ = Simplex().forward(jnp.zeros(2))
    >>> [round(v, 4) for v in value.tolist()]
    [0.3333, 0.3333, 0.3333]
    """

    event_dim, bijective = 1, True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        (n,) = event_shape(self, shape)
        return (*shape[:-1], n - 1)

    def forward(self, x: Array) -> tuple[Array, Array]:
        n = x.shape[-1] + 1
        logits = lift(x, -1)
        top = 1 - eps(x) if n > 1 else 1.0
        value = jnp.clip(jax.nn.softmax(logits, -1), tiny(x), top)
        # The logits sum to zero, so sum_i log p_i is -n times the log of their exponentials' sum.
        return value, 0.5 * math.log(n) - n * jax.nn.logsumexp(logits, -1)

    def inverse(self, value: Array) -> Array:
        logs = jnp.log(value)
        return drop(logs - logs.mean(-1, keepdims=True), -1)


@dataclass(frozen=True)
class Ordered:
    """Increasing numbers: the first, and the logs of the gaps; log|J| is the sum of the latter.

    With `positive` the first coordinate, too, is a log: of the first number, the gap above zero.
    Gaps too small to tell neighbours apart at the size of the numbers are widened to a few units
    in the last place: the values always increase strictly.

    References
    ----------
    Stan Reference Manual, "Ordered vector", "Positive ordered vector".

    Examples
    --------
    >>> Ordered().forward(jnp.array([-1.0, 0.0, 0.0]))[0].tolist()
    [-1.0, 0.0, 1.0]
    >>> Ordered(positive=True).forward(jnp.zeros(3))[0].tolist()
    [1.0, 2.0, 3.0]
    """

    positive: bool = False
    event_dim, bijective = 1, True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        event_shape(self, shape)
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        first, gaps = x[..., :1], jnp.exp(x[..., 1:])
        if self.positive:
            first = jnp.maximum(jnp.exp(first), tiny(x))
        # A running sum adds in some tree order, with an error of up to eps / 2 of the total for
        # each of its log2(n) levels; a gap above twice that survives.
        total = jnp.abs(first) + gaps.sum(-1, keepdims=True)
        least = (2 + math.log2(x.shape[-1])) * eps(x) * jax.lax.stop_gradient(total)
        value = jnp.cumsum(jnp.concatenate([first, jnp.maximum(gaps, least)], -1), -1)
        logs = x if self.positive else x[..., 1:]
        return value, logs.sum(-1)

    def inverse(self, value: Array) -> Array:
        first = jnp.log(value[..., :1]) if self.positive else value[..., :1]
        return jnp.concatenate([first, jnp.log(jnp.diff(value, axis=-1))], -1)
