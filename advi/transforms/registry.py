"""The registry of transforms by NumPyro constraint."""

from collections.abc import Callable
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, Any, TypeVar

from advi.core.errors import describe
from advi.core.lazy import known_class
from advi.transforms.base import Identity, Independent, Transform
from advi.transforms.constraints import (
    CONSTRAINT,
    NamedConstraint,
    as_numpyro,
    is_constraint,
    key_of,
)
from advi.transforms.matrices import CorrCholesky, CorrMatrix, LowerCholesky, PositiveDefinite
from advi.transforms.numpyro_adapter import NumPyroAdapter
from advi.transforms.periodic import Circular, UnitVector
from advi.transforms.scalars import HalfLine, Interval, check_link
from advi.transforms.vectors import Ordered, Simplex, ZeroSum

if TYPE_CHECKING:
    from numpyro.distributions import transforms as numpyro_transforms
    from numpyro.distributions.constraints import Constraint

Factory = Callable[[Any], "Transform | numpyro_transforms.Transform"]
F = TypeVar("F", bound=Factory)
MEMBERS = ("event_dim", "bijective", "unconstrained_shape", "forward", "inverse")

# by the names of NumPyro's constraints, and by the classes of others
_REGISTRY: dict[str | type, Factory] = {
    "real": lambda c: Identity(),
    "real_vector": lambda c: Identity(1),
    "real_matrix": lambda c: Identity(2),
    "positive": lambda c: HalfLine(),
    "nonnegative": lambda c: HalfLine(),
    "greater_than": lambda c: HalfLine(c.lower_bound),
    "greater_than_eq": lambda c: HalfLine(c.lower_bound),
    "less_than": lambda c: HalfLine(c.upper_bound, below=True),
    "less_than_eq": lambda c: HalfLine(c.upper_bound, below=True),
    "unit_interval": lambda c: Interval(),
    "interval": lambda c: Interval(c.lower_bound, c.upper_bound),
    "open_interval": lambda c: Interval(c.lower_bound, c.upper_bound),
    "circular": lambda c: Circular(),
    "sphere": lambda c: UnitVector(),
    "simplex": lambda c: Simplex(),
    "zero_sum": lambda c: ZeroSum(c.event_dim),
    "ordered_vector": lambda c: Ordered(),
    "positive_ordered_vector": lambda c: Ordered(positive=True),
    "lower_cholesky": lambda c: LowerCholesky(),
    "positive_definite": lambda c: PositiveDefinite(),
    "positive_semidefinite": lambda c: PositiveDefinite(),
    "corr_cholesky": lambda c: CorrCholesky(),
    "corr_matrix": lambda c: CorrMatrix(),
    "independent": lambda c: Independent(
        transform_for(c.base_constraint), c.reinterpreted_batch_ndims
    ),
}


def transform_for(support: "Constraint | NamedConstraint", override: Any = None) -> Transform:
    """Return the transform for a support.

    Constraints are matched by their exact class, since a subclass may be a smaller set: first in
    this registry, then by NumPyro's ``biject_to``. `override` is ``"exp"`` or ``"softplus"`` for
    supports with a positive part (half-lines, the diagonals of `LowerCholesky` and
    `PositiveDefinite`), or a transform, this library's or NumPyro's; one that covers fewer axes
    than the support is summed over the others.

    Raises
    ------
    TypeError
        If `support` is not a constraint, is discrete or dependent, or has no transform.
    ValueError
        If `override` is an unknown name, or one that does not apply to `support`.

    Examples
    --------
    >>> from numpyro.distributions import constraints
    >>> transform_for(constraints.positive, "softplus")
    HalfLine(bound=0.0, below=False, link='softplus')
    >>> transform_for(constraints.independent(constraints.positive, 1)).event_dim
    1
    """
    _require_continuous(support)
    if override is None:
        return _registered(support)
    if isinstance(override, str):
        check_link(override)
        return _with_link(_registered(support), override, support)
    transform = _as_transform(override, f"transform= for the support {support}")
    missing = support.event_dim - transform.event_dim
    return Independent(transform, missing) if missing > 0 else transform


def register_transform(
    constraint_type: "type[Constraint] | Constraint", *, replace: bool = False
) -> Callable[[F], F]:
    """Register how a transform is made for the constraints of a class.

    Parameters
    ----------
    constraint_type
        Constraint class, or an instance of it such as ``constraints.positive``.
    replace
        Whether to replace the transform registered for it.

    Returns
    -------
    decorator
        For a function from the constraint to a `Transform` or a NumPyro transform, which it
        returns unchanged.

    Raises
    ------
    TypeError
        If `constraint_type` is no constraint.
    ValueError
        If the class has a transform registered here and `replace` is False.

    Examples
    --------
    >>> from numpyro.distributions.constraints import Constraint
    >>> class Even(Constraint):
    ...     "Functions on a grid with f(-t) = f(t)."
    ...
    ...     event_dim = 1
    >>> @register_transform(Even)
    ... def even(constraint):
    ...     return Identity(1)
    >>> transform_for(Even())
    Identity(event_dim=1)
    """
    cls = constraint_type if isinstance(constraint_type, type) else type(constraint_type)
    if not issubclass(cls, known_class(CONSTRAINT)):
        raise TypeError(
            f"register_transform takes a NumPyro constraint or its class; got "
            f"{describe(constraint_type)}."
        )
    key = key_of(cls)
    if key in _REGISTRY and not replace:
        raise ValueError(
            f"a transform for {cls.__name__} is registered already; pass replace=True to "
            "replace it."
        )

    def register(factory: F) -> F:
        _REGISTRY[key] = lambda constraint: factory(as_numpyro(constraint))
        return factory

    return register


def _require_continuous(support: Any) -> None:
    """Raise TypeError if a support is no constraint, depends on other values, or is discrete."""
    if not is_constraint(support):
        raise TypeError(
            f"a support is a NumPyro constraint such as constraints.positive or "
            f"constraints.interval(0, 1); got {describe(support)}."
        )
    if isinstance(support, NamedConstraint):
        return
    from numpyro.distributions import constraints

    base = support.base_constraint if isinstance(support, constraints.independent) else support
    if constraints.is_dependent(base):
        raise TypeError(
            f"the support {support} depends on other values, which are not known here. Give the "
            "latent a fixed support, for example unit_interval or positive, and shift and scale "
            "it in the log-joint."
        )
    if support.is_discrete and key_of(support) not in _REGISTRY:
        raise TypeError(
            f"the support {support} is discrete, and variational inference here is for "
            "continuous latents. Sum the latent out of the log-joint, for example by "
            "jax.nn.logsumexp over its values (marginalise it)."
        )


def _registered(support: "Constraint | NamedConstraint") -> Transform:
    factory = _REGISTRY.get(key_of(support))
    if factory is None:
        from numpyro.distributions.transforms import biject_to

        try:
            return _as_transform(biject_to(support), f"the support {support}")
        except NotImplementedError:
            raise TypeError(
                f"no transform is known for the support {support}. Register one with "
                f"advi.register_transform({type(support).__name__}), or pass transform=."
            ) from None
    return _as_transform(factory(support), f"the factory registered for {support}")


def _as_transform(candidate: Any, what: str) -> Transform:
    if isinstance(candidate, known_class("numpyro.distributions.transforms.Transform")):
        return NumPyroAdapter(candidate)
    if isinstance(candidate, Transform) and not isinstance(candidate, type):
        return candidate
    missing = [name for name in MEMBERS if not hasattr(candidate, name)]
    hint = ""
    if isinstance(candidate, type) and len(missing) < len(MEMBERS):
        hint = f" Call it: {candidate.__name__}(...)."
    elif len(missing) < len(MEMBERS):
        hint = f" It lacks {', '.join(missing)}, of {', '.join(MEMBERS)}."
    raise TypeError(
        f"{what}: expected an advi Transform or a NumPyro transform, got {describe(candidate)}."
        f"{hint}"
    )


def _with_link(transform: Transform, link: str, support: Any) -> Transform:
    """Return the transform with another map for its positive part."""
    if isinstance(transform, Independent):
        return Independent(_with_link(transform.base, link, support), transform.extra)
    if isinstance(transform, (HalfLine, LowerCholesky, PositiveDefinite)):
        return with_fields(transform, link=link)
    raise ValueError(
        f"transform={link!r} is for supports with a positive part: positive, nonnegative, "
        "greater_than, less_than, lower_cholesky, positive_definite. The support is "
        f"{support}: leave transform out, or pass a Transform."
    )
