"""The Gaussian that the automatic plan moves, and its geometry."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.variational import draws
from advi.variational.guide import Guide
from advi.variational.low_rank import LowRank
from advi.variational.scale import LowRankScale, Scale, marginal_sds

Floats = NDArray[np.float64]

POINT_SD = 0.1  # first scale of a latent that was a point in the fit one goes on from


class Gaussian(NamedTuple):
    """Mean and scale on R^D, host arrays.

    Coordinates that are estimated as a point keep a scale too, which only preconditions them.
    """

    loc: Floats  # (D,)
    scale: Scale  # (D,) if diagonal, lower triangular (D, D), or low rank

    def points(self, E: Floats) -> Floats:
        """Return the points (M, D) that standard normal draws E (M, D) stand for."""
        return self.loc + self.moves(E)

    def moves(self, E: Floats) -> Floats:
        """Return the moves (M, D) of points that moves E (M, D) of the draws cause."""
        if isinstance(self.scale, LowRankScale):
            return self.scale.times(E)
        return self.scale * E if self.scale.ndim == 1 else E @ self.scale.T

    def in_frame(self, gradients: Floats) -> Floats:
        """Return gradients (M, D) with respect to the draws instead of the points."""
        if isinstance(self.scale, LowRankScale):
            return self.scale.transposed_times(gradients)
        return gradients * self.scale if self.scale.ndim == 1 else gradients @ self.scale

    def revived(self) -> "Gaussian":
        """Return the Gaussian with a scale where it has none: what was a point may spread."""
        if isinstance(self.scale, LowRankScale):
            return Gaussian(self.loc, self.scale._replace(sd=_positive(self.scale.sd)))
        if self.scale.ndim == 1:
            return Gaussian(self.loc, _positive(self.scale))
        none = np.diag(self.scale) == 0
        return Gaussian(self.loc, self.scale + np.diag(np.where(none, POINT_SD, 0.0)))

    def log_det(self, noisy: NDArray[np.bool_]) -> float:
        """Return the log-determinant of the scale of the coordinates with noise."""
        if isinstance(self.scale, LowRankScale):
            return float(np.log(self.scale.sd[noisy]).sum() + np.log(self.scale.stretch).sum())
        return float(np.log(self.diagonal[noisy]).sum())

    @property
    def diagonal(self) -> Floats:
        """Diagonal of a diagonal or triangular scale, the diagonal part of a low-rank one (D,)."""
        if isinstance(self.scale, LowRankScale):
            return self.scale.sd
        return self.scale if self.scale.ndim == 1 else np.diag(self.scale)

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        return marginal_sds(self.scale)


def _positive(sd: Floats) -> Floats:
    return np.where(sd == 0, POINT_SD, sd)


class Structure(NamedTuple):
    """Which coordinates have noise, and which are coupled."""

    noisy: NDArray[np.bool_]  # (D,)
    block: NDArray[np.int_]  # (D,) number of the coordinate's coupled block, its own if alone
    directions: NDArray[np.bool_]  # (D, R) coordinates that each direction of low rank may involve

    @property
    def dim(self) -> int:
        """Dimension of the noise."""
        return int(self.noisy.sum())

    @property
    def coupled(self) -> bool:
        """Whether any two coordinates share a block."""
        return len(np.unique(self.block)) < len(self.block)

    @property
    def full(self) -> bool:
        """Whether all coordinates with noise share one block."""
        return len(np.unique(self.block[self.noisy])) == 1

    @property
    def rank(self) -> int:
        """Number of directions of low rank R."""
        return self.directions.shape[1]

    def uncoupled(self) -> "Structure":
        """Return the structure of a mean field over the same coordinates."""
        dim = len(self.noisy)
        return Structure(self.noisy, np.arange(dim), np.zeros((dim, 0), bool))

    def same_block(self) -> NDArray[np.bool_]:
        """Return (D, D): whether two coordinates share a block."""
        return self.block[:, None] == self.block[None, :]

    def spread(self, E: Floats) -> Floats:
        """Return draws (M, dim) of the noise as (M, D), zero where there is none."""
        full = np.zeros((len(E), len(self.noisy)))
        full[:, self.noisy] = E
        return full

    def fixed_draws(self, rng: np.random.Generator, num: int) -> Floats:
        """Return fixed orthogonal antithetic draws (num, D); two of zero if nothing has noise."""
        if not self.dim:
            return np.zeros((2, len(self.noisy)))
        return self.spread(draws.fixed(rng, num, self.dim))

    def elbos(self, log_p: Floats, E: Floats, gaussian: Gaussian) -> Floats:
        """Return log p - log q of every draw (M,), nats."""
        return log_p - self.log_q(E, gaussian)

    def log_q(self, E: Floats, gaussian: Gaussian) -> Floats:
        """Return log q of every draw (M,), nats."""
        standard = -0.5 * (E**2 + np.log(2 * np.pi))[:, self.noisy].sum(1)
        return standard - gaussian.log_det(self.noisy)

    def paired_elbos(self, log_p: Floats, E: Floats, gaussian: Gaussian) -> Floats:
        """Return log p - log q of antithetic draws [H; -H], averaged over pairs: (M / 2,)."""
        return self.elbos(log_p, E, gaussian).reshape(2, -1).mean(0)


def structure_of(guide: Guide) -> Structure:
    """Return the structure of a guide.

    Beside a block of low rank, one of full rank counts as one that may take every direction.
    """
    size = guide.model.size
    noisy, block = np.ones(size, bool), np.arange(size)
    directions = [np.zeros((size, 0), bool)]
    low_rank = any(isinstance(member.base, LowRank) for member in guide.blocks)
    for member, index in zip(guide.blocks, guide.indices, strict=True):
        dim = len(index)
        noisy[index] = member.base.noise_dim(dim) > 0
        probe = member.base.from_gaussian(np.zeros(dim), np.ones(dim))
        scale = member.base.to_gaussian(probe)[1]
        rank = member.base.rank if isinstance(member.base, LowRank) else dim
        if isinstance(scale, LowRankScale) or (scale.ndim == 2 and low_rank):
            involved = np.zeros((size, min(rank, dim)), bool)
            involved[index] = True
            directions.append(involved)
        elif scale.ndim == 2:
            block[index] = index[0]
    return Structure(noisy, block, np.concatenate(directions, axis=1))
