"""The Gaussian that the automatic plan moves, and its geometry."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi import draws
from advi.guide import Guide

Floats = NDArray[np.float64]

POINT_SD = 0.1  # first scale of a latent that was a point in the fit one goes on from


class Gaussian(NamedTuple):
    """Mean and scale on R^D, host arrays.

    Coordinates that are estimated as a point keep a scale too, which only preconditions them.
    """

    loc: Floats  # (D,)
    scale: Floats  # (D,) if diagonal, else lower triangular (D, D)

    def points(self, E: Floats) -> Floats:
        """Return the points (M, D) that standard normal draws E (M, D) stand for."""
        return self.loc + (self.scale * E if self.scale.ndim == 1 else E @ self.scale.T)

    def in_frame(self, gradients: Floats) -> Floats:
        """Return gradients (M, D) with respect to the draws instead of the points."""
        return gradients * self.scale if self.scale.ndim == 1 else gradients @ self.scale

    def revived(self) -> "Gaussian":
        """Return the Gaussian with a scale where it has none: what was a point may spread."""
        if self.scale.ndim == 1:
            return Gaussian(self.loc, np.where(self.scale == 0, POINT_SD, self.scale))
        none = np.diag(self.scale) == 0
        return Gaussian(self.loc, self.scale + np.diag(np.where(none, POINT_SD, 0.0)))

    @property
    def diagonal(self) -> Floats:
        """Diagonal of the scale (D,)."""
        return self.scale if self.scale.ndim == 1 else np.diag(self.scale)

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        return self.scale if self.scale.ndim == 1 else np.linalg.norm(self.scale, axis=1)


class Structure(NamedTuple):
    """Which coordinates have noise, and which are coupled."""

    noisy: NDArray[np.bool_]  # (D,)
    block: NDArray[np.int_]  # (D,) number of the coordinate's coupled block, its own if alone

    @property
    def dim(self) -> int:
        """Dimension of the noise."""
        return int(self.noisy.sum())

    @property
    def coupled(self) -> bool:
        """Whether any two coordinates share a block."""
        return len(np.unique(self.block)) < len(self.block)

    def uncoupled(self) -> "Structure":
        """Return the structure of a mean field over the same coordinates."""
        return Structure(self.noisy, np.arange(len(self.noisy)))

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
        log_q = -0.5 * (E**2 + np.log(2 * np.pi))[:, self.noisy].sum(1)
        return log_p - log_q + np.log(gaussian.diagonal[self.noisy]).sum()

    def paired_elbos(self, log_p: Floats, E: Floats, gaussian: Gaussian) -> Floats:
        """Return log p - log q of antithetic draws [H; -H], averaged over pairs: (M / 2,)."""
        return self.elbos(log_p, E, gaussian).reshape(2, -1).mean(0)


def structure_of(guide: Guide) -> Structure:
    """Return the structure of a guide."""
    noisy = np.ones(guide.model.size, bool)
    block = np.arange(guide.model.size)
    for member, index in zip(guide.blocks, guide.indices, strict=True):
        probe = member.family.from_gaussian(np.zeros(len(index)), np.ones(len(index)))
        scale = member.family.to_gaussian(probe)[1]
        if scale.ndim == 2:
            block[index] = index[0]
        noisy[index] = member.family.noise_dim(len(index)) > 0
    return Structure(noisy, block)
