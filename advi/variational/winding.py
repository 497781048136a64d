"""Winding numbers of angles, whose density on R repeats at every turn."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from advi.model.terms import Terms
from advi.transforms import log_window
from advi.variational.guide import Guide


def middle(guide: Guide, params: tuple[Any, ...]) -> dict[str, Array]:
    """Return the real values of angles at the centre of q, without gradients."""
    if not guide.angles:
        return {}
    params = jax.lax.stop_gradient(params)
    drawn = guide.draw(params, jnp.zeros(guide.noise_dim, jax.tree.leaves(params)[0].dtype))
    return {name: drawn[name] for name in guide.angles}


def weighed(
    guide: Guide, p: Terms, real: Mapping[str, Array], centre: Mapping[str, Array]
) -> Terms:
    """Return a log density whose winding numbers of angles are weighted around their centre."""
    for name in guide.angles:
        change = log_window(real[name], centre[name]) - log_window(real[name])
        if name not in guide.model.local:
            p = p._replace(shared=p.shared + change.sum())
            continue
        of_rows = change.sum(tuple(range(1, change.ndim)))
        part = "rows" if p.prior is None else "prior"
        p = p._replace(**{part: getattr(p, part) + of_rows})
    return p
