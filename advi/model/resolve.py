"""Models whose latents are known only once there is data: resolved here, and nowhere else."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.core import Tracer

from advi.core.errors import describe
from advi.data.arrays import DataSpec
from advi.model.model import Model
from advi.model.trace import of_fit


@runtime_checkable
class Deferred(Protocol):
    """What stands for a model until there is data, such as a NumPyro model.

    It compares by what it was made from, so that compiled code is found again.
    """

    def bind(self, data: Any, spec: DataSpec) -> Model:
        """Return the model for data of these shapes."""
        ...


def bound(model: Model | Deferred, data: Any, spec: DataSpec) -> Model:
    """Return the model, or what a deferred model is for the data, for a fit of its own.

    What its functions read from outside is read anew, and stays as it is for what has this model.
    """
    if isinstance(model, Model):
        return of_fit(model, spec.float_dtype, {})
    made = model.bind(data, spec)
    return of_fit(made, spec.float_dtype, made.traces)


def check_model(model: Any) -> None:
    """Raise TypeError unless something is a model."""
    if isinstance(model, type) or not isinstance(model, (Model, Deferred)):
        raise TypeError(
            f"model: got {describe(model)}; expected an advi.Model. Write "
            "advi.Model(log_joint, latents), or advi.from_numpyro(model) for a NumPyro model."
        )


def check_on_host(*values: Any) -> None:
    """Raise TypeError inside of a JAX transformation, of which a fit cannot be a part.

    Parameters
    ----------
    *values
        Trees of what was given.
    """
    try:
        leaves = jax.tree.leaves(values, is_leaf=lambda node: isinstance(node, Iterator))
    except ValueError:  # names that JAX cannot sort, which are refused where data are taken
        leaves = []
    inside = any(isinstance(leaf, Tracer) for leaf in leaves)
    # inside of jax.jit a constant is traced as well
    if inside or isinstance(jax.device_put(np.zeros((), np.float32)), Tracer):
        raise TypeError(
            "fit runs on the host: call it outside jit, grad and vmap, whose values JAX traces; "
            "expected numbers and arrays."
        )
