"""The scalar quantities in a comparison: entries of latents, of angles cosine and sine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.many_columns import ManyColumns
from advi.posterior.global_posterior import GlobalPosterior
from advi.transforms import is_angle

LONG = 64  # entries of a latent, above which they are not judged one by one


def quantities(
    posterior: GlobalPosterior, values: Mapping[str, Any], latents: Sequence[str] | None = None
) -> Floats:
    """Return the quantities (n, K) of constrained values by latent, ``(n, *shape)``.

    By default of all latents that are not estimated.
    """
    parts = []
    for name in _inferred(posterior) if latents is None else latents:
        latent = posterior.model.latents[name]
        value = posterior.model.rows_first(name, np.asarray(values[name], float))
        flat = value.reshape(len(value), -1)
        angle = is_angle(latent.bijection)
        parts.append(np.concatenate([np.cos(flat), np.sin(flat)], axis=1) if angle else flat)
    return np.concatenate(parts, axis=1)


def quantity_names(
    posterior: GlobalPosterior, latents: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the names of the quantities, (K,)."""
    names: list[str] = []
    for name in _inferred(posterior) if latents is None else latents:
        coordinates = posterior.model.coordinates[name]
        if is_angle(posterior.model.latents[name].bijection):
            names += [f"cos {c}" for c in coordinates] + [f"sin {c}" for c in coordinates]
        else:
            names += coordinates
    return tuple(names)


def many_columns(posterior: GlobalPosterior) -> ManyColumns:
    """Return which of the quantities are those of long latents."""
    long, start = [], 0
    for name in _inferred(posterior):
        latent = posterior.model.latents[name]
        num = len(posterior.model.coordinates[name]) * (2 if is_angle(latent.bijection) else 1)
        if num > LONG:
            long.append(slice(start, start + num))
        start += num
    return ManyColumns(start, tuple(long))


def _inferred(posterior: GlobalPosterior) -> list[str]:
    return [name for name in posterior.model.latents if name not in posterior.guide.estimated]
