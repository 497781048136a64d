"""A Gaussian on R^D on the host, and which of its coordinates are random and correlated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advi.core.types import Floats, Indices
from advi.variational import draws
from advi.variational.scale import DiagonalScale, Scale, TriangularScale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray


MANY = 512  # coordinates


class Gaussian(NamedTuple):
    """Mean and scale on R^D, host arrays.

    A coordinate that is estimated as a point has a scale too, which only preconditions it.
    """

    loc: Float[ndarray, " D"]
    scale: Scale

    @classmethod
    def diagonal(cls, loc: Floats, sd: Any) -> Gaussian:
        """Return the Gaussian with independent coordinates, of one sd or (D,) sds."""
        return cls(loc, DiagonalScale(np.broadcast_to(sd, loc.shape).astype(float)))

    def points(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return the points m + L e (M, D) of standard normal draws E (M, D)."""
        return self.loc + self.scale.mv(E)

    def mean_field(self) -> Gaussian:
        """Return the Gaussian with the diagonal of the scale alone."""
        return Gaussian(self.loc, DiagonalScale(self.scale.diagonal))

    def positive(self) -> Gaussian:
        """Return the Gaussian with a positive sd everywhere, also for point estimates."""
        return Gaussian(self.loc, self.scale.positive())

    @property
    def sds(self) -> Float[ndarray, " D"]:
        """Marginal standard deviations (D,)."""
        return self.scale.sds


class Structure(NamedTuple):
    """Which coordinates are random, not estimated as a point, and which are coupled."""

    random: Bool[ndarray, " D"]
    block: Int[ndarray, " D"]  # number of the coordinate's coupled block, its own if alone
    directions: Bool[ndarray, "D R"]  # coordinates that each direction of low rank may involve

    @property
    def dim(self) -> int:
        """Number of random coordinates."""
        return int(self.random.sum())

    @property
    def coupled(self) -> bool:
        """Whether any two coordinates share a block."""
        return len(np.unique(self.block)) < len(self.block)

    @property
    def full(self) -> bool:
        """Whether all random coordinates share one block."""
        return len(np.unique(self.block[self.random])) == 1

    @property
    def rank(self) -> int:
        """Number of directions of low rank R."""
        return self.directions.shape[1]

    @property
    def entropy_constant(self) -> float:
        """Entropy of the standard normal over the random coordinates, nats."""
        return 0.5 * self.dim * (1 + np.log(2 * np.pi))

    def uncoupled(self) -> Structure:
        """Return the structure of a mean field over the same coordinates."""
        dim = len(self.random)
        return Structure(self.random, np.arange(dim), np.zeros((dim, 0), bool))

    def same_block(self) -> Bool[ndarray, "D D"]:
        """Return (D, D): whether two coordinates share a block."""
        return self.block[:, None] == self.block[None, :]

    def embed(self, E: Float[ndarray, "M dim"]) -> Float[ndarray, "M D"]:
        """Return draws (M, dim) of the random coordinates as (M, D), zero at the others."""
        full = np.zeros((len(E), len(self.random)))
        full[:, self.random] = E
        return full

    def fixed_draws(self, rng: np.random.Generator, num: int) -> Float[ndarray, "num D"]:
        """Return fixed orthogonal antithetic draws (num, D); two of zero if nothing is random."""
        if not self.dim:
            return np.zeros((2, len(self.random)))
        return self.embed(draws.fixed(rng, num, self.dim))

    def antithetic_draws(self, rng: np.random.Generator, num: int) -> Float[ndarray, "num D"]:
        """Return fresh antithetic draws [H; -H] (num, D)."""
        return self.embed(draws.antithetic(rng, num, self.dim))

    def log_q(self, E: Float[ndarray, "M D"], gaussian: Gaussian) -> Float[ndarray, " M"]:
        """Return log q of every draw (M,), nats."""
        if E.shape[1] > MANY:  # without arrays of E's size
            standard = -0.5 * (np.einsum("ij,ij->i", E, E) + self.dim * np.log(2 * np.pi))
        else:
            standard = -0.5 * (E**2 + np.log(2 * np.pi))[:, self.random].sum(1)
        return standard - gaussian.scale.log_det(self.random)

    def elbos(
        self, log_p: Float[ndarray, " M"], E: Float[ndarray, "M D"], gaussian: Gaussian
    ) -> Float[ndarray, " M"]:
        """Return log p - log q of every draw (M,), nats."""
        return log_p - self.log_q(E, gaussian)

    def paired_elbos(
        self, log_p: Float[ndarray, " M"], E: Float[ndarray, "M D"], gaussian: Gaussian
    ) -> Float[ndarray, " half"]:
        """Return log p - log q of antithetic draws [H; -H], averaged over pairs: (M / 2,)."""
        return self.elbos(log_p, E, gaussian).reshape(2, -1).mean(0)


def full_structure(dim: int) -> Structure:
    """Return the structure of a Gaussian of full rank."""
    return Structure(np.ones(dim, bool), np.zeros(dim, int), np.zeros((dim, 0), bool))


def project(gaussian: Gaussian, structure: Structure) -> Gaussian:
    """Return the best approximation with a structure to a Gaussian of full rank.

    The precision of coupled coordinates is kept, so that uncoupled ones have their conditional sds
    (Bishop 2006, eq. 10.13). Families of low rank choose for themselves.
    """
    coupled = structure.same_block()
    if structure.rank or coupled.all():
        return gaussian
    sds = gaussian.sds  # units in which the matrices below are well conditioned
    inverse = np.linalg.inv(gaussian.scale.tril() / sds[:, None])
    precision = np.where(coupled, inverse.T @ inverse, 0.0)
    scale = sds[:, None] * np.linalg.cholesky(np.linalg.inv(precision))
    return Gaussian(gaussian.loc, TriangularScale(scale))


def block_structure(
    size: int, blocks: Iterable[tuple[Indices, bool, Scale, int]], low_rank: bool
) -> Structure:
    """Return the structure of independent blocks of `size` coordinates in all.

    Each block has its coordinates, whether they are random, a scale of its kind, and its largest
    rank. Beside a block of low rank, one of full rank may use every direction.
    """
    random, block = np.ones(size, bool), np.arange(size)
    directions = [np.zeros((size, 0), bool)]
    for index, is_random, scale, rank in blocks:
        random[index] = is_random
        if scale.coupling == "directions" or (scale.coupling == "all" and low_rank):
            involved = np.zeros((size, min(rank, len(index))), bool)
            involved[index] = True
            directions.append(involved)
        elif scale.coupling == "all":
            block[index] = index[0]
    return Structure(random, block, np.concatenate(directions, axis=1))
