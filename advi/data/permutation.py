"""Random permutations of any length, computed entry by entry."""

import math

import jax
import jax.numpy as jnp
from jax import Array

FEISTEL_ROUNDS = 8


def shuffled(index: Array, num: int, key: Array) -> Array:
    """Return entries (B,), by their index (B,), of a random permutation of 0 .. num - 1 (< 2^31).

    A Feistel network on the pairs of a rectangle that holds `num` entries and little more, applied
    again until the result is below `num`: a bijection whose entries cost the same whatever `num`
    is, where sorting all rows would cost more than the steps of an epoch. Every row is equally
    likely at every index; of a handful of rows not quite all orders are.

    References
    ----------
    Black & Rogaway (2002), Ciphers with Arbitrary Finite Domains, methods 2 and 3.

    Examples
    --------
    >>> sorted(shuffled(jnp.arange(5), 5, jax.random.key(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    height = math.isqrt(num - 1) + 1
    width = -(-num // height)
    round_keys = jax.random.bits(key, (FEISTEL_ROUNDS,), jnp.uint32)

    def permute(x: Array) -> Array:
        up, along = x // width, x % width
        for up_key, along_key in round_keys.reshape(-1, 2):
            up = _rotated(up, height, along ^ up_key)
            along = _rotated(along, width, up ^ along_key)
        return up * width + along

    # the first round is one of the loop, so that it is compiled once
    def walk(walked: tuple[Array, Array]) -> tuple[Array, Array]:
        x, beyond = walked
        x = jnp.where(beyond, permute(x), x)
        return x, x >= num

    start = index.astype(jnp.uint32), jnp.ones(index.shape, bool)
    walked, _ = jax.lax.while_loop(lambda walked: jnp.any(walked[1]), walk, start)
    return walked.astype(jnp.int32)


def _rotated(x: Array, size: int, by: Array) -> Array:
    """Return x, below `size`, shifted cyclically in 0 .. size - 1 by a hash of `by`."""
    # the upper half of the hash as a fraction of `size`: a product of 16 bits each, no division
    moved = x + (((_mixed(by) >> 16) * jnp.uint32(size)) >> 16)
    return jnp.where(moved >= size, moved - size, moved)


def _mixed(x: Array) -> Array:
    """Return 32 bits that each depend on all bits of x (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
