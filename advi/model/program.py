"""Properties of a probabilistic program, such as a NumPyro model, beyond its log-joint."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jax import Array


class Deterministic(NamedTuple):
    """Quantities computed from latents and data, which are shown beside the latents.

    The function of latents, data and the number of a draw returns an array for each name.
    """

    names: tuple[str, ...]
    function: Callable[[Any, Any, Any], dict[str, Array]]


NOTHING = Deterministic((), lambda z, data, number: {})


class Program(NamedTuple):
    """Properties of a probabilistic program, such as a NumPyro model, beyond its log-joint."""

    # latents that are estimated as a point unless a fit names a family for them
    estimated: frozenset[str] = frozenset()
    # shown with draws and moments; the tree of latents is then a dict
    deterministic: Deterministic = NOTHING
    # index of a data leaf whose leading axis runs over the rows, where those of others differ
    rows_leaf: int | None = None
    # why neither steps on some rows nor families of rows are possible, in a sentence, or nothing
    needs_all_rows: str = ""
    # path and value of data leaves that decide about shapes or branches
    static: tuple[tuple[str, Any], ...] = ()
    # name and size of the plate of the rows, where the data are a part of them
    declared_rows: tuple[str, int] | None = None
    # from the model for the data's rows, the data, a point (D,) and n: initial points (n, D)
    starts: Callable[..., Any] | None = None
    # from latents, data, a key and whether latents are drawn anew: draws of the observed sites
    predictive: Any = None
    # what made the model, for the same program in other coordinates
    factory: Any = None
    # latents whose location or scale depends on others, and that are as the program has them
    hierarchical: tuple[str, ...] = ()
    # sites whose coordinates were chosen, and the latent of each, which may be the site itself
    coordinates: Mapping[str, str] = MappingProxyType({})
    # axis of the rows, from the last, in the values of local latents where it is not the first
    row_axes: Mapping[str, int] = MappingProxyType({})
    # shapes of deterministic quantities, and names of their axes, None for one without
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    dims: Mapping[str, tuple[str | None, ...]] = MappingProxyType({})
