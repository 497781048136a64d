"""The Hessian of a log density whose latents meet in small numbers."""

from typing import NamedTuple

import jax
import numpy as np
import scipy

from advi.core.colouring import SHORT, Colouring, coloured, groups_of
from advi.core.elimination import Elimination, elimination
from advi.core.jaxprs.coordinate_sets import TooDenseError
from advi.core.jaxprs.hessian_pattern import hessian_pattern
from advi.core.types import Floats, Indices, SparseMatrix
from advi.model.density import WORK, Density

MAX_ENTRIES = 5_000_000  # of a Cholesky factor
MAX_COLOURS = 1024
MAX_DIRECTIONS = 64  # of one call


class SparseHessian(NamedTuple):
    """How to find the Hessian of a density, and to factorise it."""

    density: Density
    colouring: Colouring
    elimination: Elimination
    hubs: Indices  # coordinates that meet very many others
    # Those of them that others are nearly Gaussian given: of short latents, if there are any. Hubs
    # of longer latents, such as effects of a few items, are nearly Gaussian given these.
    hyperparameters: Indices

    @property
    def dim(self) -> int:
        return len(self.colouring.colours)

    def mean(self, X: Floats) -> SparseMatrix:
        """Return the mean (D, D) of the Hessians at points X (n, D)."""
        colours, rows, columns = self.colouring
        total, directions = np.zeros((self.colouring.num, self.dim)), self._directions()
        for x in X:
            products = np.concatenate(self.density.hessian_products(x, directions))
            total += products[: len(total)]
        values = total[colours[columns], rows] / len(X)
        off = rows != columns
        both = (
            np.concatenate([values, values[off]]),
            (np.concatenate([rows, columns[off]]), np.concatenate([columns, rows[off]])),
        )
        return scipy.sparse.csc_array(both, shape=(self.dim, self.dim))

    def _directions(self) -> list[Floats]:
        """Return the sums of columns of every colour, in calls of equal shapes."""
        num = int(np.clip(WORK // max(self.density.log_joint.cost, 1), 1, MAX_DIRECTIONS))
        calls = -(-self.colouring.num // num)
        each = -(-self.colouring.num // calls)
        units = np.zeros((calls * each, self.dim), self.density.dtype)
        units[self.colouring.colours, np.arange(self.dim)] = 1
        return np.split(units, calls)


def require_sparse(density: Density) -> SparseHessian:
    """Return how to find a density's Hessian; ValueError where it is not sparse."""
    found = sparse_hessian(density)
    if found is None:
        raise ValueError(
            "family: got 'sparse', and nearly all coordinates meet in the log-joint, such as in a "
            "matrix product, a cumulative sum, a loop or a Cholesky factor; expected latents that "
            "meet in small numbers. Choose another family, or write the prior of increments "
            "instead of their sum."
        )
    return found


def sparse_hessian(density: Density) -> SparseHessian | None:
    """Return how to find a density's Hessian; None where it is not sparse enough to be worth it."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(density.data))]
    try:
        pattern = hessian_pattern(density.trace_value(), leaves)
    except TooDenseError:
        return None
    parts = [np.arange(*span) for span in density.model.spans.values()]
    groups = groups_of(pattern, parts)
    order = elimination(pattern, groups, MAX_ENTRIES)
    if order is None:
        return None
    colouring = coloured(pattern, groups)
    if colouring.num > MAX_COLOURS:
        return None
    short = [part for part in parts if len(part) <= SHORT]
    of_short = np.intersect1d(groups.hubs, np.concatenate([*short, np.zeros(0, int)]))
    return SparseHessian(
        density, colouring, order, groups.hubs, of_short if len(of_short) else groups.hubs
    )
