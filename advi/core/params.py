"""The parameters of a network: arrays of floats, which a gradient can change."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advi.core.arrays import numbers
from advi.core.errors import describe

STATE = "batch_stats"  # where Flax keeps the running averages of batch normalisation
NO_STATE = (
    "State such as that of batch normalisation is not supported: use layers without it, or close "
    "over its running averages as constants."
)


def check_params(what: str, params: Any) -> None:
    """Raise TypeError unless all leaves of a pytree are floats; `what` names it in the message."""
    if isinstance(params, Mapping) and STATE in params:
        raise TypeError(f"{what}: got state, {STATE!r}; expected the parameters alone. {NO_STATE}")
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        where = f"{what}, {jax.tree_util.keystr(path, simple=True, separator='.') or 'params'}"
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{where}: got {describe(leaf)}; expected arrays of floats. Give these "
                "alone, in Equinox by equinox.partition(network, equinox.is_inexact_array), and "
                f"close over the rest. {NO_STATE}"
            )
        numbers(where, leaf)
