"""The Gaussian where a fit starts: at zero, at initial values of latents, or at the user's."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.arrays import on_host, real_numbers
from advi.core.errors import describe, format_value, unknown
from advi.core.jax_config import compiled
from advi.model.model import Model
from advi.posterior.record import FitRecord, optima_of
from advi.transforms import Transform
from advi.variational.gaussian import Gaussian

FIRST_SD = 1.0


def initial(model: Model, init: Any) -> tuple[Gaussian, bool]:
    """Return the Gaussian to start from, and whether `init` is a fit.

    Otherwise `init` is None or a dict from latent names to constrained values.
    """
    if isinstance(init, FitRecord):
        check_same_latents(model, init)
        return optima_of(init)[0].positive(), True
    if init is not None and not isinstance(init, Mapping):
        raise TypeError(
            f"init: got {describe(init)}; expected a Fit, or a dict from latent names to "
            "constrained values."
        )
    given = {name: v.init for name, v in model.latents.items() if v.init is not None}
    given |= model.named(dict(init)) if init else {}
    loc = np.zeros(model.size)
    for name, value in given.items():
        if name not in model.latents:
            raise ValueError(unknown("latent", name, model.latents))
        latent, span = model.latents[name], slice(*model.spans[name])
        value = on_host(real_numbers(f"init[{name!r}]", value), float)
        if value.shape != latent.shape:
            raise ValueError(
                f"init[{name!r}]: got {describe(value)}; expected shape {latent.shape}."
            )
        inside = bool(np.all(latent.support(value)))  # of NumPy arrays: no compilation
        if inside:
            coordinates = _inverse(latent.bijection)(value.astype(jnp.result_type(float)))
            loc[span] = jax.device_get(coordinates).astype(float).ravel()
        if not inside or not np.all(np.isfinite(loc[span])):
            raise ValueError(
                f"init[{name!r}]: got {format_value(value)}; expected a value inside the support "
                f"{latent.support}."
            )
    return Gaussian.diagonal(loc, FIRST_SD), False


@lru_cache(maxsize=64)
def _inverse(bijection: Transform) -> Any:
    return compiled(bijection.inverse)


def check_same_latents(model: Model, fit: FitRecord) -> None:
    """Raise ValueError unless a fit and a model have the same latents."""
    shapes = {name: latent.shape for name, latent in model.latents.items()}
    got = {name: latent.shape for name, latent in fit.posterior.model.latents.items()}
    if got != shapes:
        raise ValueError(
            f"init: got a fit of latents {got}; expected a fit of the same latents, {shapes}."
        )
