"""Transforms that are not one to one: angles and unit vectors.

Their supports have no boundary to send to infinity. Each point of the support has many preimages,
and log|J| includes the log density of which one it is, a distribution that does not depend on the
value. The posterior of the value is thereby exact, and q's entropy bounded: without that density, a
Gaussian could gain entropy for ever by widening over the preimages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.transforms.base import Independent, Transform, base_of, eps, event_shape
from advi.transforms.windows import DEFAULT_SD, TURN, TURNS


@dataclass(frozen=True)
class Circular:
    """Angles in [-pi, pi): x wrapped, with the log weight of the turn that x is on as log|J|.

    The weight w is that of `advi.transforms.windows`, about zero with s = 1.5: given the angle it
    is a distribution over turns, so that for any density f of the angle the integral of
    f(wrap(x)) w(x) over the real line is that of f over the circle. A fit centres it at its own
    mean, which changes the ELBO alone. `inverse` returns the angle itself.

    Examples
    --------
    >>> value, log_det = Circular().forward(jnp.array([0.5, 0.5 + 2 * math.pi]))
    >>> [round(v, 4) for v in value.tolist()]
    [0.5, 0.5]
    """

    event_dim, bijective = 0, False

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        value = x - 2 * math.pi * jnp.floor((x + math.pi) / (2 * math.pi))
        limit = math.pi * (1 - eps(x))
        log_weight = log_window(x)  # traced first: the order of operations decides the last bits
        return jnp.clip(value, -limit, limit), log_weight

    def inverse(self, value: Array) -> Array:
        return value


@dataclass(frozen=True)
class UnitVector:
    """Unit vectors in R^k: u = x / |x|, with the log density of the length |x| as log|J|.

        log|J| = -|x|^2 / 2 - log Z,   Z = int_0^inf r^(k-1) e^(-r^2/2) dr = 2^(k/2 - 1) Gamma(k/2).

    Densities refer to the surface measure of the sphere (the arc length for k = 2): for any f,
    the integral of f(x / |x|) e^(log|J|) over R^k is that of f over the sphere. The uniform
    density, which is 1 / area, becomes the standard normal. At x = 0, which has no direction, the
    value is the vector of equal components and its gradient zero.

    `inverse` returns a vector of length sqrt(k), the root mean square length under the standard
    normal.

    References
    ----------
    Stan Reference Manual, "Unit vector".

    Examples
    --------
    >>> value, _ = UnitVector().forward(jnp.array([3.0, 4.0]))
    >>> [round(v, 4) for v in value.tolist()]
    [0.6, 0.8]
    """

    event_dim, bijective = 1, False

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        event_shape(self, shape)
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        k = x.shape[-1]
        # Scaled by the largest entry first: squares of very short or long vectors would leave
        # the range of floats. The scale cancels, so its gradient is not needed.
        size = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
        scaled = jnp.where(size > 0, x / jnp.where(size > 0, size, 1), 1)
        value = scaled / jnp.sqrt((scaled**2).sum(-1, keepdims=True))
        log_normaliser = (k / 2 - 1) * math.log(2) + math.lgamma(k / 2)
        return value, -0.5 * (x**2).sum(-1) - log_normaliser

    def inverse(self, value: Array) -> Array:
        return math.sqrt(value.shape[-1]) * value


def log_window(x: Array, center: Array | float = 0.0) -> Array:
    """Return the log weight of the turn that x is on, nats: `windows.log_weight` in JAX."""
    away = x - center
    near = away - TURN * jnp.round(away / TURN)
    turns = TURN * np.arange(-TURNS, TURNS + 1, dtype=x.dtype)
    others = -turns * (turns + 2 * near[..., None]) / (2 * DEFAULT_SD**2)
    others = jax.nn.logsumexp(others, axis=-1)
    return -(away - near) * (away + near) / (2 * DEFAULT_SD**2) - others


def is_angle(transform: Transform) -> bool:
    """Return whether every coordinate of a transform is an angle's."""
    return isinstance(base_of(transform), Circular)


def log_volume(transform: Transform, event: Sequence[int]) -> float:
    """Return the log measure of the support of a transform of this module, for an event's shape."""
    if isinstance(transform, Independent):
        within = event[transform.extra :]
        return math.prod(event[: transform.extra]) * log_volume(transform.base, within)
    if isinstance(transform, Circular):
        return math.log(2 * math.pi)
    if isinstance(transform, UnitVector):
        k = event[-1]
        return math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2)
    raise TypeError(f"{transform!r}: expected a transform of angles or of unit vectors.")
