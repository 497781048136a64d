"""Entries of the inverse of a sparse matrix, by its Cholesky factor."""

import numpy as np
import scipy

from advi.core.types import Floats, SparseMatrix

MAX_TAIL = 4096  # last columns that are taken as dense


def inverse_diagonal(lower: SparseMatrix) -> Floats:
    """Return the diagonal (D,) of the inverse of R R', for a lower triangular R (D, D).

    Only entries of the inverse where the factor has some are computed, from the last column to the
    first (Erisman & Tinney 1975).
    """
    dim, pivots = lower.shape[0], lower.diagonal() ** 2
    lower = scipy.sparse.csc_array(
        lower @ scipy.sparse.diags_array(pivots**-0.5)
    )  # ones on its diagonal
    lower.sort_indices()
    starts, rows, values = lower.indptr, lower.indices, lower.data
    tail = _dense_tail(lower)
    block = scipy.sparse.csr_array(lower)[tail:, tail:].toarray()
    inverse = np.linalg.inv(block)
    Z_tail = (inverse.T / pivots[tail:]) @ inverse
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
        variances[j] = 1 / pivots[j] + weights @ product
        full[~keep] = variances[j]
        found[part] = full
    return variances


def _dense_tail(lower: SparseMatrix) -> int:
    """Return the first column from which on the factor is nearly a full triangle."""
    dim = lower.shape[0]
    counts = np.diff(lower.indptr)[::-1].cumsum()  # of the last columns
    sizes = np.arange(1, dim + 1)
    full = counts >= 0.5 * sizes * (sizes + 1) / 2
    full &= sizes <= MAX_TAIL
    return dim - int(sizes[full].max(initial=1))
