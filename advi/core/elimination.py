"""The order in which a sparse Cholesky factorisation eliminates, and the entries that it fills."""

from typing import NamedTuple

import numpy as np
import scipy

from advi.core.colouring import Groups
from advi.core.types import Indices, SparseMatrix


class Elimination(NamedTuple):
    """An order of elimination, and its cost."""

    order: Indices  # (D,)
    entries: int  # of the factor


def elimination(pattern: SparseMatrix, groups: Groups, max_entries: int) -> Elimination | None:
    """Return the cheaper of two orders of a symmetric pattern (D, D); None if both fill too much.

    One takes the groups one after another, so that effects which do not meet go first. The other
    keeps neighbours together (Cuthill & McKee 1969). In both hubs are last.
    """
    found = []
    rest = np.concatenate([*groups.parts, np.zeros(0, int)])
    near = scipy.sparse.csgraph.reverse_cuthill_mckee(
        scipy.sparse.csr_matrix(pattern[rest][:, rest]), symmetric_mode=True
    )
    for part in (rest, rest[near]):
        order = np.concatenate([part, groups.hubs])
        entries = _entries(pattern, order, max_entries)
        if entries is not None:
            found.append(Elimination(order, entries))
            max_entries = entries
    return min(found, key=lambda e: e.entries, default=None)


def _entries(pattern: SparseMatrix, order: Indices, limit: int) -> int | None:
    """Return the entries of the Cholesky factor in an order, or None if they are more.

    By the elimination tree: row by row, the paths from its entries towards the root (Davis 2006,
    Direct Methods for Sparse Linear Systems, section 4.4).
    """
    dim = len(order)
    permuted: SparseMatrix = scipy.sparse.tril(pattern[order][:, order], -1, format="csr")
    starts, columns = permuted.indptr.tolist(), permuted.indices.tolist()
    parent, seen = [-1] * dim, [-1] * dim
    total = dim
    for i in range(dim):
        seen[i] = i
        for k in columns[starts[i] : starts[i + 1]]:
            j = k
            while seen[j] != i:
                seen[j] = i
                total += 1
                if parent[j] < 0:
                    parent[j] = i
                j = parent[j]
        if total > limit:
            return None
    return total
