"""Gaussian with independent coordinates but for a few directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.errors import describe
from advi.core.types import LOG_2PI, Floats
from advi.variational.family import GaussianFamily
from advi.variational.scale import LowRankScale, Scale, gain

if TYPE_CHECKING:
    from jaxtyping import Float


FIRST_LENGTH = 0.1  # of the directions of a scale that has none: at zero they would never move


class LowRankParams(NamedTuple):
    """Parameters of `LowRank`: the scale is exp(log_sd) ((I + N N')^-1 + P P')."""

    loc: Float[Array, " d"]
    log_sd: Float[Array, " d"]
    wider: Float[Array, "d r"]  # P, directions stretched by 1 + |P_k|^2
    narrower: Float[Array, "d r"]  # N, directions shrunk by 1 / (1 + |N_k|^2)


@dataclass(frozen=True)
class LowRank(GaussianFamily):
    """Low-rank Gaussian, q(x) = N(x; loc, S R^2 S): S a diagonal, R the identity but for a few
    directions.

    It stands between `MeanField` and `FullRank`: parameters and work grow with ``rank * d``. Its
    directions may be wider than the mean field, as with the usual diagonal plus factors, or
    narrower, which sums that the data determine are.

    Parameters
    ----------
    rank
        Number of directions that the automatic plan chooses, wider and narrower together. The
        steps of an optimiser move as many of each kind.

    References
    ----------
    Ong, Nott & Smith (2018), Gaussian Variational Approximation with a Factor Covariance
    Structure, section 2: the usual form.

    Examples
    --------
    >>> family = LowRank(1)
    >>> scale = LowRankScale(np.ones(2), np.array([[0.6], [0.8]]), np.array([3.0]))
    >>> params = family.from_gaussian(np.zeros(2), scale)
    >>> [round(float(v), 3) for v in family.reparameterise(params, jnp.array([0.6, 0.8]))]
    [1.8, 2.4]
    """  # noqa: D205

    rank: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, (int, np.integer)):
            raise TypeError(f"LowRank rank: got {describe(self.rank)}; expected an integer.")
        if self.rank < 1:
            raise ValueError(f"LowRank rank: got {self.rank}; expected at least 1.")

    def noise_dim(self, dim: int) -> int:
        return dim

    def from_gaussian(self, loc: NDArray, scale: Scale) -> LowRankParams:
        dim, scale = len(loc), scale.low_rank()
        rank = min(self.rank, dim)
        if not len(scale.stretch):
            random = np.random.default_rng(0).standard_normal((dim, 2 * rank))
            start = FIRST_LENGTH * np.linalg.qr(random)[0]
            start = np.pad(start, ((0, 0), (0, 2 * rank - start.shape[1])))
            return LowRankParams(loc, np.log(scale.sd), start[:, :rank], start[:, rank:])  # type: ignore[arg-type]
        order = np.argsort(-gain(scale.stretch**-2.0), kind="stable")[:rank]
        vectors, stretch = scale.vectors[:, order], scale.stretch[order]
        missing = ((0, 0), (0, rank - len(order)))
        wider, narrower = (
            np.pad(vectors * np.sqrt(np.maximum(factor - 1, 0)), missing)
            for factor in (stretch, 1 / stretch)
        )
        return LowRankParams(loc, np.log(scale.sd), wider, narrower)  # type: ignore[arg-type]

    def to_gaussian(self, params: LowRankParams) -> tuple[Floats, LowRankScale]:
        loc, log_sd, P, N = (np.asarray(leaf, np.float64) for leaf in params)
        Q = np.linalg.qr(np.concatenate([P, N], axis=1))[0]
        QN, QP = Q.T @ N, Q.T @ P
        R = np.linalg.inv(np.eye(len(QN)) + QN @ QN.T) + QP @ QP.T
        stretch, W = np.linalg.eigh(R)
        return loc, LowRankScale(np.exp(log_sd), Q @ W, stretch)

    def moved(self, center: LowRankParams, step: LowRankParams) -> LowRankParams:
        return LowRankParams(
            self.reparameterise(center, step.loc),
            center.log_sd + step.log_sd,
            center.wider + step.wider,
            center.narrower + step.narrower,
        )

    def reparameterise(
        self, params: LowRankParams, eps: Float[Array, " noise"]
    ) -> Float[Array, " d"]:
        P, N = params.wider, params.narrower
        shrunk = eps - N @ jnp.linalg.solve(_plus_one(N.T @ N), N.T @ eps)
        return params.loc + jnp.exp(params.log_sd) * (shrunk + P @ (P.T @ eps))

    def entropy(self, params: LowRankParams) -> Float[Array, ""]:
        return _log_det(params) + 0.5 * params.loc.size * (1 + LOG_2PI)

    def log_prob(self, params: LowRankParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        P, N = params.wider, params.narrower

        def widened(y: Array) -> Array:
            return y + N @ (N.T @ y)

        # R^-1 by the identity of Sherman, Morrison and Woodbury
        y = widened((x - params.loc) * jnp.exp(-params.log_sd))
        AP = widened(P)
        standard = y - AP @ jnp.linalg.solve(_plus_one(P.T @ AP), P.T @ y)
        return -0.5 * (standard**2).sum() - _log_det(params) - 0.5 * x.size * LOG_2PI


def _log_det(params: LowRankParams) -> Array:
    P, N = params.wider, params.narrower
    NP = N.T @ P
    stretched = jnp.linalg.slogdet(_plus_one(P.T @ P + NP.T @ NP))[1]
    return params.log_sd.sum() + stretched - jnp.linalg.slogdet(_plus_one(N.T @ N))[1]


def _plus_one(A: Array) -> Array:
    return A + np.eye(len(A), dtype=A.dtype)
