"""Entries of latents that a mask takes out of the density, and what becomes of them.

NumPyro masks a latent's own density away entry by entry: with `handlers.mask`, `Distribution.mask`
and, as a standard way of writing missing outcomes, with `obs_mask`, which makes a latent
"y_unobserved" of all rows, masked where the outcome is observed. An entry that is masked away, and
that nothing else depends on, is flat: it has no posterior. Such an entry is given a density of
integral one that depends on nothing, the standard normal on its real coordinates, so that the
posterior of everything else, and the evidence, are those of the model without it.

What `obs_mask` makes a latent of, and nothing else depends on, is no unknown at all: it is drawn
from its distribution given the others, as a prediction is.
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

UNOBSERVED, OBSERVED = "_unobserved", "_observed"  # what NumPyro appends to a site with obs_mask


def is_masked(fn: Distribution) -> bool:
    """Return whether a mask may take entries out of a distribution's log density."""
    return mask_of(fn)[0] is not True


def is_imputed(name: str, sites: Mapping[str, Any]) -> bool:
    """Return whether a site is what NumPyro makes for the missing values of one with `obs_mask`."""
    of = name.removesuffix(UNOBSERVED)
    observed, both = sites.get(of + OBSERVED), sites.get(of)
    return (
        name != of
        and observed is not None
        and observed["is_observed"]
        and both is not None
        and both["type"] == "deterministic"
    )


def mask_of(fn: Distribution) -> tuple[Any, int]:
    """Return which entries count in a distribution's log density.

    Returns
    -------
    mask
        Booleans that broadcast to the batch shape followed by the inner axes; True for all.
    inner : int
        Event axes of the distribution that a mask goes over one by one.
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

    Where a transform is not one to one it is that of the uniform distribution. The last `inner`
    event axes are not summed over.
    """
    for _ in range(inner):
        if not isinstance(transform, Independent):
            break
        transform = (
            transform.base
            if transform.extra == 1
            else Independent(transform.base, transform.extra - 1)
        )
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
