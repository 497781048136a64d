"""Validation of the parameters in a file: shapes, finite values, finite draws."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.draw_set import WeightedDraws
from advi.posterior.constrained import constrain
from advi.variational.block_transport import block_gaussian
from advi.variational.family import Family, GaussianFamily, unit_params
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.point import Point
from advi.variational.sparse_precision import SparseParams, SparsePrecision, check_params
from advi.variational.triangular import Triangular
from advi.variational.triangular_map import layer_shapes

Shapes = tuple[tuple[int, ...], ...]

REACH = 5.0  # sds from the mean that some thousand draws do not exceed

# of the parameters of dimension d, without the allocation of d x d for a d that a file declares
SHAPES: Mapping[type, Callable[[Any, int], Shapes]] = {
    Point: lambda family, d: ((d,),),
    MeanField: lambda family, d: ((d,), (d,)),
    FullRank: lambda family, d: ((d,), (d, d)),
    LowRank: lambda family, d: ((d,), (d,), *2 * ((d, min(family.rank, d)),)),
    Mixture: lambda family, d: ((k := family.components or 1,), (k, d), (k, d, d)),
    Triangular: lambda family, d: (
        (d,), (d, d), *family.maps * layer_shapes(d, family.num_parents(d))
    ),
}  # fmt: skip


def shapes_of(family: Family, dim: int) -> Shapes:
    """Return the shapes of a family's parameters, for built-in families without an allocation.

    Examples
    --------
    >>> shapes_of(FullRank(), 10**6)
    ((1000000,), (1000000, 1000000))
    """
    if type(family) in SHAPES:
        return SHAPES[type(family)](family, dim)
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(started(family, dim)))


def started(family: Family, dim: int) -> Any:
    """Return parameters of a family at its start from a standard normal."""
    if isinstance(family, GaussianFamily):
        return unit_params(family, dim)
    if isinstance(family, Triangular):  # its order may be of another dimension
        return Triangular(maps=family.maps).init(Gaussian.diagonal(np.zeros(dim), 1.0))
    return family.init(Gaussian.diagonal(np.zeros(dim), 1.0), jax.random.key(0))


def params_of(guide: Guide, i: int, leaves: list[NDArray[Any]], float_dtype: str) -> Any:
    """Return the parameters of a block from their leaves, in a local block with leading rows.

    ValueError if shapes or float types are wrong, or values are not finite.
    """
    block, dim = guide.blocks[i], len(guide.indices[i])
    family, lead = block.base, ()
    if isinstance(family, SparsePrecision):
        if len(leaves) != len(SparseParams._fields):
            raise ValueError(f"the parameters of {family} do not have their shapes")
        params = SparseParams(*leaves)
        check_params(params, dim)
        return params
    if block.local:
        dim //= guide.num_rows
        lead = (guide.num_rows,)
        if any(leaf.shape[:1] != lead for leaf in leaves):
            raise ValueError(f"the tables of {family} do not have {guide.num_rows} rows")
    shapes = [leaf.shape for leaf in leaves]
    if shapes != [(*lead, *shape) for shape in shapes_of(family, dim)]:
        raise ValueError(f"the parameters of {family} do not have their shapes")
    if any(leaf.dtype != float_dtype or not np.isfinite(leaf).all() for leaf in leaves):
        raise ValueError(f"the parameters of {family} are not finite numbers of {float_dtype}")
    structure = jax.tree.structure(started(family, dim if type(family) not in SHAPES else 1))
    return jax.tree.unflatten(structure, leaves)


def infinite_draws(
    guide: Guide, params: tuple[Any, ...], corrected: WeightedDraws | None, float_dtype: str
) -> list[str]:
    """Return the latents with draws that are infinite or NaN, at the ends of q.

    Finite parameters may have such draws: a log sd of 100, or a positive latent with that log.
    """
    loc, sds = np.zeros(guide.model.size), np.zeros(guide.model.size)
    with np.errstate(all="ignore"):
        for block, p, index in zip(guide.blocks, params, _indices(guide), strict=True):
            loc[index], sds[index] = _ends(block.base, p, index.shape[-1], block.local)
        ends = [loc, loc - REACH * sds, loc + REACH * sds]
        if corrected is not None:
            ends += [corrected.points.min(0), corrected.points.max(0)]
        values = constrain(guide.model, np.array(ends), float_dtype)
    return [name for name, v in values.items() if not np.isfinite(v).all()]


def _indices(guide: Guide) -> list[NDArray[np.int32]]:
    """Return the coordinates of every block, (d,), or (N, d) of a local one."""
    found = []
    for block, index in zip(guide.blocks, guide.indices, strict=True):
        if block.local:
            spans = [np.arange(*guide.model.spans[name]) for name in block.names]
            index = np.concatenate([span.reshape(guide.num_rows, -1) for span in spans], axis=1)
        found.append(index)
    return found


def _ends(family: Family, params: Any, dim: int, local: bool) -> tuple[NDArray, NDArray]:
    """Return the means and sds of a block, (d,) or (N, d)."""
    if not local:
        loc, scale = block_gaussian(family, params, dim)
        return loc, scale.sds
    leaves, structure = jax.tree.flatten(params)
    rows = [
        _ends(family, structure.unflatten(row), dim, False) for row in zip(*leaves, strict=True)
    ]
    loc, sds = zip(*rows, strict=True)
    return np.array(loc), np.array(sds)
