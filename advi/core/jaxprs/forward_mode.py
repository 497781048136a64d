"""Derivatives by forward mode alone, of functions that have none in reverse."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree


def by_forward_mode(
    function: Callable[..., Sequence[Array]],
) -> Callable[[list[Array], list[Array]], tuple[Array, ...]]:
    """Return the function (values, others) whose derivatives by values are those of forward mode.

    Loops that run until a condition holds have no reverse mode. Here each derivative is a product
    with the Jacobian, of as many forward derivatives as there are entries in the values, so that
    all of `jax.grad`, `jax.jvp` and `jax.jvp` of `jax.grad` exist.

    Examples
    --------
    >>> def root(x):  # by Newton steps, until they end
    ...     ended = lambda y: abs(y * y - x) > 1e-6
    ...     return (jax.lax.while_loop(ended, lambda y: (y + x / y) / 2, x),)
    >>> round(float(jax.grad(lambda x: by_forward_mode(root)([x], [])[0])(4.0)), 4)
    0.25
    """

    @jax.custom_jvp
    def called(values: list[Array], others: list[Array]) -> tuple[Array, ...]:
        return tuple(function(*values, *others))

    @called.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
        values, others = primals
        flat, unravel = ravel_pytree(values)
        direction, _ = ravel_pytree(tangents[0])

        def at(x: Array) -> tuple[Array, ...]:
            return tuple(function(*unravel(x), *others))

        axes = jnp.eye(flat.size, dtype=flat.dtype)
        push = jax.vmap(lambda axis: jax.jvp(at, (flat,), (axis,)), out_axes=(None, -1))
        out, jacobians = push(axes)
        return out, tuple(jacobian @ direction for jacobian in jacobians)

    return called
