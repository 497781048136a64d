"""The scalar quantities in a comparison: entries of latents, of angles cosine and sine."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advi.core.types import Floats
from advi.posterior.global_posterior import GlobalPosterior
from advi.transforms import is_angle


def quantities(posterior: GlobalPosterior, values: Mapping[str, Any]) -> Floats:
    """Return the quantities (n, K) of constrained values by latent, ``(n, *shape)``."""
    parts = []
    for name, latent in posterior.model.latents.items():
        if name in posterior.guide.estimated:
            continue
        flat = np.asarray(values[name], float).reshape(len(values[name]), -1)
        angle = is_angle(latent.bijection)
        parts.append(np.concatenate([np.cos(flat), np.sin(flat)], axis=1) if angle else flat)
    return np.concatenate(parts, axis=1)


def quantity_names(posterior: GlobalPosterior) -> tuple[str, ...]:
    """Return the names of the quantities, (K,)."""
    names: list[str] = []
    for name, coordinates in posterior.model.coordinates.items():
        if name in posterior.guide.estimated:
            continue
        if is_angle(posterior.model.latents[name].bijection):
            names += [f"cos {c}" for c in coordinates] + [f"sin {c}" for c in coordinates]
        else:
            names += coordinates
    return tuple(names)
