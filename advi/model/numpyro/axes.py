"""The plates of a NumPyro model as the names of axes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Dims = tuple[str | None, ...]


def plate_axes(sites: Sequence[dict[str, Any]]) -> dict[str, Dims]:
    """Return the names of the axes of every site's value: those of plates, None for others.

    Sites without a plate are left out. Of a deterministic site it is not known how many axes of the
    value come after those of the plates: it has names where one number of them alone fits.
    """
    sizes = {(f.name, f.size) for site in sites for f in site["cond_indep_stack"]}
    count = Counter(name for name, _ in sizes)
    names = {site["name"] for site in sites}  # an axis needs a name and a length of its own
    found = {}
    for site in sites:
        stack = site["cond_indep_stack"]
        frames = [f for f in stack if f.name not in names and count[f.name] == 1]
        shape = np.shape(site["value"])
        fitting = [d for n in _event_dims(site, shape) if (d := _axes(frames, shape, n))]
        if len(fitting) == 1:
            found[site["name"]] = fitting[0]
    return found


def of_latent(dims: Dims, ndim: int, event_dim: int, row_axis: int | None) -> Dims:
    """Return the names of the axes of a latent, which a site with names `dims` has become.

    Its axes after those of the plates may be others, and the axis of rows comes first.
    """
    named = dims[: len(dims) - event_dim]
    named += (None,) * (ndim - len(named))
    if row_axis is None:
        return named
    position = len(dims) + row_axis
    return (dims[position], *named[:position], *named[position + 1 :])


def _event_dims(site: dict[str, Any], shape: Sequence[int]) -> Sequence[int]:
    if site["type"] == "sample":
        return [site["fn"].event_dim]
    if site["type"] == "param":
        known = site["kwargs"].get("event_dim")
        return [] if known is None else [known]
    return range(len(shape) + 1)


def _axes(frames: Sequence[Any], shape: Sequence[int], event_dim: int) -> Dims | None:
    """Return the names of axes, if every plate has the length of the axis that would be its own."""
    places = {len(shape) + f.dim - event_dim: f for f in frames}
    if not frames or any(k < 0 or shape[k] != f.size for k, f in places.items()):
        return None
    return tuple(places[k].name if k in places else None for k in range(len(shape)))
