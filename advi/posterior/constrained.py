"""Points of R^D on the constrained scale, and deterministic quantities there."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.jax_config import compiled, precision
from advi.core.jaxprs.traced import Traced
from advi.model.density import Density
from advi.model.model import Model
from advi.model.trace import trace_deterministic

CHUNK_ELEMENTS = 2**22  # points are mapped in chunks of this size
MAX_CHUNK = 1024


def constrain(model: Model, X: NDArray, float_dtype: str) -> dict[str, NDArray]:
    """Return points (n, D) on the constrained scale, by name, host arrays ``(n, *shape)``."""
    with np.errstate(over="ignore"):  # a fit that diverged may be anywhere
        points = X.astype(float_dtype)
    found = _in_chunks(_constrain_program(model), points, X.shape[1], float_dtype)
    return {name: found[name] for name in model.latents}


def deterministic(density: Density, values: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return the deterministic quantities of values by name, ``(n, *shape)``, host arrays.

    None of them if the density holds only some of the rows.
    """
    names, float_dtype = density.model.beside, density.spec.float_dtype
    if not names or density.is_partial:
        return {}
    traced = trace_deterministic(density.model, density.spec)
    program, data = _deterministic_program(density.model, *traced), density.data
    points = {name: v.astype(float_dtype) for name, v in values.items()}
    numbers = np.arange(len(next(iter(points.values()))), dtype=np.uint32)
    work = density.log_joint.cost
    found = _in_chunks(lambda part: program(*part, data), (points, numbers), work, float_dtype)
    return {name: found[name] for name in names}


def _in_chunks(
    program: Callable[[Any], dict[str, Array]], points: Any, elements: int, float_dtype: str
) -> dict[str, NDArray]:
    """Return a program's values at points (n, ...) of `elements` numbers each, host arrays."""
    n = len(jax.tree.leaves(points)[0])
    chunk = int(np.clip(2 ** int(np.log2(max(CHUNK_ELEMENTS / elements, 1))), 1, MAX_CHUNK))
    # a chunk that is not full repeats the last point
    rows = np.minimum(np.arange(-(-n // chunk) * chunk), n - 1).reshape(-1, chunk)
    with precision(float_dtype):
        parts = [program(jax.tree.map(lambda v, i=i: v[i], points)) for i in rows]
        parts = jax.device_get(parts)
        return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


@lru_cache(maxsize=64)
def _constrain_program(model: Model) -> Any:
    return compiled(jax.vmap(lambda x: model.unravel(x)[0]))


@lru_cache(maxsize=64)
def _deterministic_program(model: Model, flat: Traced, tree: Any) -> Any:
    def one(values: dict[str, Array], number: Array, data: Any) -> dict[str, Array]:
        leaves = [values[name] for name in model.latents]
        return tree.unflatten(flat(*leaves, *jax.tree.leaves(data), number))

    return compiled(jax.vmap(one, in_axes=(0, 0, None)))
