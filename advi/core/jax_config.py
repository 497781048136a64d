"""What the engine's own programs need whatever switches of JAX are on."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax


def mixed_dtypes() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which dtypes are promoted by JAX's default rules.

    Optax's own arithmetic, of counts of steps and rates, raises an error under strict ones.
    """
    return jax.numpy_dtype_promotion("standard")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function of arrays on the host or on the device, or of numbers.

    Under ``jax_transfer_guard="disallow"`` JAX moves nothing by itself. What comes back is on the
    device, to be fetched by `jax.device_get`.

    Examples
    --------
    >>> import numpy as np
    >>> with jax.transfer_guard("disallow"):
    ...     float(jax.device_get(compiled(lambda x: 2 * x)(np.float32(3))))
    6.0
    """
    program = jax.jit(function)

    def call(*arguments: Any) -> Any:
        if jax.config.jax_transfer_guard_host_to_device in (None, "allow"):  # type: ignore[attr-defined]
            return program(*arguments)  # to move them in so many words takes four times as long
        return program(*jax.device_put(arguments))

    return call
