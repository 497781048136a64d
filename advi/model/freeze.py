"""A model as it is when a fit begins: its own transforms are traced, and its log-joint will be."""

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax

from advi.core.jaxprs.frozen import Frozen
from advi.core.jaxprs.traced import trace_lock
from advi.model.model import Model


class FrozenTransform(NamedTuple):
    """A transform's two maps, as they were when a fit began."""

    forward: Frozen
    inverse: Frozen


def of_fit(model: Model, float_dtype: str, traces: dict[Any, Any]) -> Model:
    """Return a model for one fit: what its functions read from outside stays as it is now.

    Parameters
    ----------
    model
        The model.
    float_dtype
        "float32" or "float64".
    traces
        What is traced already, or nothing.
    """
    maps = {}
    with trace_lock, jax.enable_x64(float_dtype == "float64"):
        for name, latent in model.latents.items():
            if _is_own(latent.bijection):
                maps[name] = _frozen(name, latent, float_dtype)
    return model.of_fit(traces, maps)


def _is_own(transform: Any) -> bool:
    """Return whether a transform, or what it is made of, is the user's own."""
    if type(transform).__module__.split(".")[0] not in ("advi", "numpyro"):
        return True
    parts = (getattr(transform, f.name) for f in fields(transform)) if _has_parts(transform) else ()
    return any(_is_own(part) for part in parts if hasattr(part, "codomain") or _has_parts(part))


def _has_parts(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _frozen(name: str, latent: Any, float_dtype: str) -> FrozenTransform:
    real = jax.ShapeDtypeStruct(latent.unconstrained_shape, float_dtype)
    value = jax.ShapeDtypeStruct(latent.shape, float_dtype)
    what = f"the transform of latent {name!r}"
    bijection = latent.bijection
    return FrozenTransform(
        Frozen(bijection.forward, what, real), Frozen(bijection.inverse, what, value)
    )
