"""Transforms to covariance and correlation matrices and their Cholesky factors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.transforms.base import event_shape, tiny
from advi.transforms.scalars import HalfLine, check_link


@dataclass(frozen=True)
class LowerCholesky:
    """Lower triangular matrices L with a positive diagonal.

    Coordinates are the entries of the lower triangle, row by row, those of the diagonal through
    `link`, ``"exp"`` or ``"softplus"``. log|J|, with respect to the lower triangle, is the sum of
    the log slopes of `link`.

    Examples
    --------
    >>> LowerCholesky().forward(jnp.array([0.0, 7.0, 0.0]))[0].tolist()
    [[1.0, 0.0], [7.0, 1.0]]
    """

    link: str = "exp"
    event_dim, bijective = 2, True

    def __post_init__(self) -> None:
        check_link(self.link)

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        k, _ = event_shape(self, shape, square=True)
        return (*shape[:-2], k * (k + 1) // 2)

    def forward(self, x: Array) -> tuple[Array, Array]:
        raw = _fill_lower(x, diagonal=0)
        diagonal, log_det = HalfLine(link=self.link).forward(_diagonal(raw))
        on_diagonal = np.eye(raw.shape[-1], dtype=bool)
        return jnp.where(on_diagonal, diagonal[..., None], raw), log_det.sum(-1)

    def inverse(self, value: Array) -> Array:
        diagonal = HalfLine(link=self.link).inverse(_diagonal(value))
        on_diagonal = np.eye(value.shape[-1], dtype=bool)
        return _read_lower(jnp.where(on_diagonal, diagonal[..., None], value), diagonal=0)


@dataclass(frozen=True)
class PositiveDefinite:
    """Positive definite matrices L L', L as in `LowerCholesky`; the inverse of others is NaN.

    log|J| refers to the lower triangle: that of L, and k log 2 + sum_j (k - j) log L_jj, with j
    from 0. Far out, L L' is singular to working precision; a model that needs the Cholesky
    factor does better with a `LowerCholesky` latent, which never is.

    References
    ----------
    Stan Reference Manual, "Covariance matrices".

    Examples
    --------
    >>> PositiveDefinite().forward(jnp.array([0.0, 2.0, 0.0]))[0].tolist()
    [[1.0, 2.0], [2.0, 5.0]]
    """

    link: str = "exp"
    event_dim, bijective = 2, True

    def __post_init__(self) -> None:
        check_link(self.link)

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        k, _ = event_shape(self, shape, square=True)
        return (*shape[:-2], k * (k + 1) // 2)

    def forward(self, x: Array) -> tuple[Array, Array]:
        factor, log_det = LowerCholesky(self.link).forward(x)
        k = factor.shape[-1]
        powers = np.arange(k, 0, -1, dtype=x.dtype)
        log_det += k * math.log(2) + (powers * jnp.log(_diagonal(factor))).sum(-1)
        return _gram(factor), log_det

    def inverse(self, value: Array) -> Array:
        return LowerCholesky(self.link).inverse(jnp.linalg.cholesky(value))


@dataclass(frozen=True)
class CorrCholesky:
    """Lower Cholesky factors L of correlation matrices: rows of length one.

    The coordinates are, row by row below the diagonal, y_ij = artanh z_ij with z_ij the canonical
    partial correlations:

        L_ij = z_ij prod_{k<j} sqrt(1 - z_ik^2),   L_ii = prod_{k<i} sqrt(1 - z_ik^2).

    log|J|, with respect to the entries below the diagonal, is sum_{i>j} of log(1 - z_ij^2) +
    (1/2) sum_{k<j} log(1 - z_ik^2). Products are sums of log(1 - tanh^2 y) = -2 log cosh y, which
    do not cancel where z rounds to 1.

    References
    ----------
    Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices based on vines
    and extended onion method, J. Multivariate Analysis 100(9). Stan Reference Manual, "Cholesky
    factors of correlation matrices".

    Examples
    --------
    >>> factor, _ = CorrCholesky().forward(jnp.arctanh(jnp.array([0.6])))
    >>> [round(v, 4) for v in factor[1].tolist()]
    [0.6, 0.8]
    """

    event_dim, bijective = 2, True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        k, _ = event_shape(self, shape, square=True)
        return (*shape[:-2], k * (k - 1) // 2)

    def forward(self, x: Array) -> tuple[Array, Array]:
        return _correlation_factor(x)[:2]

    def inverse(self, value: Array) -> Array:
        # tanh(y) over its sqrt(1 - tanh^2 y) is sinh(y): L_ij over the norm of the rest of its
        # row, a sum of squares, where artanh(z_ij) would cancel.
        squares = jnp.flip(jnp.cumsum(jnp.flip(value**2, -1), -1), -1)
        rest = jnp.sqrt(squares[..., 1:])
        rows, columns = np.tril_indices(value.shape[-1], -1)
        return jnp.arcsinh(value[..., rows, columns] / rest[..., rows, columns])


@dataclass(frozen=True)
class CorrMatrix:
    """Correlation matrices L L', L as in `CorrCholesky`; the inverse of others is NaN.

    log|J| refers to the entries below the diagonal: that of L, and sum_j (k - 1 - j) log L_jj,
    with j from 0. Far out, L L' is singular to working precision; a model that needs the Cholesky
    factor does better with a `CorrCholesky` latent, which never is.
    """

    event_dim, bijective = 2, True

    def unconstrained_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        k, _ = event_shape(self, shape, square=True)
        return (*shape[:-2], k * (k - 1) // 2)

    def forward(self, x: Array) -> tuple[Array, Array]:
        factor, log_det, log_diagonal = _correlation_factor(x)
        powers = np.arange(factor.shape[-1] - 1, -1, -1, dtype=x.dtype)
        return _gram(factor), log_det + (powers * log_diagonal).sum(-1)

    def inverse(self, value: Array) -> Array:
        return CorrCholesky().inverse(jnp.linalg.cholesky(value))


def _correlation_factor(x: Array) -> tuple[Array, Array, Array]:
    """Return L (..., k, k), its log|J| (...,) and the logs of its diagonal (..., k)."""
    y = _fill_lower(x, diagonal=-1)
    log_one_minus = 2 * (math.log(2) - jnp.logaddexp(y, -y))  # log(1 - z^2); 0 where y is 0
    before = [(0, 0)] * (y.ndim - 1) + [(1, 0)]
    # (1/2) sum_{k<j} log(1 - z_ik^2): the log norm of row i from column j on.
    log_rest = 0.5 * jnp.cumsum(jnp.pad(log_one_minus, before)[..., :-1], -1)
    rest = jnp.exp(log_rest)
    on_diagonal = np.eye(y.shape[-1], dtype=bool)
    factor = jnp.where(on_diagonal, jnp.maximum(rest, tiny(x)), jnp.tanh(y) * rest)
    log_det = jnp.tril(log_one_minus + log_rest, -1).sum((-2, -1))
    return factor, log_det, _diagonal(log_rest)


def _fill_lower(x: Array, diagonal: int) -> Array:
    """Return matrices with `x` in the lower triangle from `diagonal` down, row by row."""
    m = x.shape[-1]
    k = (math.isqrt(8 * m + 1) - 1) // 2 - diagonal
    rows, columns = np.tril_indices(k, diagonal)
    return jnp.zeros((*x.shape[:-1], k, k), x.dtype).at[..., rows, columns].set(x)


def _read_lower(matrix: Array, diagonal: int) -> Array:
    """Invert `_fill_lower`."""
    rows, columns = np.tril_indices(matrix.shape[-1], diagonal)
    return matrix[..., rows, columns]


def _diagonal(matrix: Array) -> Array:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _gram(factor: Array) -> Array:
    # At the default precision accelerators round the factors to 10 bits or fewer.
    return jnp.matmul(factor, factor.mT, precision=jax.lax.Precision.HIGHEST)
