"""Entries of latents that a mask takes out of the density.

NumPyro masks a latent's own density entry by entry: with `handlers.mask`, `Distribution.mask`, and
`obs_mask`, which for missing outcomes makes a latent "y_unobserved" of all rows, masked where the
outcome is observed. A masked entry that nothing else depends on is flat: it has no posterior. It is
given a density of integral one that depends on nothing, the standard normal on its real
coordinates, which leaves the posterior of everything else, and the evidence, unchanged.

A latent of an `obs_mask` that nothing else depends on is not fitted: it is drawn from its
distribution given the others, as a prediction.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import distributions as dist
from numpyro.distributions import Distribution
from numpyro.distributions.distribution import ExpandedDistribution, MaskedDistribution

from advi.transforms import Independent, Transform, log_volume

UNOBSERVED, OBSERVED = "_unobserved", "_observed"  # NumPyro's suffixes of sites with obs_mask


def is_masked(fn: Distribution) -> bool:
    """Return whether a mask may take entries out of a distribution's log density."""
    return mask_of(fn)[0] is not True


def is_imputed(name: str, sites: Mapping[str, Any]) -> bool:
    """Return whether NumPyro made a site for the missing values of one with `obs_mask`."""
    of = name.removesuffix(UNOBSERVED)
    if name == of or of not in sites or of + OBSERVED not in sites:
        return False
    return sites[of + OBSERVED]["is_observed"] and sites[of]["type"] == "deterministic"


def mask_of(fn: Distribution) -> tuple[Any, int]:
    """Return the mask of a distribution's log density, and the event axes that it masks one by one.

    The mask broadcasts to the batch shape followed by these inner axes; True if all entries count.
    """
    if isinstance(fn, dist.Independent):
        mask, inner = mask_of(fn.base_dist)
        return mask, (inner + fn.reinterpreted_batch_ndims if mask is not True else 0)
    if isinstance(fn, ExpandedDistribution):
        mask, inner = mask_of(fn.base_dist)
        if np.ndim(mask):
            shape = np.shape(mask)
            mask = jnp.broadcast_to(mask, (*fn.batch_shape, *shape[len(shape) - inner :]))
        return mask, inner
    if isinstance(fn, MaskedDistribution):
        mask, inner = mask_of(fn.base_dist)
        own: Any = fn._mask if isinstance(fn._mask, bool) else jnp.asarray(fn._mask)
        if own is True:
            return mask, inner
        if np.ndim(own):
            own = own.reshape(*own.shape, *[1] * inner)
        return (own if mask is True else jnp.logical_and(own, mask)), inner
    return True, 0


def unit_log_prob(transform: Transform, inner: int, value: Array) -> Array:
    """Return the log density of the standard normal on a transform's real coordinates, in nats.

    For a transform that is not one to one it is that of the uniform distribution. The last `inner`
    event axes are not summed over.
    """
    for _ in range(inner):
        if not isinstance(transform, Independent):
            break
        base, extra = transform.base, transform.extra - 1
        transform = Independent(base, extra) if extra else base
    if not transform.bijective:
        event = value.shape[value.ndim - transform.event_dim :]
        batch = value.shape[: value.ndim - transform.event_dim]
        return jnp.full(batch, -log_volume(transform, event), value.dtype)
    x = transform.inverse(value)
    log_det = transform.forward(x)[1]
    return normal_log_prob(x, log_det.ndim) - log_det


def normal_log_prob(x: Array, batch: int) -> Array:
    """Return the standard normal's log density, summed over all but the first `batch` axes."""
    return jnp.sum(-0.5 * x**2 - 0.5 * math.log(2 * math.pi), tuple(range(batch, x.ndim)))
