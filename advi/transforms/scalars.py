"""Elementwise transforms to half-lines and intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from numpy.typing import NDArray

from advi.core.arrays import on_host, real_numbers
from advi.core.errors import describe, unknown
from advi.transforms.base import eps, tiny

Bound = ArrayLike | tuple[Any, ...]


class Link(NamedTuple):
    """Increasing map from the real line to the positive numbers."""

    forward: Callable[[Array], tuple[Array, Array]]  # x -> value, log slope
    inverse: Callable[[Array], Array]


LINKS = {
    "exp": Link(lambda x: (jnp.exp(x), x), jnp.log),
    "softplus": Link(
        lambda x: (jax.nn.softplus(x), jax.nn.log_sigmoid(x)),
        # log(e^y - 1), which neither overflows for large y nor cancels for small y.
        lambda y: y + jnp.log(-jnp.expm1(-y)),
    ),
}


def check_link(name: str) -> None:
    """Raise ValueError unless `name` is one of `LINKS`."""
    if name not in LINKS:
        raise ValueError(unknown("transform", name, LINKS))


@dataclass(frozen=True)
class HalfLine:
    """Numbers above `bound`, bound + f(x), or below it, bound - f(x).

    f is ``"exp"``, log|J| = x, or ``"softplus"``, f(x) = log(1 + e^x), log|J| = log sigmoid(x).
    The exponential makes log-normal marginals exactly Gaussian. Softplus grows linearly, which
    suits a quantity whose likelihood is near Gaussian once it is well away from the bound.
    Where ``bound + f(x)`` rounds to the bound, the value is the next number inside: log(value -
    bound) stays finite.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, sections 2.3
    and 3.3 (sensitivity to transformations).

    Examples
    --------
    >>> value, log_det = HalfLine(bound=2.0).forward(jnp.array([0.0, -100.0]))
    >>> value.tolist()[0], bool(value[1] > 2), log_det.tolist()
    (3.0, True, [0.0, -100.0])
    >>> HalfLine(bound=2.0, below=True).forward(jnp.array(0.0))[0].item()
    1.0
    """

    bound: Bound = 0.0  # broadcasts against the value
    below: bool = False
    link: str = "exp"
    event_dim, bijective = 0, True

    def __post_init__(self) -> None:
        check_link(self.link)
        object.__setattr__(self, "bound", _static(self.bound))

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        distance, log_det = LINKS[self.link].forward(x)
        bound = np.asarray(self.bound, x.dtype)
        distance = jnp.maximum(distance, _margin(bound, x))
        return self._sign * distance + bound, log_det

    def inverse(self, value: Array) -> Array:
        bound = np.asarray(self.bound, value.dtype)
        return LINKS[self.link].inverse(self._sign * (value - bound))

    @property
    def _sign(self) -> int:
        return -1 if self.below else 1


@dataclass(frozen=True)
class Interval:
    """Numbers between `lower` and `upper`: lower + (upper - lower) sigmoid(x).

    log|J| = log(upper - lower) + log sigmoid(x) + log sigmoid(-x). Each half is computed from its
    nearer end, and a value that rounds to an end becomes the next number inside: the logs of both
    distances stay finite.

    Examples
    --------
    >>> value, _ = Interval(-1.0, 1.0).forward(jnp.array([-50.0, 0.0, 50.0]))
    >>> bool((abs(value) < 1).all()), value[1].item()
    (True, 0.0)
    """

    lower: Bound = 0.0  # both broadcast against the value
    upper: Bound = 1.0
    event_dim, bijective = 0, True

    def __post_init__(self) -> None:
        lower, upper = _static(self.lower), _static(self.upper)
        shapes = np.shape(lower), np.shape(upper)
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            raise ValueError(
                f"an interval's bounds have the shapes {shapes[0]} and {shapes[1]}; expected "
                "shapes that broadcast."
            ) from None
        if not np.all(np.asarray(lower) < np.asarray(upper)):
            raise ValueError(
                f"an interval needs lower < upper everywhere; got lower = {lower}, upper = {upper}."
            )
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def forward(self, x: Array) -> tuple[Array, Array]:
        lower, upper = np.asarray(self.lower, x.dtype), np.asarray(self.upper, x.dtype)
        width = upper - lower
        value = jnp.where(
            x < 0, lower + width * jax.nn.sigmoid(x), upper - width * jax.nn.sigmoid(-x)
        )
        value = jnp.clip(value, lower + _margin(lower, x), upper - _margin(upper, x))
        return value, jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x) + np.log(width)

    def inverse(self, value: Array) -> Array:
        lower, upper = np.asarray(self.lower, value.dtype), np.asarray(self.upper, value.dtype)
        return jnp.log(value - lower) - jnp.log(upper - value)


def _margin(bound: NDArray, x: Array) -> NDArray:
    """Return a distance that no sum with `bound` rounds away: at least its spacing there."""
    return np.maximum(abs(bound) * eps(x), tiny(x)).astype(x.dtype)


def _static(bound: Bound) -> float | tuple[Any, ...]:
    """Return a bound as floats, in nested tuples if it is an array: hashable."""
    if isinstance(bound, Tracer):
        raise TypeError(
            "a bound of a support is a traced JAX value: it depends on another latent, or the "
            "transform is being built inside jit. Use a latent with a fixed support, for example "
            "unit_interval or positive, and shift and scale it in the log-joint."
        )
    array = on_host(real_numbers("a bound of a support", bound), float)
    if not np.isfinite(array).all():
        raise ValueError(
            f"the bounds of a support must be finite; got {describe(bound)}. For a side without "
            "a bound use greater_than, less_than or real."
        )
    return _nested_tuple(array.tolist())


def _nested_tuple(items: Any) -> Any:
    return tuple(map(_nested_tuple, items)) if isinstance(items, list) else items
