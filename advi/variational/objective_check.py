"""Checks of an objective of the user's own: its settings, and what its value is."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core.errors import describe
from advi.variational.objective import Objective, check_draws

SIGNATURE = "value(self, log_p, guide, params, eps, scale=1.0, step=0)"


def check_objective(objective: Any) -> None:
    """Raise TypeError or ValueError unless something is an objective, by its members."""
    if isinstance(objective, type):  # which has the members, too
        name = objective.__name__
        raise TypeError(f"objective: got the class {name}; call it: {name}(...).")
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective: got {describe(objective)}; expected advi.Elbo(...), advi.Iwae(...), or an "
            "instance of your subclass of advi.Objective."
        )
    name = type(objective).__name__
    try:
        hash(objective)
    except TypeError:
        raise TypeError(
            f"objective: got {name}, which has no hash; expected a frozen dataclass of hashable "
            f"settings, numbers and tuples in place of arrays and lists: "
            f"@dataclass(frozen=True) above class {name}."
        ) from None
    if objective.draws is not None:
        check_draws(f"objective: {name}", objective.draws)
    try:
        inspect.signature(objective.value).bind(*[None] * 6)
    except TypeError as error:
        raise TypeError(
            f"objective: {name}.value does not take its arguments: {error}; expected {SIGNATURE}, "
            "which returns a scalar, nats."
        ) from None


def bound(objective: Objective, *arguments: Any) -> Array:
    """Return the value of an objective, or raise TypeError unless that is a real scalar."""
    value: Any = objective.value(*arguments)
    number = isinstance(value, (int, float, np.ndarray, np.number, jax.Array))
    kind = jnp.result_type(value) if number else np.dtype(object)
    real = jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    if not real or np.shape(value) != ():
        raise TypeError(
            f"objective: {type(objective).__name__}.value returned {describe(value)}; expected a "
            "real scalar, the mean of the bound over the draws eps, in nats."
        )
    if isinstance(value, jax.Array) and jnp.issubdtype(kind, jnp.floating):
        return value
    return jnp.asarray(value, arguments[3].dtype)
