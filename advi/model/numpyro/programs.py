"""Compiled functions of a NumPyro model, which are traced anew whenever they are asked for."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from advi.core.jax_config import compiled
from advi.core.jaxprs.traced import Traced, traced


def evaluated(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function gives for pytrees of arrays, on the host.

    What the model reads from outside is as it is now; where the trace is equal to an earlier one,
    so is the program.
    """
    flat, shape = traced(function, *args)
    leaves = _program(flat)(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), jax.device_get(leaves))


@lru_cache(maxsize=16)
def _program(flat: Traced) -> Callable[..., Any]:
    return compiled(flat)
