"""Compiled functions of a NumPyro model, traced at every call."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from advi.core.jax_config import compiled
from advi.core.jaxprs.traced import traced

_program = lru_cache(maxsize=16)(compiled)


def evaluated(function: Callable[..., Any], *args: Any) -> Any:
    """Return the value of a function of pytrees of arrays, on the host.

    It is traced at each call, as the closure of the model may change; equal traces share a program.
    """
    flat, shape = traced(function, *args)
    leaves = _program(flat)(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), jax.device_get(leaves))
