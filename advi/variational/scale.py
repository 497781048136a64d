"""Scales L of a Gaussian N(m, L L'): diagonal, triangular, and low rank, with one algebra."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Bools, Floats

Coupling = Literal["none", "directions", "all"]

POINT_SD = 0.1  # first sd of a coordinate that was estimated as a point


class Scale(Protocol):
    """A scale of dimension D, a pytree of host arrays.

    Coordinates that are estimated as a point have an sd of zero.
    """

    @property
    def coupling(self) -> Coupling:
        """Which coordinates may be correlated: none, along a few directions, or all."""
        ...

    @property
    def diagonal(self) -> Floats:
        """Diagonal of L, of low rank that of its diagonal part (D,)."""
        ...

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        ...

    def mv(self, E: Floats) -> Floats:
        """Return L e for every row e of E (M, D)."""
        ...

    def rmv(self, G: Floats) -> Floats:
        """Return L' g for every row g of G (M, D)."""
        ...

    def log_det(self, random: Bools) -> float:
        """Return the log-determinant over the coordinates that are random (D,)."""
        ...

    def take(self, index: NDArray) -> "Scale":
        """Return a scale of the marginal distribution of some coordinates.

        A triangular scale must couple them to no other.
        """
        ...

    def tril(self) -> Floats:
        """Return the lower triangular matrix (D, D) with the scale's covariance."""
        ...

    def low_rank(self) -> "LowRankScale":
        """Return the scale as a diagonal and directions."""
        ...

    def shrunk(self, factor: float) -> Self:
        """Return the scale times a factor."""
        ...

    def positive(self) -> Self:
        """Return the scale with an sd of `POINT_SD` where it has none."""
        ...


class DiagonalScale(NamedTuple):
    """Independent coordinates."""

    sd: Floats  # (D,)

    coupling = property(lambda self: "none")

    @property
    def diagonal(self) -> Floats:
        """The sds (D,)."""
        return self.sd

    @property
    def sds(self) -> Floats:
        """The sds (D,)."""
        return self.sd

    def mv(self, E: Floats) -> Floats:
        """Return L e for every row e of E (M, D)."""
        return self.sd * E

    def rmv(self, G: Floats) -> Floats:
        """Return L' g for every row g of G (M, D)."""
        return G * self.sd

    def log_det(self, random: Bools) -> float:
        """Return the log-determinant over the coordinates that are random."""
        return float(np.log(self.sd[random]).sum())

    def take(self, index: NDArray) -> "DiagonalScale":
        """Return the scale of some coordinates."""
        return DiagonalScale(self.sd[index])

    def tril(self) -> Floats:
        """Return the diagonal matrix (D, D)."""
        return np.diag(self.sd)

    def low_rank(self) -> "LowRankScale":
        """Return the scale without a direction."""
        return LowRankScale(self.sd, np.zeros((len(self.sd), 0)), np.zeros(0))

    def shrunk(self, factor: float) -> "DiagonalScale":
        """Return the scale times a factor."""
        return DiagonalScale(factor * self.sd)

    def positive(self) -> "DiagonalScale":
        """Return the scale with a positive sd everywhere."""
        return DiagonalScale(_positive(self.sd))


class TriangularScale(NamedTuple):
    """Any covariance, by a lower triangular matrix; independent blocks have zeros in it."""

    matrix: Floats  # (D, D)

    coupling = property(lambda self: "all")

    @property
    def diagonal(self) -> Floats:
        """Diagonal of the matrix (D,)."""
        return np.diag(self.matrix)

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        return np.linalg.norm(self.matrix, axis=1)

    def mv(self, E: Floats) -> Floats:
        """Return L e for every row e of E (M, D)."""
        return E @ self.matrix.T

    def rmv(self, G: Floats) -> Floats:
        """Return L' g for every row g of G (M, D)."""
        return G @ self.matrix

    def log_det(self, random: Bools) -> float:
        """Return the log-determinant over the coordinates that are random."""
        return float(np.log(self.diagonal[random]).sum())

    def take(self, index: NDArray) -> "TriangularScale":
        """Return the scale of some coordinates, which others are independent of."""
        return TriangularScale(self.matrix[np.ix_(index, index)])

    def tril(self) -> Floats:
        """Return the matrix (D, D)."""
        return self.matrix

    def low_rank(self) -> "LowRankScale":
        """Return all directions beside the mean field, in coordinates of that."""
        inverse = np.linalg.inv(self.matrix)
        precision = inverse.T @ inverse
        sd = np.diag(precision) ** -0.5
        h, U = np.linalg.eigh(precision * sd * sd[:, None])
        return LowRankScale(sd, U, h**-0.5)

    def shrunk(self, factor: float) -> "TriangularScale":
        """Return the scale times a factor."""
        return TriangularScale(factor * self.matrix)

    def positive(self) -> "TriangularScale":
        """Return the scale with a positive sd everywhere."""
        none = self.diagonal == 0
        return TriangularScale(self.matrix + np.diag(np.where(none, POINT_SD, 0.0)))


class LowRankScale(NamedTuple):
    """Scale L = S (I + U diag(l - 1) U'), a diagonal after a stretch along a few directions.

    The covariance is S (I + U diag(l^2 - 1) U') S. Unlike a diagonal plus a low-rank factor it
    also holds directions in which the posterior is narrower than its coordinates are: l < 1.
    """

    sd: Floats  # (D,) the diagonal of S
    vectors: Floats  # (D, R) orthonormal columns of U
    stretch: Floats  # (R,) singular values l > 0 along them

    coupling = property(lambda self: "directions")

    @property
    def diagonal(self) -> Floats:
        """The diagonal of S (D,)."""
        return self.sd

    @property
    def sds(self) -> Floats:
        """Marginal standard deviations (D,)."""
        return self.sd * np.sqrt(1 + self.vectors**2 @ (self.stretch**2 - 1))

    def mv(self, E: Floats) -> Floats:
        """Return L e for every row e of E (M, D)."""
        return self.sd * (E + (E @ self.vectors * (self.stretch - 1)) @ self.vectors.T)

    def rmv(self, G: Floats) -> Floats:
        """Return L' g for every row g of G (M, D)."""
        H = G * self.sd
        return H + (H @ self.vectors * (self.stretch - 1)) @ self.vectors.T

    def log_det(self, random: Bools) -> float:
        """Return the log-determinant over the coordinates that are random."""
        return float(np.log(self.sd[random]).sum() + np.log(self.stretch).sum())

    def take(self, index: NDArray) -> "LowRankScale":
        """Return a scale of the marginal distribution of some coordinates."""
        Q, R = np.linalg.qr(self.vectors[index])
        excess, W = np.linalg.eigh(R * (self.stretch**2 - 1) @ R.T)
        return LowRankScale(self.sd[index], Q @ W, np.sqrt(1 + excess))

    def tril(self) -> Floats:
        """Return the lower triangular matrix (D, D) with the scale's covariance."""
        L = np.linalg.qr(self.mv(np.eye(len(self.sd)))).R.T
        return L * np.sign(np.diag(L))

    def low_rank(self) -> "LowRankScale":
        """Return the scale."""
        return self

    def shrunk(self, factor: float) -> "LowRankScale":
        """Return the scale times a factor."""
        return self._replace(sd=factor * self.sd)

    def positive(self) -> "LowRankScale":
        """Return the scale with a positive sd everywhere."""
        return self._replace(sd=_positive(self.sd))


def joined(size: int, indices: Sequence[NDArray], scales: Sequence[Any]) -> Scale:
    """Return the scale of independent blocks of coordinates, of the simplest kind that holds it.

    Parameters
    ----------
    size
        Dimension D of all.
    indices, scales
        Coordinates and scale of every block.
    """
    kinds = {scale.coupling for scale in scales}
    if "all" in kinds:
        matrix = np.zeros((size, size))
        for i, scale in zip(indices, scales, strict=True):
            matrix[np.ix_(i, i)] = scale.tril()
        return TriangularScale(matrix)
    sd = np.zeros(size)
    for i, scale in zip(indices, scales, strict=True):
        sd[i] = scale.diagonal
    if kinds == {"none"}:
        return DiagonalScale(sd)
    vectors, stretch = [], []
    for i, scale in zip(indices, map(_low_rank, scales), strict=True):
        padded = np.zeros((size, len(scale.stretch)))
        padded[i] = scale.vectors
        vectors.append(padded)
        stretch.append(scale.stretch)
    return LowRankScale(sd, np.concatenate(vectors, axis=1), np.concatenate(stretch))


def _low_rank(scale: Scale) -> LowRankScale:
    return scale.low_rank()


def _positive(sd: Floats) -> Floats:
    return np.where(sd == 0, POINT_SD, sd)


def gain(precision: Floats) -> Floats:
    """Return the nats gained by giving directions their own variance, (K,).

    Parameters
    ----------
    precision
        (K,) eigenvalues h of the precision in coordinates in which its diagonal is one: the
        Gaussian's divergence falls by (h - 1 - log h) / 2 each.
    """
    return 0.5 * (precision - 1 - np.log(precision))
