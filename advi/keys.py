"""Random keys as users give them: an integer, a typed JAX key, or a raw `PRNGKey`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.errors import describe


def key_words(key: Any) -> tuple[int, ...]:
    """Return the words of a key, from which every random stream of a fit is seeded.

    Parameters
    ----------
    key
        A non-negative integer, a typed key (`jax.random.key`) or raw key data
        (`jax.random.PRNGKey`).

    Returns
    -------
    tuple of int
        One word for an integer, the key's own words otherwise.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> key_words(3)
    (3,)
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key >= 0:
        return (int(key),)
    dtype = getattr(key, "dtype", None)
    if dtype is not None and np.shape(key) == () and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return tuple(int(word) for word in jax.device_get(jax.random.key_data(key)).ravel())
    if dtype == np.uint32 and np.ndim(key) == 1:
        return tuple(int(word) for word in jax.device_get(key))
    raise TypeError(
        f"key: got {describe(key)}; expected a non-negative integer or one JAX key. "
        "Write key=0 or key=jax.random.key(0)."
    )


def host_rng(key: Any, *stream: int) -> np.random.Generator:
    """Return the NumPy generator of one stream of a key."""
    return np.random.default_rng(np.random.SeedSequence(key_words(key), spawn_key=stream))


def device_key(key: Any, stream: int) -> Array:
    """Return the typed JAX key of one stream of a key."""
    seed = np.random.SeedSequence(key_words(key), spawn_key=(stream,)).generate_state(1)[0]
    with jax.transfer_guard_host_to_device("allow"):  # of the seed, and the constants beside it
        return jax.random.key(int(seed))
