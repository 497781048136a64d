"""Replicated data beside the observed, for predictive checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import tree_flatten_with_path
from numpy.typing import NDArray

from advi.core.arrays import numbers, on_host
from advi.core.errors import check_bool, check_count, check_names, describe, unknown
from advi.core.keys import Stream, host_rng
from advi.data.spec import converted, leaf_name
from advi.posterior.base import Posterior, density_of
from advi.posterior.predict import predict, sites_of, wants_key

MOST = 10_000  # values of an observed site that are compared
NO_FUNCTION = (
    "plot_ppc: the model is a log-joint, which does not say how data are drawn; expected fn=, a "
    "function fn(z, data, key) of one draw that returns replicated data by data leaf: {'y': ...}."
)

Observed = dict[str, tuple[Any, Any]]  # values by name, and which of them count, arrays of a shape
Draw = Callable[[Any, Any, Array], dict[str, Array]]  # of (z, data, key): values by name


class Replicated(NamedTuple):
    """The observed values of a site or a data leaf that are compared, and draws of them."""

    name: str
    observed: NDArray[np.float64]  # (K,) finite
    draws: NDArray[np.float64]  # (n, K)
    chosen: tuple[int, int] | None  # how many of how many, where there are too many


def replicated(
    posterior: Posterior, n: int, data: Any, key: Any, fn: Any, prior: bool, names: Any
) -> list[Replicated]:
    """Return observed values with `n` replications of each; see `Fit.plot_ppc`."""
    check_count("n", n)
    check_bool("prior", prior)
    if fn is None:
        observed, draw = _of_sites(posterior, data, key, prior, names)
    elif prior or names is not None:
        raise ValueError(
            "prior, names: they say what to draw of a NumPyro model, and here fn draws; expected "
            "either, not both. The z of fn are posterior draws."
        )
    else:
        observed, draw = _of_leaves(posterior, data, fn)
    seed = key

    def of_one(z: Any, data: Any, key: Array) -> dict[str, Array]:
        return {name: _some(values, seed) for name, values in draw(z, data, key).items()}

    drawn = predict(posterior, of_one, n, data, key)
    return [_finite(name, observed[name], values, key) for name, values in drawn.items()]


def _of_sites(
    posterior: Posterior, data: Any, key: Any, prior: bool, names: Any
) -> tuple[Observed, Draw]:
    """Return the observed sites of a NumPyro model, and the function that draws them."""
    sites, beside = sites_of(posterior, data, NO_FUNCTION), posterior.model.beside

    def latents(z: Any) -> dict[str, Any]:
        return {name: value for name, value in z.items() if name not in beside}

    def values(z: Any, data: Any, key: Array) -> Any:
        return 0.0, sites.observed(latents(z), data, key)

    _, found = predict(posterior, values, 1, data, key)
    if not found:
        raise ValueError(
            "plot_ppc: no site of the model is observed with these data; expected values to "
            "compare with, such as numpyro.sample('y', ..., obs=y) with y among the data."
        )
    wanted = list(found) if names is None else check_names("names", names)
    for name in wanted:
        if name not in found:
            raise ValueError(f"names: {unknown('observed site', name, found)}")

    def draw(z: Any, data: Any, key: Array) -> dict[str, Array]:
        drawn = sites(latents(z), data, key, prior)
        return {name: drawn[name] for name in wanted}

    return {name: (value[0], counted[0]) for name, (value, counted) in found.items()}, draw


def _of_leaves(posterior: Posterior, data: Any, fn: Any) -> tuple[Observed, Draw]:
    """Return the data leaves, and a user's function that draws some of them."""
    if not wants_key(fn):
        raise TypeError(
            "fn: got a function fn(z, data), which draws nothing at random; expected fn(z, data, "
            "key) that returns replicated data."
        )
    if data is None:
        density = density_of(posterior).on(None)
        leaves, known = jax.tree.leaves(density.data), density.spec.names
    else:
        arrays, spec = converted(data, posterior.float_dtype, posterior.model.known_names)
        leaves, known = jax.tree.leaves(arrays), spec.names
    observed = dict(zip(known, leaves, strict=True))

    def draw(z: Any, data: Any, key: Array) -> dict[str, Array]:
        returned = fn(z, data, key)
        found = {leaf_name(path): leaf for path, leaf in tree_flatten_with_path(returned)[0]}
        if not found or not set(found) <= set(observed):
            raise ValueError(
                f"fn returned {', '.join(map(repr, found)) or describe(returned)}; expected "
                f"replicated data by the names of data leaves. Known: {', '.join(observed) or '-'}."
            )
        arrays = {name: jnp.asarray(numbers("fn returned", leaf)) for name, leaf in found.items()}
        for name, values in arrays.items():
            if values.shape != observed[name].shape:
                raise ValueError(
                    f"fn returned {name!r} of shape {values.shape}; expected the shape of the data "
                    f"leaf, {observed[name].shape}."
                )
        return arrays

    return {
        name: (leaf, np.broadcast_to(True, leaf.shape)) for name, leaf in observed.items()
    }, draw


def _some(values: Any, key: Any) -> Any:
    """Return the entries of an array as a vector: of more than MOST, so many chosen at random."""
    flat = values.reshape(-1)
    if flat.size <= MOST:
        return flat
    chosen = host_rng(key, Stream.SHOWN).choice(flat.size, MOST, replace=False)
    return flat[np.sort(chosen)]


def _finite(name: str, observed: tuple[Any, Any], draws: NDArray[Any], key: Any) -> Replicated:
    """Return what is compared of a site or a leaf: entries that count, and are not missing."""
    size = observed[0].size
    values, counted = (on_host(_some(array, key)) for array in observed)
    kept = np.isfinite(values) & counted
    if not kept.any():
        raise ValueError(f"{name!r} has no observed value: all entries are missing or masked.")
    chosen = (MOST, size) if size > MOST else None
    return Replicated(name, values[kept].astype(float), draws[:, kept].astype(float), chosen)
