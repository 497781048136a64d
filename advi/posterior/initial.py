"""Where a fit starts: at zeros, at the latents' own initial values, or at what the user gives."""

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
from advi.posterior.record import FitRecord
from advi.transforms import Transform
from advi.variational.gaussian import Gaussian

FIRST_SD = 1.0


def initial(model: Model, init: Any) -> tuple[Gaussian, bool]:
    """Return the Gaussian to start from, and whether it is a fit to go on from.

    Parameters
    ----------
    model
        The model.
    init
        The record of a fit, a dict from latent names to constrained values, or None.

    Raises
    ------
    TypeError
        If `init` is something else.
    ValueError
        If a latent is unknown, a value has the wrong shape or lies outside the support, or the
        fit is of other latents.
    """
    if isinstance(init, FitRecord):
        return _from_fit(model, init), True
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
        if not np.all(latent.support(value)):  # NumPyro's constraints take NumPy: no compilation
            raise ValueError(
                f"init[{name!r}]: got {format_value(value)}; expected a value inside the support "
                f"{latent.support}."
            )
        coordinates = _inverse(latent.bijection)(value.astype(jnp.result_type(float)))
        loc[span] = jax.device_get(coordinates).astype(float).ravel()
        if not np.all(np.isfinite(loc[span])):
            raise ValueError(
                f"init[{name!r}]: got {format_value(value)}; expected a value inside the support "
                f"{latent.support}."
            )
    return Gaussian.diagonal(loc, FIRST_SD), False


@lru_cache(maxsize=64)
def _inverse(bijection: Transform) -> Any:
    return compiled(bijection.inverse)


def _from_fit(model: Model, fit: FitRecord) -> Gaussian:
    check_same_latents(model, fit)
    return fit.posterior.gaussian.positive()


def check_same_latents(model: Model, fit: FitRecord) -> None:
    """Raise ValueError unless a fit has the latents of a model."""
    shapes = {name: latent.shape for name, latent in model.latents.items()}
    got = {name: latent.shape for name, latent in fit.posterior.model.latents.items()}
    if got != shapes:
        raise ValueError(
            f"init: got a fit of latents {got}; expected a fit of the same latents, {shapes}."
        )
