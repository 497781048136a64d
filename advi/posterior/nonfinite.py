"""Messages on log densities and gradients that are not finite."""

import jax
import numpy as np

from advi.core.errors import format_value
from advi.core.jax_config import compiled
from advi.core.types import Floats
from advi.data.spec import find_infinite, find_nan
from advi.model.density import Density
from advi.model.real_density import real_log_density
from advi.variational import draws
from advi.variational.transport import Transport

TRIED_DRAWS, SHARE_DRAWS = 256, 1024
GRADIENT_REMEDY = (
    "A value that is finite may hide such a gradient: `jnp.where` passes the NaN gradients of the "
    "branch that it does not take, so replace what is masked before it is computed with, as in "
    "y = jnp.where(ok, y, 0); and roots, norms and powers have none at zero, so keep them off it."
)

DATA_REMEDY = (
    "The other rows are finite there, so look at the data of these. At a value outside of the "
    "support of its distribution, or one that a logarithm, division or root takes out of range, "
    "such as a count of 0, the log density is not finite wherever the latents are. Otherwise give "
    "init={...}."
)


def not_finite_at_start(density: Density, x: Floats, tried: str = "") -> ValueError:
    """Return the error for a log density without a finite value or gradient at the start x (D,).

    `tried` describes further points where it was not finite.
    """
    model = density.model
    log_p = real_log_density(model, density.log_joint, frozenset())
    point = x.astype(density.dtype)
    # split inside: a dict that is passed to compiled code comes out in the order of its names
    terms = jax.device_get(
        compiled(lambda x, data: log_p(model.split(x), data))(point, density.data)
    )
    [value], [gradient] = density.value_and_grad(x[None])
    spec = density.spec
    if model.program.factory is not None:  # by the names of the NumPyro model's own arguments
        from advi.model.numpyro.call import argument_path

        call = model.program.factory.call
        spec = spec._replace(names=tuple(argument_path(call, name) for name in spec.names))
    nan = find_nan(density.data, spec)
    if np.isfinite(value) and not np.all(np.isfinite(gradient)):
        names = _with_bad(density, gradient)
        parts = [
            f"the gradient of the log density is not finite at the start, for {', '.join(names)}; "
            f"its value there is {value:.4g}, at {_at(density, x)}.",
            GRADIENT_REMEDY,
        ]
        if nan:
            parts.append(f"The {nan}.")
    else:
        parts = [f"the log density is not finite at the start: {value:.4g} at {_at(density, x)}."]
        if np.isfinite(value):
            parts = [f"the log density is not finite around the start, at {_at(density, x)}."]
        rows = np.flatnonzero(~np.isfinite(np.asarray(terms.per_row)))
        if len(rows):
            parts.append(f"Rows that are not finite: {format_value(rows)}.")
        infinite = find_infinite(density.data, spec)
        if nan:
            parts.append(f"The {nan}: remove or mask it.")
        elif infinite:
            parts.append(f"The {infinite}: remove or mask it.")
        elif 0 < len(rows) < len(terms.per_row):
            parts.append(DATA_REMEDY)
        else:
            parts.append(
                "Expected a finite log-joint there or at one of the other points that were tried: "
                "check the supports of the latents against the distributions, or give init={...}."
            )
    if tried:
        parts.append(f"Tried in vain: {tried}.")
    return ValueError(" ".join(parts))


def nonfinite_share(density: Density, transport: Transport, rng: np.random.Generator) -> str:
    """Return a sentence on the draws of q at which a log density is not finite, or ""."""
    X = transport.draw(draws.antithetic(rng, SHARE_DRAWS, transport.noise_dim)).points
    values = density.value(X)
    bad = ~np.isfinite(values)
    if not bad.any():
        return ""
    k = int(np.argmax(bad))
    return (
        f"The log density is not finite at {100 * bad.mean():.2g}% of the draws of the fit, as "
        f"{values[k]:.4g} at {_at(density, X[k])}: is the support of each latent the set of its "
        "possible values?"
    )


def nonfinite_draw(density: Density, transport: Transport, rng: np.random.Generator) -> str | None:
    """Return a phrase: at which values of latents a log density or its gradient is not finite.

    None if it is finite at all draws of q.
    """
    X = transport.draw(draws.antithetic(rng, TRIED_DRAWS, transport.noise_dim)).points
    values, gradients = density.value_and_grad(X)
    bad = ~np.isfinite(values)
    if not bad.any():  # a value that is not finite explains its gradient
        bad = ~np.all(np.isfinite(gradients), axis=1)
    if not bad.any():
        return None
    k = int(np.argmax(bad))
    names = _with_bad(density, gradients[k])
    where = _at(density, X[k], names or None)
    if not np.isfinite(values[k]):
        return f"the log density is {values[k]:.4g} at {where}"
    return (
        f"the log density is {values[k]:.4g}, and its gradient is not finite for "
        f"{', '.join(names)}, at {where}. {GRADIENT_REMEDY}"
    )


def _with_bad(density: Density, gradient: Floats) -> list[str]:
    """Return the latents whose gradient is not finite."""
    spans = density.model.spans.items()
    return [n for n, span in spans if not np.all(np.isfinite(gradient[slice(*span)]))]


def _at(density: Density, x: Floats, names: list[str] | None = None) -> str:
    """Return "name = value" of some latents, or of all, on the constrained scale."""
    model = density.model
    with np.errstate(over="ignore"):
        point = x.astype(density.dtype)
    values = jax.device_get(compiled(lambda v: model.unravel(v)[0])(point))
    return ", ".join(f"{n} = {format_value(values[n])}" for n in names or model.latents)
