"""The Gaussian where a fit starts: at zero, at initial values of latents, or at the user's."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from advi.core.arrays import on_host, real_numbers
from advi.core.errors import describe, format_value, unknown
from advi.core.jax_config import compiled
from advi.core.types import Floats
from advi.model.latents import Latent
from advi.model.model import Model
from advi.posterior.record import FitRecord, optima_of
from advi.transforms import Transform
from advi.variational.gaussian import Gaussian
from advi.variational.joined_scale import joined
from advi.variational.scale import DiagonalScale

FIRST_SD = 1.0


def initial(model: Model, init: Any) -> tuple[Gaussian, bool]:
    """Return the Gaussian to start from, and whether `init` is a fit.

    Otherwise `init` is None or a dict from latent names to constrained values.
    """
    if isinstance(init, FitRecord):
        check_same_latents(model, init)
        return known_optima(model, init)[0].positive(), True
    if init is not None and not isinstance(init, Mapping):
        raise TypeError(
            f"init: got {describe(init)}; expected a Fit, or a dict from latent names to "
            "constrained values."
        )
    given = {name: v.init for name, v in model.latents.items() if v.init is not None}
    given |= model.named(dict(init)) if init else {}
    loc, held = np.zeros(model.size), model.held
    for name, value in given.items():
        if name not in model.latents:
            raise ValueError(unknown("latent", name, model.latents))
        if name in held:
            raise ValueError(
                f"init[{name!r}]: the latent is held at a value by advi.Fixed; expected values of "
                "other latents."
            )
        latent, span = model.latents[name], slice(*model.spans[name])
        value = on_host(real_numbers(f"init[{name!r}]", value), float)
        if value.shape != model.shapes[name]:
            raise ValueError(
                f"init[{name!r}]: got {describe(value)}; expected shape {model.shapes[name]}."
            )
        value = model.rows_first(name, value)
        inside = bool(np.all(latent.constraint(value)))  # of NumPy arrays: no compilation
        if inside:
            loc[span] = _coordinates(latent, value)
        if not inside or not np.all(np.isfinite(loc[span])):
            raise ValueError(
                f"init[{name!r}]: got {format_value(value)}; expected a value inside the support "
                f"{latent.constraint}."
            )
    return Gaussian.diagonal(loc, FIRST_SD), False


def known_optima(model: Model, fit: FitRecord) -> list[Gaussian]:
    """Return the Gaussians at the optima of a fit, in the coordinates of a model.

    Latents that the model holds leave them; those that the fit has held start at their values.
    """
    other, optima = fit.posterior.model, optima_of(fit)
    if set(model.held) == set(other.held):
        return optima
    loc, apart = np.zeros(model.size), np.ones(model.size, bool)
    kept: list[NDArray[Any]] = []
    for name, latent in model.latents.items():
        span = np.arange(*model.spans[name])
        if latent.size and name in other.held:
            value = np.broadcast_to(other.held[name], latent.shape)
            loc[span] = _coordinates(latent, value)
        elif latent.size:
            kept.append(np.arange(*other.spans[name]))
            apart[span] = False
    index = np.concatenate([*kept, np.arange(0)])
    here, new = np.flatnonzero(~apart), np.flatnonzero(apart)
    found = []
    for q in optima:
        loc[here] = q.loc[index]
        first = DiagonalScale(np.full(len(new), FIRST_SD))
        scales = [(here, q.scale.take(index)), (new, first)]
        indices, parts = zip(*(pair for pair in scales if len(pair[0])), strict=True)
        found.append(Gaussian(loc.copy(), joined(model.size, indices, parts)))
    return found


def _coordinates(latent: Latent, value: NDArray[Any]) -> Floats:
    """Return the flat coordinates of a value of a latent."""
    found = _inverse(latent.bijection)(value.astype(jnp.result_type(float)))
    return jax.device_get(found).astype(float).ravel()


@lru_cache(maxsize=64)
def _inverse(bijection: Transform) -> Any:
    return compiled(bijection.inverse)


def check_same_latents(model: Model, fit: FitRecord) -> None:
    """Raise ValueError unless a fit and a model have the same latents."""
    got, shapes = fit.posterior.model.shapes, model.shapes
    if got != shapes:
        raise ValueError(
            f"init: got a fit of latents {got}; expected a fit of the same latents, {shapes}."
        )
