"""The inputs of a loop of `jax.lax.scan`, by their shapes: names of its settings change in JAX."""

from collections.abc import Sequence
from typing import Any


def carried(eqn: Any) -> range:
    """Return which inputs of a loop are carried from step to step.

    Constants of the loop come before them, and arrays of which a step takes an entry after.
    """
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])

    def num_stacked(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        return sum(a.aval.shape != b.aval.shape for a, b in zip(outer, inner, strict=True))

    stop = len(eqn.invars) - num_stacked(eqn.invars, body.invars)
    return range(stop - len(eqn.outvars) + num_stacked(eqn.outvars, body.outvars), stop)
