"""Draws of a NumPyro model's latents from its prior: further starts of a fit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from advi.model.model import Model
from advi.model.numpyro.density import SiteDensity
from advi.model.numpyro.handlers import KnownValues, WholePlates
from advi.model.numpyro.programs import evaluated
from advi.model.numpyro.sites import UNCONSTRAINED, Site
from advi.model.numpyro.supports import plain, support_of

MEDIAN_OF = 15  # draws, entry by entry
FARTHEST = 20.0  # on the real line, for values at a bound


@dataclass(frozen=True)
class PriorDraws:
    """Points of R^D from a model's prior: its medians first, then draws."""

    log_joint: SiteDensity

    def __call__(self, model: Model, data: Any, first: NDArray, num: int) -> NDArray[np.float64]:
        """Return points (num, D), or none if the prior cannot be drawn from.

        Parameters, which have no prior, are taken from the point `first` (D,).
        """
        try:
            drawn = evaluated(_draws(self.log_joint, model, num), data)
        except NotImplementedError:
            return np.zeros((0, model.size))  # some distribution of NumPyro's has no sampler
        points = np.tile(np.asarray(first, float), (num, 1))
        for name, real in drawn.items():
            flat = np.asarray(real, float).reshape(num, -1)
            flat = np.nan_to_num(flat, nan=0.0, posinf=FARTHEST, neginf=-FARTHEST)
            points[:, slice(*model.spans[name])] = flat
        return points


def _draws(log_joint: SiteDensity, model: Model, num: int) -> Callable[[Any], dict[str, Array]]:
    def one(key: Array, number: Array, data: Any) -> dict[str, Array]:
        sites = _drawn(log_joint, key, number == 0, data)
        found = {}
        for name, latent in model.latents.items():
            if name in sites and sites[name]["type"] == "sample":
                value = model.rows_first(name, sites[name]["value"])
                found[name] = latent.bijection.inverse(value)
        for name in log_joint.dependent:
            to_support = biject_to(support_of(sites[name]["fn"]))
            found[UNCONSTRAINED.format(name)] = to_support.inv(sites[name]["value"])
        return found

    def draws(data: Any) -> dict[str, Array]:
        key, numbers = jax.random.key(0, impl="rbg"), jnp.arange(num)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return jax.vmap(one, (0, 0, None))(keys, numbers, data)

    return draws


def _drawn(log_joint: SiteDensity, key: Array, median: Array, data: Any) -> dict[str, Site]:
    """Run a model with all latents drawn from their prior; return its sites."""

    def draw(site: Site) -> Array | None:
        if site["type"] != "sample" or site["value"] is not None:
            return None
        fn, key = site["fn"], site["kwargs"]["rng_key"]
        shape = (*site["kwargs"]["sample_shape"], *fn.shape())
        if isinstance(plain(fn), dist.ImproperUniform):
            to_support = biject_to(support_of(fn))
            return to_support(jax.random.normal(key, to_support.inverse_shape(shape)))
        draws = fn(rng_key=key, sample_shape=(MEDIAN_OF, *site["kwargs"]["sample_shape"]))
        middle = jnp.median(draws, axis=0) if fn.support.event_dim == 0 else draws[0]
        return jnp.where(median, middle, draws[0])

    with (
        handlers.trace() as sites,
        WholePlates(log_joint.lengths({}, data)),
        handlers.substitute(substitute_fn=draw),
        handlers.seed(rng_seed=key),
        KnownValues(),
    ):
        log_joint.call(data)
    return sites
