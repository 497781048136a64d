"""Cholesky factor P = R R' of a sparse precision matrix, which is eliminated in a given order.

Coordinates that do not meet one another, such as the effects of one grouping, go first and at once.
What is left of P after them is factorised in the same way, as a dense matrix where it is small or
nearly full, or else by SuperLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import scipy

from advi.core.selected_inverse import inverse_diagonal
from advi.core.types import Floats, Indices, SparseMatrix

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

SMALL_DIM, MAX_DENSE_DIM, MIN_DENSITY = 256, 4096, 0.1  # of a matrix that is taken as dense
MIN_SHARE = 0.125  # of all coordinates, that go first at once


class NotPositiveError(Exception):
    """A matrix is not positive definite."""


class Factor(Protocol):
    """R, and products with its inverse of many rows."""

    def forward(self, B: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return R^-1 b of every row b."""
        ...

    def backward(self, B: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return R'^-1 b of every row b."""
        ...

    def transpose_times(self, X: Float[ndarray, "M D"]) -> Float[ndarray, "M D"]:
        """Return R' x of every row x."""
        ...

    @property
    def log_det(self) -> float:
        """Log determinant of R."""
        ...

    @property
    def num_entries(self) -> int:
        """Numbers that a product reads."""
        ...

    @property
    def variances(self) -> Float[ndarray, " D"]:
        """Diagonal of the inverse of P."""
        ...

    @property
    def order(self) -> Indices:
        """The order (D,) in which the coordinates are eliminated."""
        ...

    @property
    def lower(self) -> SparseMatrix:
        """R (D, D), with its rows in this order: lower triangular."""
        ...


def factorised(precision: SparseMatrix) -> Factor:
    """Return the factor of a symmetric matrix (D, D), in the order of its coordinates.

    NotPositiveError if it is not positive definite.
    """
    dim = precision.shape[0]
    by_row = scipy.sparse.csr_array(precision)
    small = dim <= SMALL_DIM or by_row.nnz >= MIN_DENSITY * dim**2
    if small and dim <= MAX_DENSE_DIM:
        return _dense(by_row)
    first = _apart(by_row)
    return _eliminated(by_row, first) if first >= MIN_SHARE * dim else _by_superlu(by_row)


def _apart(precision: SparseMatrix) -> int:
    """Return how many of the first coordinates do not meet one another."""
    below: SparseMatrix = scipy.sparse.tril(precision, -1, format="csr")
    meets = np.diff(below.indptr) > 0
    return int(meets.argmax()) if meets.any() else len(meets)


class _Dense(NamedTuple):
    tril: Floats  # (D, D)

    def forward(self, B: Floats) -> Floats:
        return scipy.linalg.solve_triangular(self.tril, B.T, lower=True, check_finite=False).T

    def backward(self, B: Floats) -> Floats:
        return scipy.linalg.solve_triangular(
            self.tril, B.T, lower=True, trans=1, check_finite=False
        ).T

    def transpose_times(self, X: Floats) -> Floats:
        return X @ self.tril

    @property
    def log_det(self) -> float:
        return float(np.log(np.diag(self.tril)).sum())

    @property
    def num_entries(self) -> int:
        return self.tril.size

    @property
    def variances(self) -> Floats:
        return (self.forward(np.eye(len(self.tril))) ** 2).sum(1)

    @property
    def order(self) -> Indices:
        return np.arange(len(self.tril))

    @property
    def lower(self) -> SparseMatrix:
        return scipy.sparse.csr_array(self.tril)


def _dense(precision: SparseMatrix) -> _Dense:
    try:
        tril = np.asarray(np.linalg.cholesky(precision.toarray()), float)
    except np.linalg.LinAlgError as error:
        raise NotPositiveError from error
    if not np.isfinite(tril).all():
        raise NotPositiveError
    return _Dense(tril)


class _Eliminated(NamedTuple):
    """The factor where the first coordinates do not meet one another.

    R = [[D^1/2, 0], [W D^1/2, R_rest]], D the diagonal of the first.
    """

    root: Floats  # (first,) of D
    weights: SparseMatrix  # W (rest, first)
    transposed: SparseMatrix
    rest: Factor

    def forward(self, B: Floats) -> Floats:
        first = len(self.root)
        rest = self.rest.forward(B[:, first:] - (self.weights @ B[:, :first].T).T)
        return np.concatenate([B[:, :first] / self.root, rest], axis=1)

    def backward(self, B: Floats) -> Floats:
        rest = self.rest.backward(B[:, len(self.root) :])
        first = B[:, : len(self.root)] / self.root - (self.transposed @ rest.T).T
        return np.concatenate([first, rest], axis=1)

    def transpose_times(self, X: Floats) -> Floats:
        of_first, of_rest = X[:, : len(self.root)], X[:, len(self.root) :]
        first = self.root * (of_first + (self.transposed @ of_rest.T).T)
        return np.concatenate([first, self.rest.transpose_times(of_rest)], axis=1)

    @property
    def log_det(self) -> float:
        return float(np.log(self.root).sum()) + self.rest.log_det

    @property
    def num_entries(self) -> int:
        return len(self.root) + self.weights.nnz + self.rest.num_entries

    @property
    def variances(self) -> Floats:
        dim = self.weights.shape[0]
        if dim > MAX_DENSE_DIM:
            return inverse_diagonal(self.lower)[np.argsort(self.order)]
        whitened = self.rest.forward(np.eye(dim))
        covariance = whitened @ whitened.T
        rows, columns, weights = scipy.sparse.find(self.transposed)
        through = scipy.sparse.csr_array(self.transposed) @ covariance
        added = np.bincount(rows, through[rows, columns] * weights, minlength=len(self.root))
        return np.concatenate([self.root**-2.0 + added, np.diag(covariance)])

    @property
    def order(self) -> Indices:
        first = len(self.root)
        return np.concatenate([np.arange(first), first + self.rest.order])

    @property
    def lower(self) -> SparseMatrix:
        scaled = (self.weights @ scipy.sparse.diags_array(self.root))[self.rest.order]
        blocks = [[scipy.sparse.diags_array(self.root), None], [scaled, self.rest.lower]]
        return scipy.sparse.block_array(blocks, format="csr")


def _eliminated(precision: SparseMatrix, first: int) -> _Eliminated:
    diagonal = precision.diagonal()[:first]
    if not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        raise NotPositiveError
    between = scipy.sparse.csr_array(precision[first:, :first])
    weights = scipy.sparse.csr_array(between @ scipy.sparse.diags_array(1 / diagonal))
    transposed = scipy.sparse.csr_array(weights.T)
    rest = factorised(precision[first:, first:] - between @ transposed)
    return _Eliminated(np.sqrt(diagonal), weights, transposed, rest)


class _BySuperLU(NamedTuple):
    order: Indices  # (D,)
    lower: SparseMatrix  # (D, D)
    transposed: SparseMatrix

    def forward(self, B: Floats) -> Floats:
        return scipy.sparse.linalg.spsolve_triangular(self.lower, B[:, self.order].T, lower=True).T

    def backward(self, B: Floats) -> Floats:
        found = np.empty(B.shape)
        found[:, self.order] = scipy.sparse.linalg.spsolve_triangular(
            self.transposed, B.T, lower=False
        ).T
        return found

    def transpose_times(self, X: Floats) -> Floats:
        return (self.transposed @ X[:, self.order].T).T

    @property
    def log_det(self) -> float:
        return float(np.log(self.lower.diagonal()).sum())

    @property
    def num_entries(self) -> int:
        return self.lower.nnz

    @property
    def variances(self) -> Floats:
        return inverse_diagonal(self.lower)[np.argsort(self.order)]


def _by_superlu(precision: SparseMatrix) -> _BySuperLU:
    try:
        found = scipy.sparse.linalg.splu(
            precision.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip
    except RuntimeError as error:  # a pivot of zero
        raise NotPositiveError from error
    pivots = found.U.diagonal()
    positive = np.isfinite(pivots).all() and (pivots > 0).all()
    if not positive or (found.perm_r != found.perm_c).any():
        raise NotPositiveError
    lower = scipy.sparse.csr_array(found.L @ scipy.sparse.diags_array(np.sqrt(pivots)))
    return _BySuperLU(np.argsort(found.perm_c), lower, scipy.sparse.csr_array(lower.T))
