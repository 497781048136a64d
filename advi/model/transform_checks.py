"""Tests of a user's own transforms: log-Jacobian and inverse."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from advi.core.errors import format_value
from advi.core.jax_config import compiled
from advi.model.model import Model

POINTS, RADIUS = 5, 2.0
TOLERANCE = 1e-2  # absolute and relative: far above rounding, far below a forgotten term
MAX_SIZE = 256  # coordinates, whose Jacobian is a matrix


def transform_faults(model: Model, float_dtype: str) -> Iterator[str]:
    """Yield the faults of the user's own transforms, which are `maps` of a fit's model."""
    rng = np.random.default_rng(0)
    for name, maps in model.maps.items():
        latent = model.latents[name]
        if not 0 < latent.size <= MAX_SIZE:
            continue
        shape = (POINTS, *latent.unconstrained_shape)
        x = rng.uniform(-RADIUS, RADIUS, shape).astype(float_dtype)
        program = _program(maps.forward, maps.inverse)
        log_dets, jacobians, back = (np.asarray(out, float) for out in jax.device_get(program(x)))
        kind, where = type(latent.bijection).__name__, format_value(x[0])
        if jacobians.shape[1] == jacobians.shape[2]:
            expected = np.linalg.slogdet(jacobians)[1]
            if _differ(log_dets, expected):
                yield (
                    f"latent {name!r}: the log-Jacobian of {kind} is {log_dets[0]:.4g} at "
                    f"x = {where}, and its forward map has {expected[0]:.4g} nats there; expected "
                    "forward(x) to return the value and log |d value / d x|."
                )
        if latent.bijection.bijective and _differ(back.reshape(POINTS, -1), x.reshape(POINTS, -1)):
            yield (
                f"latent {name!r}: the inverse of {kind} leads from forward(x) to "
                f"{format_value(back[0])} for x = {where}; expected x."
            )


def check_transforms(model: Model, float_dtype: str) -> None:
    """Raise ValueError if a transform of the user's own is wrong."""
    for fault in transform_faults(model, float_dtype):
        raise ValueError(fault)


def _differ(got: Any, expected: Any) -> bool:
    """Return whether two arrays (POINTS, ...) differ at most of the points."""
    off = np.abs(got - expected) > TOLERANCE * (1 + np.abs(expected))
    known = np.isfinite(expected) & ~np.isnan(got)
    return bool((off & known).reshape(POINTS, -1).any(1).sum() > POINTS // 2)


@lru_cache(maxsize=64)
def _program(forward: Any, inverse: Any) -> Any:
    def one(x: Any) -> Any:
        value, log_det = forward(x)
        jacobian = jax.jacrev(lambda flat: forward(flat.reshape(x.shape))[0].ravel())(x.ravel())
        return log_det.sum(), jacobian, inverse(value)

    return compiled(jax.vmap(one))
