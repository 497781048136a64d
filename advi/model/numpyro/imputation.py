"""The masked latents that are predictions, and those with flat entries."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters.partial_eval import dce_jaxpr

from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.numpyro.density import SiteDensity
from advi.model.numpyro.programs import evaluated
from advi.model.numpyro.sites import Sites
from advi.model.terms import Terms

SEED, RADIUS = 0, 1.0  # of the point where derivatives are taken


def predictions(sites: Sites, density: SiteDensity, model: Model, spec: DataSpec) -> set[str]:
    """Return the imputed sites that no other density depends on."""
    found = set(sites.imputed)
    while found:
        needed = _used(density, tuple(sorted(found)), model, spec)
        if not found & needed:
            break
        found -= needed
    return found


def flat_where_masked(
    names: Iterable[str], density: SiteDensity, model: Model, data: Any, spec: DataSpec
) -> Iterable[str]:
    """Yield the latents with masked entries that nothing depends on.

    If other densities depend on a latent, the derivative at the entries decides, for these data:
    with the mask of a flat prior it is not zero.
    """
    for name in names:
        needed = name in _used(density, (name,), model, spec)
        if not (needed and _has_slope(density, name, model, data, spec)):
            yield name


def _used(density: SiteDensity, omitted: tuple[str, ...], model: Model, spec: DataSpec) -> set[str]:
    """Return the latents that the log-joint depends on, without the densities of some of them."""

    def rest(values: list[Array], leaves: list[Array]) -> Array:
        z = model.to_tree(dict(zip(model.latents, values, strict=True)))
        return _total(density.without(omitted, z, jax.tree.unflatten(spec.treedef, leaves)))

    values = [jax.ShapeDtypeStruct(shape, spec.float_dtype) for shape in model.shapes.values()]
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in spec.leaves]
    used = dce_jaxpr(jax.make_jaxpr(rest)(values, leaves).jaxpr, [True])[1]
    return {name for name, alive in zip(model.latents, used, strict=False) if alive}


def _has_slope(density: SiteDensity, name: str, model: Model, data: Any, spec: DataSpec) -> bool:
    """Return whether the rest depends on masked entries of a latent."""

    def rest(value: Array, z: dict[str, Array], data: Any) -> Array:
        return _total(density.without((name,), {**z, name: value}, data))

    def depends(x: Array, data: Any) -> Array:
        z = model.to_tree(model.unravel(x)[0])
        slope = jax.grad(rest)(z[name], z, data)
        counted = density.counted(name, density.run(z, data)[0][name])
        counted = counted.reshape(*counted.shape, *[1] * (slope.ndim - counted.ndim))
        return jnp.any((slope != 0) & ~counted)

    rng = np.random.default_rng(SEED)
    x = rng.uniform(-RADIUS, RADIUS, model.size).astype(spec.float_dtype)
    return bool(evaluated(depends, x, data))


def _total(terms: Array | Terms) -> Array:
    return terms.total() if isinstance(terms, Terms) else terms
