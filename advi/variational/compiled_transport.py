"""A family of the user's own on the host: its draw and its derivatives, compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from advi.core.arrays import on_host
from advi.core.jax_config import compiled, precision
from advi.core.types import Floats
from advi.variational.family import Family
from advi.variational.transport import Drawn

POINTS = 256  # of one call, so that all numbers of draws share a program


class CompiledTransport:
    """The distribution of a family that is known by its `draw`, and perhaps its `log_prob`."""

    def __init__(self, family: Family, params: Any, dim: int, float_dtype: str) -> None:
        self.family, self.dim, self.dtype = family, dim, np.dtype(float_dtype)
        self._params = jax.tree.map(lambda leaf: on_host(leaf, self.dtype), params)

    @property
    def noise_dim(self) -> int:
        return self.family.noise_dim(self.dim)

    @property
    def vector(self) -> Floats:
        leaves = jax.tree.leaves(self._params)
        return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)

    def at(self, vector: Floats) -> CompiledTransport:
        leaves, structure = jax.tree.flatten(self._params)
        parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
        shaped = [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
        params = jax.tree.unflatten(structure, shaped)
        return CompiledTransport(self.family, params, self.dim, self.dtype.name)

    def draw(self, E: Floats) -> Drawn:
        points, log_q = self._run("draw", E)
        return Drawn(points, log_q, E)

    def gradient(self, drawn: Drawn, G: Floats) -> Floats:
        # the weight of a row that only fills a call is zero
        by_params = self._run("gradient", drawn.noise, G, np.ones(len(G)) / len(G), summed=True)
        return by_params[0]

    def pull_back(self, drawn: Drawn, G: Floats) -> Floats:
        return self._run("pull_back", drawn.noise, G)[0]

    def noise_of(self, X: Floats) -> None:
        return None

    def params(self, family: Any) -> Any:
        return self._params

    def _run(self, name: str, *arrays: Floats, summed: bool = False) -> list[Floats]:
        program, calls = _programs(self.family)[name], []
        with precision(self.dtype.name), np.errstate(over="ignore"):
            for start in range(0, len(arrays[0]), POINTS):
                part = [_padded(a[start : start + POINTS], self.dtype, summed) for a in arrays]
                calls.append(jax.tree.leaves(program(self._params, *part)))
            found = [
                [np.asarray(x, np.float64) for x in column] for column in zip(*calls, strict=True)
            ]
        if summed:
            return [np.sum(column, axis=0) for column in found]
        return [np.concatenate(column)[: len(arrays[0])] for column in found]


def has_log_prob(family: Family) -> bool:
    """Return whether a family knows its log density at any point."""
    return callable(getattr(family, "log_prob", None))


@lru_cache(maxsize=64)
def _programs(family: Family) -> dict[str, Callable[..., Any]]:
    """Return the compiled functions of a family's parameters and of many draws."""

    def bound(params: Any, eps: Any, G: Any, weight: Any) -> Any:
        x, log_q = family.draw(params, eps)
        if has_log_prob(family):
            log_q = family.log_prob(jax.lax.stop_gradient(params), x)  # type: ignore[attr-defined]
        return weight * (jnp.where(weight > 0, G, 0) @ x - log_q)

    def gradient(params: Any, E: Any, G: Any, weights: Any) -> Any:
        def total(p: Any) -> Any:
            return jax.vmap(bound, (None, 0, 0, 0))(p, E, G, weights).sum()

        return ravel_pytree(jax.grad(total)(params))[0]

    def log_density(params: Any, eps: Any, G: Any) -> Any:
        x, log_q = family.draw(params, eps)
        return G @ x - log_q

    def pull_back(params: Any, eps: Any, G: Any) -> Any:
        return jax.grad(log_density, 1)(params, eps, G) - eps

    made = {
        "draw": jax.vmap(family.draw, (None, 0)),
        "gradient": gradient,
        "pull_back": jax.vmap(pull_back, (None, 0, 0)),
    }
    return {name: compiled(function) for name, function in made.items()}


def _padded(rows: Floats, dtype: Any, with_zeros: bool) -> Any:
    """Return the rows of one call, filled by the first, or by zeros."""
    if len(rows) == POINTS:
        return rows.astype(dtype)
    part = np.zeros((POINTS, *rows.shape[1:]), dtype)
    part[: len(rows)] = rows
    if not with_zeros:
        part[len(rows) :] = rows[0]
    return part
