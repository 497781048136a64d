"""Keys for the random numbers of steps, by a generator of XLA's that compiles in little time.

JAX's own keys have Threefry written out in operations, which takes XLA longer to compile than a
step of a small model. Here XLA makes the same kind of numbers (Salmon et al. 2011) by one
operation. They do not depend on the device, and under ``jax.vmap`` every key has its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap
from jax.extend.random import define_prng_impl

from advi.core.keys import Stream, host_rng

# JAX gives a batch of keys the numbers of the first; this takes one key after the other
ALGORITHM = jax.lax.RandomAlgorithm.RNG_THREE_FRY


def step_key(key: Any) -> Array:
    """Return the key of the order of the rows and the draws of steps; nothing is compiled."""
    words = host_rng(key, Stream.STEPS).integers(2**32, size=2, dtype=np.uint32)
    return jax.random.wrap_key_data(jax.device_put(words), impl=IMPLEMENTATION)


def as_step_key(key: Array) -> Array:
    """Return the key for steps of a typed key of any kind, which JAX may trace."""
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl=IMPLEMENTATION)


def _numbers(words: Array, start: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Return the numbers of a key, words (2,), from a 64-bit place (2,) in its sequence."""

    @sequential_vmap
    def numbers(words: Array, start: Array) -> Array:
        state = jnp.concatenate([words, start])
        kind: Any = np.dtype(dtype)
        return jax.lax.rng_bit_generator(state, shape, kind, algorithm=ALGORITHM)[1]

    return numbers(words, start)


def _random_bits(words: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    return _numbers(words, jnp.zeros(2, jnp.uint32), shape, f"uint{bit_width}")


def _split(words: Array, shape: tuple[int, ...]) -> Array:
    return _numbers(words, jnp.zeros(2, jnp.uint32), (*shape, 2), "uint32")


def _fold_in(words: Array, number: Any) -> Array:
    start = jnp.stack([jnp.zeros((), jnp.uint32), number.astype(jnp.uint32)])
    return _numbers(words, start, (2,), "uint32")


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


IMPLEMENTATION = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="advi_steps",
    tag="advi",
)
