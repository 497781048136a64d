"""Scales L of a Gaussian N(m, L L'): diagonal, triangular, and low rank, with one algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray


Coupling = Literal["none", "directions", "all"]

POINT_SD = 0.1  # first sd of a coordinate that was estimated as a point


class Scale(Protocol):
    """A scale L of dimension D, a pytree of host arrays; a point estimate has an sd of zero."""

    @property
    def coupling(self) -> Coupling: ...  # of coordinates: none, along a few directions, or all

    @property
    def diagonal(self) -> Float[ndarray, " D"]: ...  # of L; of low rank: of its diagonal part

    @property
    def sds(self) -> Float[ndarray, " D"]: ...  # marginal

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]: ...  # L e of every row e

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]: ...  # L' g of every row g

    def log_det(self, random: Bool[ndarray, " D"]) -> float: ...  # over the random coordinates

    # of the marginal distribution; a triangular scale must not couple these to other coordinates
    def take(self, index: NDArray) -> Scale: ...

    def tril(self) -> Float[ndarray, "D D"]: ...  # lower triangular, with the same covariance

    def low_rank(self) -> LowRankScale: ...

    def shrunk(self, factor: float) -> Self: ...  # times a factor

    def positive(self) -> Self: ...  # with `POINT_SD` in place of each sd of zero


class DiagonalScale(NamedTuple):
    """Independent coordinates."""

    sd: Float[ndarray, " D"]

    @property
    def coupling(self) -> Coupling:
        return "none"

    @property
    def diagonal(self) -> Float[ndarray, " D"]:
        return self.sd

    @property
    def sds(self) -> Float[ndarray, " D"]:
        return self.sd

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return self.sd * E

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return G * self.sd

    def log_det(self, random: Bool[ndarray, " D"]) -> float:
        return float(np.log(self.sd[random]).sum())

    def take(self, index: NDArray) -> DiagonalScale:
        return DiagonalScale(self.sd[index])

    def tril(self) -> Float[ndarray, "D D"]:
        return np.diag(self.sd)

    def low_rank(self) -> LowRankScale:
        return LowRankScale(self.sd, np.zeros((len(self.sd), 0)), np.zeros(0))

    def shrunk(self, factor: float) -> DiagonalScale:
        return DiagonalScale(factor * self.sd)

    def positive(self) -> DiagonalScale:
        return DiagonalScale(_positive(self.sd))


class TriangularScale(NamedTuple):
    """Any covariance, by a lower triangular matrix; independent blocks have zeros in it."""

    matrix: Float[ndarray, "D D"]

    @property
    def coupling(self) -> Coupling:
        return "all"

    @property
    def diagonal(self) -> Float[ndarray, " D"]:
        return np.diag(self.matrix)

    @property
    def sds(self) -> Float[ndarray, " D"]:
        return np.linalg.norm(self.matrix, axis=1)

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return E @ self.matrix.T

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return G @ self.matrix

    def log_det(self, random: Bool[ndarray, " D"]) -> float:
        return float(np.log(self.diagonal[random]).sum())

    def take(self, index: NDArray) -> TriangularScale:
        return TriangularScale(self.matrix[np.ix_(index, index)])

    def tril(self) -> Float[ndarray, "D D"]:
        return self.matrix

    def low_rank(self) -> LowRankScale:
        inverse = np.linalg.inv(self.matrix)
        precision = inverse.T @ inverse
        sd = np.diag(precision) ** -0.5
        h, U = np.linalg.eigh(precision * sd * sd[:, None])
        return LowRankScale(sd, U, h**-0.5)

    def shrunk(self, factor: float) -> TriangularScale:
        return TriangularScale(factor * self.matrix)

    def positive(self) -> TriangularScale:
        missing = np.where(self.diagonal == 0, POINT_SD, 0.0)
        return TriangularScale(self.matrix + np.diag(missing))


class LowRankScale(NamedTuple):
    """Scale L = S (I + U diag(l - 1) U'), a diagonal after a stretch along a few directions.

    The covariance is S (I + U diag(l^2 - 1) U') S. Unlike a diagonal plus a low-rank factor it
    also holds directions in which the posterior is narrower than its coordinates are: l < 1.
    """

    sd: Float[ndarray, " D"]  # the diagonal of S
    vectors: Float[ndarray, "D R"]  # orthonormal columns of U
    stretch: Float[ndarray, " R"]  # singular values l > 0 along them

    @property
    def coupling(self) -> Coupling:
        return "directions"

    @property
    def diagonal(self) -> Float[ndarray, " D"]:
        return self.sd

    @property
    def sds(self) -> Float[ndarray, " D"]:
        return self.sd * np.sqrt(1 + self.vectors**2 @ (self.stretch**2 - 1))

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return self.sd * (E + (E @ self.vectors * (self.stretch - 1)) @ self.vectors.T)

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        H = G * self.sd
        return H + (H @ self.vectors * (self.stretch - 1)) @ self.vectors.T

    def log_det(self, random: Bool[ndarray, " D"]) -> float:
        return float(np.log(self.sd[random]).sum() + np.log(self.stretch).sum())

    def take(self, index: NDArray) -> LowRankScale:
        Q, R = np.linalg.qr(self.vectors[index])
        excess, W = np.linalg.eigh(R * (self.stretch**2 - 1) @ R.T)
        return LowRankScale(self.sd[index], Q @ W, np.sqrt(1 + excess))

    def tril(self) -> Float[ndarray, "D D"]:
        L = np.linalg.qr(self.mv(np.eye(len(self.sd)))).R.T
        return L * np.sign(np.diag(L))

    def low_rank(self) -> LowRankScale:
        return self

    def shrunk(self, factor: float) -> LowRankScale:
        return self._replace(sd=factor * self.sd)

    def positive(self) -> LowRankScale:
        return self._replace(sd=_positive(self.sd))


def _positive(sd: Floats) -> Floats:
    return np.where(sd == 0, POINT_SD, sd)


def gain(precision: Floats) -> Floats:
    """Return the reduction (K,) in nats of the KL divergence by a variance for each direction.

    `precision` (K,) are eigenvalues of the precision scaled to a diagonal of ones.
    """
    return 0.5 * (precision - 1 - np.log(precision))
