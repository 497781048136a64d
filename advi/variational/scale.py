"""Scales of a Gaussian: a diagonal (D,), a lower triangular matrix (D, D), or a low-rank one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class LowRankScale(NamedTuple):
    """Scale L = S (I + U diag(l - 1) U'), a diagonal after a stretch along a few directions.

    The covariance is S (I + U diag(l^2 - 1) U') S. Unlike a diagonal plus a low-rank factor it
    also holds directions in which the posterior is narrower than its coordinates are: l < 1.
    """

    sd: Floats  # (D,) the diagonal of S
    vectors: Floats  # (D, R) orthonormal columns of U
    stretch: Floats  # (R,) l > 0

    def times(self, E: Floats) -> Floats:
        """Return L e for every row e of E (M, D)."""
        return self.sd * (E + (E @ self.vectors * (self.stretch - 1)) @ self.vectors.T)

    def transposed_times(self, G: Floats) -> Floats:
        """Return L' g for every row g of G (M, D)."""
        H = G * self.sd
        return H + (H @ self.vectors * (self.stretch - 1)) @ self.vectors.T

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        return self.sd * np.sqrt(1 + self.vectors**2 @ (self.stretch**2 - 1))

    def take(self, index: NDArray) -> "LowRankScale":
        """Return a scale of the marginal distribution of some coordinates."""
        Q, R = np.linalg.qr(self.vectors[index])
        excess, W = np.linalg.eigh(R * (self.stretch**2 - 1) @ R.T)
        return LowRankScale(self.sd[index], Q @ W, np.sqrt(1 + excess))


Scale = Floats | LowRankScale


def marginal_sds(scale: Scale) -> Floats:
    """Return the marginal standard deviations (D,)."""
    if isinstance(scale, LowRankScale):
        return scale.sds
    return scale if scale.ndim == 1 else np.linalg.norm(scale, axis=1)


def scale_tril(scale: Scale) -> Floats:
    """Return the lower triangular matrix (D, D) with the scale's covariance."""
    if isinstance(scale, LowRankScale):
        L = np.linalg.qr(scale.times(np.eye(len(scale.sd)))).R.T
        return L * np.sign(np.diag(L))
    return np.diag(scale) if scale.ndim == 1 else scale


def marginal(scale: Scale, index: NDArray) -> Scale:
    """Return a scale of some coordinates, which a triangular one couples to no other."""
    if isinstance(scale, LowRankScale):
        return scale.take(index)
    return scale[index] if scale.ndim == 1 else scale[np.ix_(index, index)]


def gain(precision: Floats) -> Floats:
    """Return the nats gained by giving directions their own variance, (K,).

    Parameters
    ----------
    precision
        (K,) eigenvalues h of the precision in coordinates in which its diagonal is one: the
        Gaussian's divergence falls by (h - 1 - log h) / 2 each.
    """
    return 0.5 * (precision - 1 - np.log(precision))
