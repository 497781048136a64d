"""Checks of arguments that `fit` and `svi` share."""

import inspect
from typing import Any

from advi.core.errors import describe
from advi.core.lazy import known_class
from advi.variational.objective_check import check_objective


def check_arguments(objective: Any, optimizer: Any, callback: Any) -> None:
    """Raise TypeError or ValueError for a wrong objective, optimiser or callback."""
    if objective is not None:
        check_objective(objective)
    known = known_class("optax.GradientTransformation")
    if optimizer is not None and not isinstance(optimizer, known):
        raise TypeError(
            f"optimizer: got {describe(optimizer)}; expected an Optax optimiser such as "
            "optax.adam(1e-2), or None."
        )
    if callback is not None and not _takes_one(callback):
        raise TypeError(
            f"callback: got {describe(callback)}; expected a function of one argument, a Progress."
        )


def _takes_one(function: Any) -> bool:
    """Return whether a callable accepts one argument, by its signature."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass  # a built-in without a signature
    return True
