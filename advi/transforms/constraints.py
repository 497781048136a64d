"""NumPyro's constraints by their names, for models that use no other part of NumPyro.

A constraint is a `NamedConstraint` where this library makes it, and an object of NumPyro's where
the user gives it. Both have the same attributes, the same call and the same key; NumPyro is
imported only where its own object is asked for.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advi.core.lazy import known_class

if TYPE_CHECKING:
    from numpyro.distributions.constraints import Constraint

CONSTRAINT = "numpyro.distributions.constraints.Constraint"


def _is_above(c: Any, x: Any) -> Any:
    return x > c.lower_bound


def _is_below(c: Any, x: Any) -> Any:
    return x < c.upper_bound


def _is_between(c: Any, x: Any) -> Any:
    return (x >= c.lower_bound) & (x <= c.upper_bound)


class Kind(NamedTuple):
    """What is known of a constraint without NumPyro."""

    attributes: tuple[str, ...] = ()  # of NumPyro's object
    event_dim: int = 0
    inside: Callable[[Any, Any], Any] | None = None  # by entry, of NumPy arrays


LOWER, UPPER = "lower_bound", "upper_bound"
KINDS = {
    "real": Kind(inside=lambda c, x: np.isfinite(x)),
    "positive": Kind((LOWER,), inside=_is_above),
    "greater_than": Kind((LOWER,), inside=_is_above),
    "less_than": Kind((UPPER,), inside=_is_below),
    "interval": Kind((LOWER, UPPER), inside=_is_between),
    "unit_interval": Kind((LOWER, UPPER), inside=_is_between),
    "circular": Kind((LOWER, UPPER), inside=_is_between),
    "simplex": Kind(event_dim=1),
    "ordered_vector": Kind(event_dim=1),
    "positive_ordered_vector": Kind(event_dim=1),
    "sphere": Kind(event_dim=1),
    "zero_sum": Kind(("_event_dim",)),
    "corr_cholesky": Kind(event_dim=2),
    "corr_matrix": Kind(event_dim=2),
    "positive_definite": Kind(event_dim=2),
    "lower_cholesky": Kind(event_dim=2),
}


@dataclass(frozen=True, eq=False, repr=False)
class NamedConstraint:
    """What a name of `KINDS` is in ``numpyro.distributions.constraints``.

    Examples
    --------
    >>> constraint = interval(0, 2)
    >>> constraint, constraint.upper_bound, constraint.numpyro
    (Interval(lower_bound=0, upper_bound=2), 2, Interval(lower_bound=0, upper_bound=2))
    """

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numpyro(self) -> "Constraint":
        """NumPyro's object."""
        from numpyro.distributions import constraints

        found = getattr(constraints, self.name)
        return found(*self.attributes.values()) if isinstance(found, type) else found

    @property
    def class_name(self) -> str:
        """The name of the class of NumPyro's object."""
        return f"_{self.name.title().replace('_', '')}"

    @property
    def event_dim(self) -> int:
        """Number of trailing axes of one value."""
        return self.attributes.get("_event_dim", KINDS[self.name].event_dim)

    def __call__(self, x: Any) -> Any:
        inside = KINDS[self.name].inside
        return self.numpyro(x) if inside is None else inside(self, x)

    def __getattr__(self, name: str) -> Any:
        if name in vars(self).get("attributes", ()):
            return self.attributes[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        shown = (f"{k}={v}" for k, v in self.attributes.items() if not k.startswith("_"))
        return f"{self.class_name[1:]}({', '.join(shown)})"


REAL = NamedConstraint("real")
POSITIVE = NamedConstraint("positive", {LOWER: 0.0})
UNIT_INTERVAL = NamedConstraint("unit_interval", {LOWER: 0.0, UPPER: 1.0})
CIRCULAR = NamedConstraint("circular", {LOWER: -math.pi, UPPER: math.pi})
ZERO_SUM = NamedConstraint("zero_sum", {"_event_dim": 1})


def greater_than(low: Any) -> NamedConstraint:
    """Return the constraint of numbers above `low`."""
    return NamedConstraint("greater_than", {LOWER: low})


def less_than(high: Any) -> NamedConstraint:
    """Return the constraint of numbers below `high`."""
    return NamedConstraint("less_than", {UPPER: high})


def interval(low: Any, high: Any) -> NamedConstraint:
    """Return the constraint of numbers between `low` and `high`."""
    return NamedConstraint("interval", {LOWER: low, UPPER: high})


def is_constraint(value: Any) -> bool:
    """Return whether a value is a constraint, named here or an object of NumPyro's."""
    return isinstance(value, (NamedConstraint, known_class(CONSTRAINT)))


def as_numpyro(constraint: "Constraint | NamedConstraint") -> "Constraint":
    """Return NumPyro's object for a constraint."""
    return constraint.numpyro if isinstance(constraint, NamedConstraint) else constraint


def class_name(constraint: Any) -> str:
    """Return the name of the class of NumPyro's object for a constraint."""
    named = isinstance(constraint, NamedConstraint)
    return constraint.class_name if named else type(constraint).__name__


def key_of(constraint: Any) -> str | type:
    """Return the name of a constraint, or of a class of NumPyro's; of another class itself."""
    if isinstance(constraint, NamedConstraint):
        return constraint.name
    cls = constraint if isinstance(constraint, type) else type(constraint)
    return _names().get(cls, cls)


@cache
def _names() -> dict[type, str]:
    """Return the names of the classes of NumPyro's constraints."""
    from numpyro.distributions import constraints

    found = {name: value for name, value in vars(constraints).items() if not name.startswith("_")}
    classes = {name: v if isinstance(v, type) else type(v) for name, v in found.items()}
    return {cls: name for name, cls in classes.items() if issubclass(cls, constraints.Constraint)}
