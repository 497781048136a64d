"""The log density on R^D as a function of a point and data, and its compiled programs."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import jax
from jax import Array

from advi.model.model import Model
from advi.model.one_by_one import in_turn
from advi.model.terms import Terms
from advi.model.trace import LogJoint

Quantity = Literal[
    "value", "value_and_grad", "gradients_in_turn", "hessian_vector", "hessian_products"
]


def real_log_density(model: Model, log_joint: LogJoint, estimated: frozenset[str]) -> Any:
    """Return the function (real values by latent, data) -> `Terms` of the log density on R^D.

    The log-Jacobian of every latent's transform is added to the shared term, of a local latent to
    its rows, except for latents that are `estimated` as a point: a maximum is taken on the
    constrained scale.
    """

    def function(real: dict[str, Array], data: Any) -> Terms:
        values, log_dets = model.constrain(real)
        shared, rows, prior = log_joint(values, data)
        inferred = {name: v for name, v in log_dets.items() if name not in estimated}
        shared += sum(v for name, v in inferred.items() if name not in model.local)
        of_rows = sum(v for name, v in inferred.items() if name in model.local)
        if prior is None:
            return Terms(shared, rows + of_rows)
        return Terms(shared, rows, prior + of_rows)

    return function


@lru_cache(maxsize=64)
def compiled_density(
    model: Model, log_joint: LogJoint, estimated: frozenset[str], scale: Any, quantity: Quantity
) -> Callable[..., Any]:
    """Return the compiled function of points (n, D), further arrays (n, D) and data.

    That of gradients in turn takes the number of points as well, before the data. `scale` is the
    factor of the rows; None: the data come with their weights (N,), and those of a block of the
    rows with its share of the shared terms as well.
    """
    log_p = real_log_density(model, log_joint, estimated)

    def value(x: Array, data: Any) -> Array:
        if scale is not None:
            return log_p(model.split(x), data).total(scale)
        data, weights, *share = data
        terms = log_p(model.split(x), data)
        return terms.of_block(weights, *share) if share else terms.weighted(weights)

    def hessian_vector(x: Array, direction: Array, data: Any) -> Array:
        if "custom_vjp_call" in log_joint.flat.primitives:  # which has no forward derivative
            return jax.grad(lambda point: jax.grad(value)(point, data) @ direction)(x)
        return jax.jvp(lambda point: jax.grad(value)(point, data), (x,), (direction,))[1]

    if quantity == "hessian_vector":
        return jax.jit(jax.vmap(hessian_vector, in_axes=(0, 0, None)))
    if quantity == "hessian_products":
        return jax.jit(jax.vmap(hessian_vector, in_axes=(None, 0, None)))
    if quantity == "gradients_in_turn":
        return in_turn(jax.value_and_grad(value))
    one = jax.value_and_grad(value) if quantity == "value_and_grad" else value
    return jax.jit(jax.vmap(one, in_axes=(0, None)))
