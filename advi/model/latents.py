"""Latents: the unknowns of a model, their supports, shapes and transforms to the real line."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advi.core.arrays import on_host, real_numbers
from advi.core.errors import describe
from advi.transforms import Constant, Transform, transform_for
from advi.transforms.constraints import as_numpyro, is_constraint

if TYPE_CHECKING:
    from numpyro.distributions.constraints import Constraint

BOUNDS = ("lower_bound", "upper_bound")  # of NumPyro's constraints


class _Support:
    """The field of a latent's support: NumPyro's object, made where it is asked for."""

    def __get__(self, latent: "Latent | None", owner: type) -> "Constraint":
        if latent is None:
            raise AttributeError("support")  # there is no default
        return as_numpyro(latent.constraint)

    def __set__(self, latent: "Latent", value: Any) -> None:
        vars(latent)["support"] = value


@dataclass(frozen=True, eq=False, repr=False)
class Latent:
    """One latent: its support, its shape and the transform that maps it to the real line.

    Parameters
    ----------
    support
        NumPyro constraint.
    shape
        Shape of the whole value, the support's own axes last: ``(5, 3)`` for five simplexes of
        three components. For a local latent the shape of one row's value.
    local
        Whether every data row has a value of its own. The log-joint then gets an array of shape
        ``(B, *shape)`` for data of B rows, and returns `Terms`.
    transform
        ``None`` for the registered transform, ``"exp"`` or ``"softplus"`` for a positive latent,
        or a transform.
    init
        Constrained value to start from.

    Raises
    ------
    TypeError
        If `support` is not a constraint, is discrete, or has no transform, or `local` is not a
        bool.
    ValueError
        If `shape` lacks the support's own axes, no value of the support has it, or `init` does not
        have that shape.

    Examples
    --------
    >>> from numpyro.distributions import constraints
    >>> Latent(constraints.simplex, (5, 3)).bijection.unconstrained_shape((5, 3))
    (5, 2)
    """

    support: "Constraint" = _Support()  # type: ignore[assignment]
    shape: tuple[int, ...] = ()
    local: bool = field(default=False, kw_only=True)
    transform: Any = field(default=None, kw_only=True)
    init: ArrayLike | None = field(default=None, kw_only=True)
    bijection: Transform = field(init=False)

    def __post_init__(self) -> None:
        if not is_constraint(self.constraint):
            raise TypeError(
                f"support: got {describe(self.constraint)}; expected a NumPyro constraint such as "
                "numpyro.distributions.constraints.positive. advi.positive() and its relatives "
                "make the whole latent."
            )
        if not isinstance(self.local, bool):
            raise TypeError(f"local: got {describe(self.local)}; expected True or False.")
        bijection, shape = transform_for(self.constraint, self.transform), self.shape
        if not isinstance(shape, (tuple, list)) or not all(
            isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in shape
        ):
            raise TypeError(
                f"shape: got {describe(shape)}; expected integers, e.g. advi.real(3, 2) or "
                "advi.Latent(support, (3, 2))."
            )
        if any(n < 0 for n in shape):
            raise ValueError(f"shape: got {tuple(shape)}; expected lengths of at least 0.")
        shape = tuple(int(n) for n in shape)
        if len(shape) < bijection.event_dim:
            raise ValueError(
                f"a latent with support {self.constraint} needs a shape of at least "
                f"{bijection.event_dim} axes, got {shape}. Give it: "
                "advi.Latent(support, shape=(..., k)), or use the helper, e.g. advi.simplex(k)."
            )
        bijection.unconstrained_shape(shape)  # raises where no value has this shape
        for bound in (getattr(self.constraint, name, None) for name in BOUNDS):
            if bound is not None and not self.local and not _fits(np.shape(bound), shape):
                raise ValueError(
                    f"a bound of the support has shape {np.shape(bound)}; expected one that "
                    f"broadcasts to the latent's shape {shape}. Give the latent's shape after the "
                    "bounds, e.g. advi.interval(low, high, 3)."
                )
        if self.init is not None:
            init = real_numbers("init", self.init)
            if init.shape != shape:
                raise ValueError(
                    f"init: got {describe(init)}; expected the latent's shape {shape}."
                )
            object.__setattr__(self, "init", init)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "bijection", bijection)

    def __repr__(self) -> str:
        names = ("shape", "local", "transform", "init")
        rest = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Latent(support={self.constraint!r}, {rest})"  # without an import of NumPyro

    @property
    def constraint(self) -> Any:
        """The support as it was given, which needs no import of NumPyro."""
        return vars(self)["support"]

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        """Shape of the real array that represents the latent."""
        return self.bijection.unconstrained_shape(self.shape)

    @property
    def size(self) -> int:
        """Number of real coordinates."""
        return math.prod(self.unconstrained_shape)

    @property
    def num_entries(self) -> int:
        """Number of entries of the value."""
        return math.prod(self.shape)

    @property
    def free(self) -> Transform:
        """The transform of the latent where it is not held at a value."""
        return self.bijection.free if isinstance(self.bijection, Constant) else self.bijection

    def held_at(self, value: NDArray[Any]) -> "Latent":
        """Return the latent held at a constrained value of its shape, without a coordinate.

        Of a local latent the value may have a leading axis, the rows.
        """
        transform = Constant(value, self.free, len(self.shape))
        return replace(self, support=self.constraint, transform=transform, init=None)

    def with_rows(self, num: int) -> "Latent":
        """Return the latent of `num` rows, each with the same initial value, if there is one."""
        shape = (num, *self.shape)
        init = None if self.init is None else np.broadcast_to(on_host(self.init), shape)
        return replace(self, support=self.constraint, shape=shape, local=False, init=init)


def _fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Return whether something of one shape broadcasts to another."""
    pairs = zip(reversed(part), reversed(whole), strict=False)
    return len(part) <= len(whole) and all(a in (1, b) for a, b in pairs)
