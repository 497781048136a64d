"""A Gaussian bent by triangular maps: skewed latents, scales and means that depend on others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from numpy.typing import NDArray

from advi.core.errors import check_count
from advi.core.types import LOG_2PI
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian
from advi.variational.triangular_map import Layer, forward, identity, inverse, only_used

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_PARENTS = 16  # chosen for a family


class TriangularParams(NamedTuple):
    """Parameters of `Triangular`: the Gaussian it began with, held, and the maps in its frame."""

    loc: Float[Array, " d"]  # in the family's order of the coordinates
    tril: Float[Array, "d d"]
    layers: tuple[Layer, ...]  # the first is applied to the noise first


@dataclass(frozen=True)
class Triangular(Family):
    """A Gaussian bent by additive triangular maps, x = loc + L T_2(T_1(eps)).

    Each map moves the coordinates one after another. Location and log scale of a coordinate are
    curves of its parents, coordinates that come before it, and its own noise is skewed and
    stretched in the tails. This holds funnels, bananas, skewed scales, and hierarchies between
    centred and non-centred, group by group. The maps begin as the identity, so that q is never
    worse than the Gaussian from which it starts.

    Parameters
    ----------
    parents
        Number of the first coordinates on which the others depend. None: all, up to 16; in a fit,
        those of the latents that are smaller than the largest, such as hyperparameters.
    order
        The real coordinates of the block's latents, in the model's order, in the order of the map:
        a permutation. None: as they are; in a fit, the smallest latents first.
    maps
        Number of maps. One holds means and scales that depend on parents; with two, the effect of
        a parent may depend on another.

    References
    ----------
    Marzouk, Moselhy, Parno & Spantini (2016), An introduction to sampling via measure transport:
    triangular maps. Jones & Pewsey (2009), Sinh-arcsinh distributions: skew and tails.

    Examples
    --------
    >>> family = Triangular()
    >>> params = family.init(Gaussian.diagonal(np.zeros(2), 1.0), jax.random.key(0))
    >>> x, log_q = family.draw(params, jnp.array([1.0, -2.0]))
    >>> [round(float(v), 4) for v in x], round(float(log_q), 4)
    ([1.0, -2.0], -4.3379)
    """

    parents: int | None = None
    order: tuple[int, ...] | None = None
    maps: int = 2

    def __post_init__(self) -> None:
        check_count("Triangular maps", self.maps)
        if self.parents is not None:
            check_count("Triangular parents", self.parents, 0)
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise ValueError(
                f"Triangular order: got {self.order}; expected a permutation of 0, 1, 2, ..."
            )

    def for_latents(self, sizes: tuple[int, ...]) -> Triangular:
        """Return the family with its order and parents chosen, for latents of some sizes.

        Smaller latents come first, as do hyperparameters, on which the effects of groups depend.
        """
        dim, starts = sum(sizes), np.cumsum([0, *sizes])
        chosen = self
        if self.order is None:
            by_size = sorted(range(len(sizes)), key=lambda i: sizes[i])
            order = [k for i in by_size for k in range(starts[i], starts[i + 1])]
            chosen = replace(chosen, order=tuple(order))
        if self.parents is None and dim > MAX_PARENTS:
            before = np.cumsum(sorted(size for size in sizes if size < max(sizes)))
            chosen = replace(chosen, parents=int(before[before <= MAX_PARENTS].max(initial=0)))
        return chosen

    def num_parents(self, dim: int) -> int:
        """Return the number of parents among `dim` coordinates."""
        return min(dim, MAX_PARENTS if self.parents is None else self.parents)

    def in_order(self, dim: int) -> NDArray[np.int_]:
        """Return the coordinates (d,) in the order of the map."""
        if self.order is not None and len(self.order) != dim:
            raise ValueError(
                f"Triangular order: got {len(self.order)} coordinates for a block of {dim}."
            )
        return np.arange(dim) if self.order is None else np.array(self.order, int)

    def noise_dim(self, dim: int) -> int:
        return dim

    def init(self, gaussian: Gaussian, key: Array | None = None) -> TriangularParams:
        dim = len(gaussian.loc)
        order = self.in_order(dim)
        L = gaussian.scale.tril()
        if self.order is not None:
            rows = L[order]
            R = np.linalg.qr(rows.T).R
            L = R.T * np.sign(np.diag(R))
        layers = tuple(identity(dim, self.num_parents(dim)) for _ in range(self.maps))
        return TriangularParams(gaussian.loc[order], L, layers)  # type: ignore[arg-type]

    def draw(
        self, params: TriangularParams, eps: Float[Array, " noise"]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        loc, L = jax.lax.stop_gradient((params.loc, params.tril))
        u, log_det = eps[None], 0.0
        for layer in params.layers:
            passed = forward(only_used(layer), u, jnp)
            u, log_det = passed.u, log_det + passed.log_det[0]
        log_q = -0.5 * (eps**2 + LOG_2PI).sum() - log_det - jnp.log(jnp.diagonal(L)).sum()
        return (loc + L @ u[0])[np.argsort(self.in_order(eps.size))], log_q

    def log_prob(self, params: TriangularParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Return log q(x) in nats for one point x (d,), a scalar, by the inverse of the maps."""
        loc, L = jax.lax.stop_gradient((params.loc, params.tril))
        u = solve_triangular(L, x[self.in_order(x.size)] - loc, lower=True)[None]
        for layer in reversed(params.layers):
            u = inverse(only_used(layer), u, jnp)
        return self.draw(params, u[0])[1]
