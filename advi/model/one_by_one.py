"""Gradients at several points in turn, where a batch of them would take longer.

The gradient of latents that are read by an index, such as the effects of groups, is a scatter. On a
processor XLA takes three to eight times as long for a batch of scatters as for one after another.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from advi.model.trace import LogJoint

MANY_LATENTS = 512  # coordinates, above which a scatter is costly
# Entries of matrix products for each entry that is read by an index, beyond which a batch is faster
# all the same: it reads a matrix once for all points.
PRODUCTS = 16
PRODUCT = ("dot_general", "conv_general_dilated")


def is_faster_in_turn(log_joint: LogJoint, dim: int) -> bool:
    """Return whether gradients at several points (dim,) are faster one after another."""
    flat = log_joint.flat
    if dim <= MANY_LATENTS or {"scan", "while"} & flat.primitives:
        return False
    return flat.cost_of(*PRODUCT) <= PRODUCTS * flat.cost_of("gather") and _on_processor()


def _on_processor() -> bool:
    return jax.devices()[0].platform == "cpu"


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the compiled function of points (n, D), their number up to n, and data.

    `function` maps a point and data to a tree of arrays. Results of further points are zero.
    """

    def call(X: Array, num: Array, data: Any) -> Any:
        shapes = jax.eval_shape(function, X[0], data)
        found = jax.tree.map(lambda s: jnp.zeros((len(X), *s.shape), s.dtype), shapes)

        def body(k: Array, found: Any) -> Any:
            of_point = function(X[k], data)
            return jax.tree.map(lambda all_, one: all_.at[k].set(one), found, of_point)

        return jax.lax.fori_loop(0, num, body, found)

    return jax.jit(call)
