"""JAX's switches: the float type of a computation, and the settings of the engine's programs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.errors import describe

TRANSFERS = ("host_to_device", "device_to_host", "device_to_device")


def precision(float_dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which arrays have this float type; no global setting is touched.

    JAX's search for NaN and infinity is off in it: a fit expects such values, avoids these points
    and reports them itself. So is JAX's guard of transfers: the engine's are all intended, and
    declaring each costs more than a call of a small density.
    """
    wide, config = float_dtype == "float64", jax.config
    guards = (getattr(config, f"jax_transfer_guard_{way}") for way in TRANSFERS)
    watched = config.jax_debug_nans or config.jax_debug_infs  # type: ignore[attr-defined]
    if config.jax_enable_x64 == wide and not watched and not any(g != "allow" for g in guards if g):  # type: ignore[attr-defined]
        return contextlib.nullcontext()
    return _switched(wide)


@contextlib.contextmanager
def _switched(wide: bool) -> Iterator[None]:
    with (
        jax.enable_x64(wide),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield


def default_float(x64: bool | None) -> str:
    """Return the float type of a fit: float64 if asked for, or if JAX has it switched on."""
    if x64 is not None and not isinstance(x64, (bool, np.bool_)):
        raise TypeError(f"x64: got {describe(x64)}; expected True, False or None.")
    wide = bool(jax.config.jax_enable_x64) if x64 is None else x64  # type: ignore[attr-defined]
    return jnp.dtype(jnp.float64 if wide else jnp.float32).name


def mixed_dtypes() -> contextlib.AbstractContextManager[Any]:
    """Return the context of JAX's default promotion of dtypes, which Optax's arithmetic needs."""
    return jax.numpy_dtype_promotion("standard")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function of arrays on the host or on the device, or of numbers.

    It works under ``jax_transfer_guard="disallow"``. Its results are on the device, to be fetched
    by `jax.device_get`.

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
            return program(*arguments)  # an explicit transfer takes four times as long
        return program(*jax.device_put(arguments))

    return call
