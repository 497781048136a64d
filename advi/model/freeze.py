"""A model as it is when a fit begins: the user's own transforms are traced."""

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax

from advi.core.jaxprs.frozen import Frozen
from advi.core.jaxprs.traced import trace_lock
from advi.model.model import Model


class FrozenTransform(NamedTuple):
    """The two maps of a transform, as they were when a fit began."""

    forward: Frozen
    inverse: Frozen


def of_fit(model: Model, float_dtype: str, traces: dict[Any, Any]) -> Model:
    """Return a model for one fit: values that its functions read from outside stay as they are."""
    with trace_lock, jax.enable_x64(float_dtype == "float64"):
        latents = {name: v for name, v in model.latents.items() if _is_own(v.bijection)}
        maps = {name: _frozen(name, latent, float_dtype) for name, latent in latents.items()}
    return model.of_fit(traces, maps)


def _is_own(transform: Any) -> bool:
    """Return whether a transform, or a part of it, is the user's own."""
    if type(transform).__module__.split(".")[0] not in ("advi", "numpyro"):
        return True
    parts = (getattr(transform, f.name) for f in fields(transform)) if _has_parts(transform) else ()
    return any(_is_own(part) for part in parts if hasattr(part, "codomain") or _has_parts(part))


def _has_parts(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _frozen(name: str, latent: Any, float_dtype: str) -> FrozenTransform:
    real = jax.ShapeDtypeStruct(latent.unconstrained_shape, float_dtype)
    value = jax.ShapeDtypeStruct(latent.shape, float_dtype)
    what, bijection = f"the transform of latent {name!r}", latent.bijection
    forward = Frozen(bijection.forward, what, real)
    return FrozenTransform(forward, Frozen(bijection.inverse, what, value))
