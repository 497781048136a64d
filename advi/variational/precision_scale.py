"""The scale of a Gaussian whose precision matrix is sparse, by its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy
from numpy.typing import NDArray

from advi.core.sparse_cholesky import Factor, NotPositiveError, factorised
from advi.core.types import Indices, SparseMatrix
from advi.variational.scale import Coupling, LowRankScale, Scale, TriangularScale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray


FIRST_RIDGE, RIDGE_FACTOR, MAX_RIDGE = 1e-3, 5.0, 1e6  # times the diagonal


@dataclass(frozen=True, eq=False)
class PrecisionScale:
    """Scale P^-1/2 of a sparse precision P, eliminated in a given order; no D x D matrix."""

    precision: SparseMatrix  # (D, D), symmetric
    order: Indices  # (D,)

    @cached_property
    def factor(self) -> Factor:
        return factorised(scipy.sparse.csc_array(self.precision)[self.order][:, self.order])

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
        return self._in_place(np.sqrt(self.factor.variances))

    def mv(self, E: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return self._in_place(self.factor.backward(E))

    def rmv(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        return self.factor.forward(G[:, self.order])

    def whitened(self, X: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return P^1/2 x of every row x, the inverse of `mv`."""
        return self.factor.transpose_times(X[:, self.order])

    def _in_place(self, X: Float[ndarray, "... D"]) -> Float[ndarray, "... D"]:
        found = np.empty_like(X, dtype=float)
        found[..., self.order] = X
        return found

    def covariance_times(self, G: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return P^-1 g of every row g."""
        return self.mv(self.rmv(G))

    def log_det(self, random: Bool[ndarray, " D"]) -> float:
        if not random.all():
            raise NotImplementedError("a sparse precision has no coordinates without noise")
        return -self.factor.log_det

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


def ridged(precision: SparseMatrix, order: Indices) -> PrecisionScale | None:
    """Return the scale of a matrix (D, D) with the ridge that makes it positive, or None."""
    size = np.abs(precision.diagonal())
    ridges = scipy.sparse.diags_array(np.maximum(size, FIRST_RIDGE * size.max(initial=0)))
    ridge = 0.0
    while ridge < MAX_RIDGE:
        with_ridge = precision + ridge * ridges if ridge else precision
        found = PrecisionScale(scipy.sparse.csc_array(with_ridge), order)
        try:
            found.factor  # noqa: B018
        except NotPositiveError:
            ridge = max(FIRST_RIDGE, RIDGE_FACTOR * ridge)
        else:
            return found
    return None
