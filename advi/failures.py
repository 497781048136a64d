"""Why a log density is not finite, in words."""

import jax
import numpy as np

from advi import draws
from advi.data import find_nan
from advi.density import Density, log_density
from advi.device import compiled
from advi.errors import format_value
from advi.gaussian import Floats, Gaussian, structure_of
from advi.guide import Guide

BLAME_DRAWS = 64


def not_finite_at_start(density: Density, x: Floats) -> ValueError:
    """Return the error for a log-joint without a finite value at the start."""
    model = density.model
    log_p = log_density(model, density.log_joint, frozenset())
    point = x.astype(density.dtype)
    # split inside: a dict that is passed to compiled code comes out in the order of its names
    terms = compiled(lambda x, data: log_p(model.split(x), data))(point, density.data)
    terms = jax.device_get(terms)
    values = jax.device_get(compiled(lambda v: model.unravel(v)[0])(point))
    where = ", ".join(
        f"{name} = {format_value(v)}" for name, v in ((n, values[n]) for n in model.latents)
    )
    parts = [f"the log density is not finite at the start: {float(terms.total()):.4g} at {where}."]
    rows = np.flatnonzero(~np.isfinite(terms.per_row))
    if len(rows):
        parts.append(f"Rows that are not finite: {format_value(rows)}.")
    nan = find_nan(density.data, density.spec)
    if nan:
        parts.append(f"The {nan}: remove or mask it.")
    else:
        parts.append(
            "Expected a finite log-joint there, or half-way to it from four starting points: check "
            "the supports of the latents against the distributions, or give init={...}."
        )
    return ValueError(" ".join(parts))


def blame(density: Density, guide: Guide, q: Gaussian, rng: np.random.Generator) -> str:
    """Return which latent, at which value, makes the log density or its gradient non-finite."""
    structure = structure_of(guide)
    X = q.points(structure.spread(draws.antithetic(rng, BLAME_DRAWS, structure.dim)))
    values, gradients = density.value_and_grad(X)
    bad = ~(np.isfinite(values) & np.all(np.isfinite(gradients), axis=1))
    if not bad.any():
        return "at its present place the fit is finite: the step size is too large"
    x, gradient, value = X[bad][0], gradients[bad][0], values[bad][0]
    names = [
        n
        for n, span in guide.model.spans.items()
        if not np.all(np.isfinite(gradient[slice(*span)]))
    ]
    with np.errstate(over="ignore"):
        point = x.astype(density.dtype)
    constrained = compiled(lambda v: guide.model.unravel(v)[0])(point)
    constrained = jax.device_get(constrained)
    where = ", ".join(f"{n} = {format_value(constrained[n])}" for n in names or guide.model.latents)
    kind = "its gradient is not finite for" if names else "at"
    return f"the log density is {value:.4g} and {kind} {where}"
