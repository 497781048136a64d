"""Sets of coordinates, one for each entry of an array: the rows (n, D) of sparse matrices."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from advi.core.types import SparseMatrix

MAX_PAIRS = 2**27  # of coordinates that one operation may add, and of entries of the sets


class TooDenseError(Exception):
    """The pattern is not sparse enough to be worth finding."""


class Flow(NamedTuple):
    """What is known of an array of the trace."""

    sets: SparseMatrix | None  # (size, D): the coordinates of each entry; None without any
    value: NDArray[Any] | None = None  # without any, if arithmetic alone gives it


class Pairs:
    """The pairs of coordinates that have met."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._found = identity(dim)

    def symmetric(self) -> Any:
        return as_pattern(self._found + self._found.T)

    def meet(self, a: SparseMatrix, b: SparseMatrix) -> None:
        """Add the pairs of sets (n, D) of the same entries, one of each."""
        if a is None or b is None:
            return
        if int((np.diff(a.indptr).astype(float) * np.diff(b.indptr)).sum()) > MAX_PAIRS:
            raise TooDenseError
        self._found = as_pattern(self._found + a.T @ b)

    def mix(self, a: SparseMatrix) -> None:
        """Add all pairs within each set."""
        self.meet(a, a)


def union(parts: Any) -> Any:
    """Return the unions of sets (n, D) of the same entries."""
    found = [part for part in parts if part is not None]
    if len(found) < 2:
        return found[0] if found else None
    return as_pattern(sum(found[1:], found[0]))


def any_row(sets: SparseMatrix) -> Any:
    """Return the union (1, D) of all sets."""
    return None if sets is None else gathered_into(sets, np.zeros(sets.shape[0], int), 1)


def spread(sets: SparseMatrix | None, shape: Sequence[int], whole: Sequence[int]) -> Any:
    """Return the sets of an operand at every entry of a result, to which it is broadcast."""
    if sets is None or tuple(shape) == tuple(whole):
        return sets
    return sets[np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), whole).ravel()]


def taken(sets: Sequence[Any], sizes: Sequence[int], source: NDArray[Any], dim: int) -> Any:
    """Return the sets of entries that come from those of all operands, one after another."""
    empty = [empty_sets(size, dim) for size in (*sizes, 1)]
    parts = [e if s is None else s for s, e in zip((*sets, None), empty, strict=True)]
    whole: SparseMatrix = scipy.sparse.vstack(parts, "csr")
    return whole[source]


def gathered_into(sets: SparseMatrix, into: NDArray[Any], size: int) -> Any:
    """Return the unions of the sets that go into the same entry."""
    return None if sets is None else passed_on(into, np.arange(len(into)), size, sets)


def passed_on(into: NDArray[Any], source: NDArray[Any], size: int, sets: SparseMatrix) -> Any:
    """Return the unions (size, D) of sets, by which entries go into which."""
    counts = np.ones(len(into), np.int32)
    passed = scipy.sparse.csr_array((counts, (into, source)), shape=(size, sets.shape[0]))
    require_memory(int(np.diff(sets.indptr)[source].sum()))
    return as_pattern(passed @ sets)


def identity(dim: int) -> Any:
    """Return the sets (D, D) of the coordinates themselves."""
    return as_pattern(scipy.sparse.eye_array(dim, format="csr"))


def empty_sets(size: int, dim: int) -> Any:
    """Return sets (size, D) without any coordinate."""
    return scipy.sparse.csr_array((size, dim), dtype=np.int32)


def as_pattern(sets: SparseMatrix) -> Any:
    """Return a pattern with ones, whatever the numbers were."""
    sets = scipy.sparse.csr_array(sets)
    sets.data = np.ones(len(sets.data), np.int32)
    return sets


def require_memory(entries: float) -> None:
    """Raise TooDenseError if there would be more entries than the memory is good for."""
    if entries > MAX_PAIRS:
        raise TooDenseError


def mixed(sets: Sequence[Any], sizes: Sequence[int], pairs: Pairs) -> list[Any]:
    """Return the sets of results of given sizes, of an operation of which nothing is known."""
    row = union(any_row(part) for part in sets)
    pairs.mix(row)
    require_memory(sum(sizes) * row.nnz)
    return [row[np.zeros(size, int)] for size in sizes]
