"""The scale of a Gaussian whose precision matrix is sparse, by its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu, spsolve_triangular

from advi.core.types import Floats, Indices, SparseMatrix
from advi.variational.scale import Coupling, LowRankScale, Scale, TriangularScale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray


MAX_TAIL = 4096  # columns of a dense matrix


class NotPositiveError(Exception):
    """A matrix is not positive definite."""


class Factor(NamedTuple):
    """P[order][:, order] = L diag(pivots) L', with ones on the diagonal of L."""

    order: Indices  # (D,)
    lower: SparseMatrix  # (D, D)
    upper: SparseMatrix  # L'
    pivots: Float[ndarray, " D"]

    def backward(self, B: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return L'^-1 b of every row b, in the order of elimination."""
        return spsolve_triangular(self.upper, B.T, lower=False, unit_diagonal=True).T

    def forward(self, B: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return L^-1 b of every row b, in the order of elimination."""
        return spsolve_triangular(self.lower, B.T, lower=True, unit_diagonal=True).T


def factorised(precision: SparseMatrix, order: Indices) -> Factor:
    """Return the factor of a symmetric matrix; NotPositiveError if it is not positive definite."""
    permuted = sparse.csc_matrix(precision[order][:, order])
    try:
        found = splu(
            permuted, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
    except RuntimeError as error:  # a pivot of zero
        raise NotPositiveError from error
    pivots = found.U.diagonal()
    if not (np.isfinite(pivots).all() and (pivots > 0).all()):
        raise NotPositiveError
    if (found.perm_r != found.perm_c).any():
        raise NotPositiveError
    lower = sparse.csr_array(found.L)
    return Factor(order[np.argsort(found.perm_c)], lower, sparse.csr_array(lower.T), pivots)


@dataclass(frozen=True, eq=False)
class PrecisionScale:
    """Scale P^-1/2 of a sparse precision P, eliminated in a given order; no D x D matrix."""

    precision: SparseMatrix  # (D, D), symmetric
    order: Indices  # (D,)

    @cached_property
    def factor(self) -> Factor:
        return factorised(self.precision, self.order)

    @property
    def coupling(self) -> Coupling:
        return "all"

    @property
    def diagonal(self) -> Float[ndarray, " D"]:
        """Conditional standard deviations (D,)."""
        return self.precision.diagonal() ** -0.5

    @property
    def sds(self) -> Float[ndarray, " D"]:
        return self._sds

    @cached_property
    def _sds(self) -> Float[ndarray, " D"]:
        return np.sqrt(marginal_variances(self.factor))

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        out = np.empty_like(E, dtype=float)
        out[:, self.factor.order] = self.factor.backward(E / np.sqrt(self.factor.pivots))
        return out

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return self.factor.forward(G[:, self.factor.order]) / np.sqrt(self.factor.pivots)

    def whitened(self, X: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return P^1/2 x of every row x, the inverse of `mv`."""
        order, _, upper, pivots = self.factor
        return (upper @ X[:, order].T).T * np.sqrt(pivots)

    def covariance_times(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return P^-1 g of every row g."""
        return self.mv(self.rmv(G))

    def log_det(self, random: Bool[ndarray, " D"]) -> float:
        if not random.all():
            raise NotImplementedError("a sparse precision has no coordinates without noise")
        return -0.5 * float(np.log(self.factor.pivots).sum())

    def take(self, index: NDArray) -> Scale:
        if len(index) == len(self.order) and (index == np.arange(len(index))).all():
            return self
        units = np.zeros((len(index), len(self.order)))
        units[np.arange(len(index)), index] = 1
        return TriangularScale(np.linalg.cholesky(self.covariance_times(units)[:, index]))

    def tril(self) -> Float[ndarray, "D D"]:
        L = np.linalg.qr(self.mv(np.eye(len(self.order)))).R.T
        return L * np.sign(np.diag(L))

    def low_rank(self) -> LowRankScale:
        return TriangularScale(self.tril()).low_rank()

    def shrunk(self, factor: float) -> Self:
        return replace(self, precision=self.precision / factor**2)

    def positive(self) -> Self:
        return self


def marginal_variances(factor: Factor) -> Floats:
    """Return the diagonal (D,) of the inverse of a factorised matrix.

    Only entries of the inverse where the factor has some are computed, from the last column to the
    first (Erisman & Tinney 1975).
    """
    dim = len(factor.order)
    lower = sparse.csc_array(factor.lower)
    starts, rows, values = lower.indptr, lower.indices, lower.data
    tail = _dense_tail(lower)
    block = sparse.csr_array(factor.lower)[tail:, tail:].toarray()
    inverse = np.linalg.inv(block)
    Z_tail = (inverse.T / factor.pivots[tail:]) @ inverse
    # the entries of the inverse on the pattern of L, columns before the dense tail
    found = np.zeros(starts[tail])
    variances = np.empty(dim)
    variances[tail:] = np.diag(Z_tail)
    for j in range(tail - 1, -1, -1):
        part = slice(starts[j], starts[j + 1])
        below = rows[part]
        keep = below > j
        s, weights = below[keep], values[part][keep]
        early = int(np.searchsorted(s, tail))
        product = np.zeros(len(s))
        late = s[early:] - tail
        if len(late):
            product[early:] += Z_tail[np.ix_(late, late)] @ weights[early:]
        for a in range(early):
            column = slice(starts[s[a]], starts[s[a] + 1])
            of_column = found[column][np.searchsorted(rows[column], s[a:])]
            product[a:] += of_column * weights[a]
            product[a] += of_column[1:] @ weights[a + 1 :]
        full = np.empty(part.stop - part.start)
        full[keep] = -product
        variances[j] = 1 / factor.pivots[j] + weights @ product
        full[~keep] = variances[j]
        found[part] = full
    in_place = np.empty(dim)
    in_place[factor.order] = variances
    return in_place


def _dense_tail(lower: SparseMatrix) -> int:
    """Return the first column from which on the factor is nearly a full triangle."""
    dim = lower.shape[0]
    counts = np.diff(lower.indptr)[::-1].cumsum()  # of the last columns
    sizes = np.arange(1, dim + 1)
    full = counts >= 0.5 * sizes * (sizes + 1) / 2
    full &= sizes <= MAX_TAIL
    return dim - int(sizes[full].max(initial=1))
