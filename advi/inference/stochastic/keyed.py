"""Optimisers that compare by what they do, so that one written in the call finds its programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advi.core.jax_config import mixed_dtypes
from advi.core.jaxprs.traced import traced
from advi.variational.guide import Guide


class Keyed:
    """A function that is equal to another if their keys are."""

    def __init__(self, function: Any, key: Any) -> None:
        self.function, self.key = function, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's value."""
        return self.function(*args, **kwargs)


def keyed(
    optimizer: optax.GradientTransformation, guide: Guide, float_dtype: str
) -> optax.GradientTransformation:
    """Return an optimiser that is equal to all that do the same with the parameters of a guide.

    Optax makes its functions anew at every call, so that two equal ones have nothing in common but
    their traces; and a schedule may read what has changed.
    """

    def both(params: Any) -> Any:
        def value_fn(p: Any) -> Any:
            return sum((leaf.sum() for leaf in jax.tree.leaves(p)), start=jnp.zeros(()))

        state = optimizer.init(params)
        update = optax.with_extra_args_support(optimizer).update
        return state, update(
            params, state, params, value=jnp.zeros(()), grad=params, value_fn=value_fn
        )

    size = guide.model.size
    params = guide.params_of((np.zeros(size), np.ones(size)), np.dtype(float_dtype))
    with mixed_dtypes():
        flat, out = traced(both, params)
    key = flat, jax.tree.structure(out)
    return optimizer._replace(
        init=Keyed(optimizer.init, (*key, "init")),  # type: ignore[arg-type]
        update=Keyed(optimizer.update, (*key, "update")),  # type: ignore[arg-type]
    )
