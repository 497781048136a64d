"""Random keys as users give them: an integer, a typed JAX key, or a raw `PRNGKey`."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from advi.core.errors import describe


@enum.unique
class Stream(enum.IntEnum):
    """The random streams of a key, one for each use, so that no two share draws.

    Draws that judge a fit, or are taken from it, are none that the fit has used. The plan spawns
    children of its stream, numbered from one up as the streams are: those for a finished fit begin
    beyond them.
    """

    PLAN = 0
    STEPS = 1  # order of the rows and noise of the steps, on the device
    ROW_ENDS = 3  # starts and ELBOs of fits with local latents
    START = 4  # the plan on some rows, where steps on minibatches start
    GAP = 5
    ENDS = 6  # starts, line searches and ELBOs of fits by steps
    GAP_STEPS = 7
    BLAME = 8  # where a log density is not finite
    BEND = 9  # steps of a family that is no Gaussian, after the plan
    MIX = 11  # further searches, and draws of a mixture, after the plan
    CHECK = 101
    CORRECT = 102
    RESPONSE = 103
    REFINE = 104
    LOO = 105
    SAMPLE = 106
    MARGINAL = 107
    PREDICT = 108
    RESPONSE_ELBO = 109
    MODEL_CHECK = 110
    COMPARE = 111
    ROW_SAMPLE = 112  # of fits with local latents
    NUTS = 113  # on the device
    NUTS_START = 114
    COORDINATES = 115  # fits in other coordinates, to be compared
    SHOWN = 116  # values in a plot of many
    SHARE = 117  # draws at which the log density is not finite
    MANY = 118  # the compiled plan of many fits
    SIMULATE = 119  # on the device
    FOLDS = 120
    WEIGHTED = 121  # draws of one of many fits that was made by itself
    RANKS = 122  # weighted draws of one of many fits
    EVAL = 201  # held-out rows
    READ = 202  # batches of a stream that are kept


def is_key(value: Any) -> bool:
    """Return whether a value is one typed JAX key, also where JAX traces it."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not value.ndim and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def key_words(key: Any) -> tuple[int, ...]:
    """Return the words of a key, which seed every random stream of a fit; an integer is one word.

    Keys are non-negative integers, typed keys (`jax.random.key`) and raw ones
    (`jax.random.PRNGKey`); TypeError for anything else.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key >= 0:
        return (int(key),)
    if isinstance(key, Tracer):
        raise TypeError(
            f"key: got {describe(key)}, which JAX traces; expected an integer or a JAX key, "
            "outside of jit, grad and vmap. `sample` of a fit with global latents takes one."
        )
    dtype = getattr(key, "dtype", None)
    if is_key(key):
        return tuple(int(word) for word in jax.device_get(jax.random.key_data(key)).ravel())
    if dtype == np.uint32 and np.ndim(key) == 1:
        return tuple(int(word) for word in jax.device_get(key))
    raise TypeError(
        f"key: got {describe(key)}; expected a non-negative integer or one JAX key. "
        "Write key=0 or key=jax.random.key(0)."
    )


def host_rng(key: Any, stream: Stream) -> np.random.Generator:
    """Return the NumPy generator of one stream of a key."""
    # the plan's is the key's own
    spawn_key = (int(stream),) if stream != Stream.PLAN else ()
    return np.random.default_rng(np.random.SeedSequence(key_words(key), spawn_key=spawn_key))


def device_key(key: Any, stream: Stream) -> Array:
    """Return the typed JAX key of one stream of a key."""
    seed = np.random.SeedSequence(key_words(key), spawn_key=(int(stream),)).generate_state(1)[0]
    with jax.transfer_guard_host_to_device("allow"):  # of the constants beside the seed
        return jax.random.key(jax.device_put(np.uint32(seed)))
