"""Tests of a user's own transforms: log-Jacobian, inverse and support."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from advi.core.errors import format_value
from advi.core.jax_config import compiled
from advi.model.latents import BOUNDS, Latent
from advi.model.model import Model
from advi.transforms import transform_for

POINTS, RADIUS = 12, 2.0
TOLERANCE = 1e-2  # absolute and relative: far above rounding, far below a forgotten term
MAX_SIZE = 256  # coordinates, whose Jacobian is a matrix


def transform_faults(model: Model, float_dtype: str) -> Iterator[str]:
    """Yield the faults of the user's own transforms, which are `maps` of a fit's model."""
    rng = np.random.default_rng(0)
    for name, maps in model.maps.items():
        latent = model.latents[name]
        if fault := _shape_fault(latent, maps, float_dtype):
            yield f"latent {name!r}: {fault}"
            continue
        if not 0 < latent.size <= MAX_SIZE:
            continue
        x = _points(rng, latent.size).reshape(POINTS, *latent.unconstrained_shape)
        x = x.astype(float_dtype)
        out = jax.device_get(_program(maps.forward, maps.inverse)(x))
        values, log_dets, jacobians, back = (np.asarray(part, float) for part in out)
        stretch = np.linalg.svd(np.nan_to_num(jacobians), compute_uv=False)
        known = _known(values, jacobians, stretch, float(np.finfo(float_dtype).eps))
        kind = type(latent.bijection).__name__
        inside = np.array([_is_inside(latent, value) for value in values.astype(float_dtype)])
        if (at := _first(~inside & known)) is not None:
            yield (
                f"latent {name!r}: forward of {kind} leads from x = {format_value(x[at])} to "
                f"{format_value(values[at])}, which is outside of the support {latent.constraint}; "
                "expected values inside for all x."
            )
        if jacobians.shape[1] == jacobians.shape[2]:
            expected = np.log(stretch, where=stretch > 0, out=np.zeros_like(stretch)).sum(-1)
            if (at := _first(_differ(log_dets, expected) & known)) is not None:
                yield (
                    f"latent {name!r}: the log-Jacobian of {kind} is {log_dets[at]:.4g} at "
                    f"x = {format_value(x[at])}, and its forward map has {expected[at]:.4g} nats "
                    "there; expected forward(x) to return the value and log |d value / d x|."
                )
        if latent.bijection.bijective and (at := _first(_differ(back, x) & known)) is not None:
            yield (
                f"latent {name!r}: the inverse of {kind} leads from forward(x) to "
                f"{format_value(back[at])} for x = {format_value(x[at])}; expected x."
            )


def check_transforms(model: Model, float_dtype: str) -> None:
    """Raise ValueError if a transform of the user's own is wrong."""
    for fault in transform_faults(model, float_dtype):
        raise ValueError(fault)


def _shape_fault(latent: Latent, maps: Any, float_dtype: str) -> str | None:
    """Return what is wrong with the structure and shapes of a transform's results, if anything."""
    bijection, kind = latent.bijection, type(latent.bijection).__name__
    batch = latent.shape[: len(latent.shape) - bijection.event_dim]
    real = jax.ShapeDtypeStruct(latent.unconstrained_shape, float_dtype)
    value = jax.ShapeDtypeStruct(latent.shape, float_dtype)
    for function, name, argument, expected, words in (
        (maps.forward, "forward(x)", real, (latent.shape, batch), "value and its log-Jacobian"),
        (maps.inverse, "inverse(value)", value, real.shape, "coordinates x"),
    ):
        result = jax.eval_shape(function, argument)
        found = jax.tree.map(lambda leaf: leaf.shape, result)
        if found != expected:
            return (
                f"{name} of {kind} returns {_shapes(found)} at an argument of shape "
                f"{argument.shape}; expected the {words}, {_shapes(expected)}."
            )
    return None


def _shapes(found: Any) -> str:
    """Return shapes of one array or of several, in words."""
    one = isinstance(found, tuple) and all(isinstance(n, int) for n in found)
    return f"an array of shape {found}" if one else f"arrays of shapes {found}"


def _points(rng: np.random.Generator, size: int) -> Any:
    """Return points (POINTS, size) that are spread evenly along each coordinate."""
    places = np.arange(POINTS)[:, None] + rng.uniform(size=(POINTS, size))
    return RADIUS * (2 * rng.permuted(places, axis=0) / POINTS - 1)


def _known(values: Any, jacobians: Any, stretch: Any, eps: float) -> Any:
    """Return at which points the value, as it is rounded, determines the coordinates."""
    finite = [np.isfinite(part).reshape(POINTS, -1).all(1) for part in (values, jacobians)]
    rounding = eps * np.abs(values).reshape(POINTS, -1).max(1)
    return finite[0] & finite[1] & (rounding < 0.01 * TOLERANCE * stretch.min(-1))


def _differ(got: Any, expected: Any) -> Any:
    """Return at which of the points two arrays (POINTS, ...) differ; a NaN differs."""
    close = np.abs(got - expected) <= TOLERANCE * (1 + np.abs(expected))
    return ~close.reshape(POINTS, -1).all(1)


def _first(faulty: Any) -> int | None:
    """Return the first point that is faulty, if there is one."""
    return int(np.argmax(faulty)) if faulty.any() else None


def _is_inside(latent: Latent, value: Any) -> bool:
    """Return whether a value lies in its latent's support, but for rounding."""
    bounds = [np.shape(getattr(latent.constraint, name, 0.0)) for name in BOUNDS]
    if any(len(shape) > len(latent.shape) for shape in bounds):
        return True  # of a local latent, with a bound for each row
    if np.all(latent.constraint(value)):
        return True
    try:
        usual = transform_for(latent.constraint)
        back = usual.forward(usual.inverse(jax.numpy.asarray(value)))[0]
    except TypeError:  # the support has no other transform
        return False
    return bool(np.all(np.abs(np.asarray(back) - value) <= TOLERANCE))


@lru_cache(maxsize=64)
def _program(forward: Any, inverse: Any) -> Any:
    def one(x: Any) -> Any:
        value, log_det = forward(x)
        jacobian = jax.jacrev(lambda flat: forward(flat.reshape(x.shape))[0].ravel())(x.ravel())
        return value, log_det.sum(), jacobian, inverse(value)

    return compiled(jax.vmap(one))
