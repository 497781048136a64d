"""Colours for the columns of a sparse symmetric matrix, so that few products with it give it all.

Products with the sums of the columns of each colour show every entry, if no two columns of a colour
have an entry in the same row. The matrix is symmetric: an entry is read in one of its two columns,
the one whose group comes later, so that rows of later groups do not keep columns apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from advi.core.types import Indices, SparseMatrix

# Hubs meet many coordinates: more than each, a number, times the median, a share of all.
HUB_DEGREE, HUB_RATIO, HUB_SHARE = 32, 8, 0.25
SHORT = 8  # columns of a part that are hubs whatever they meet, if these are few beside the others


class Colouring(NamedTuple):
    """Colours of the columns, and where the products hold each entry."""

    colours: Indices  # (D,)
    rows: Indices  # (K,) of one of each pair of entries, in the row of its product
    columns: Indices  # (K,)

    @property
    def num(self) -> int:
        return int(self.colours.max(initial=-1)) + 1


class Groups(NamedTuple):
    """The columns in groups, those of hubs last."""

    parts: list[Indices]  # the largest first
    hubs: Indices  # columns with entries in very many rows, or of short parts: hyperparameters

    @property
    def all(self) -> list[Indices]:
        return [group for group in (*self.parts, self.hubs) if len(group)]


def groups_of(pattern: SparseMatrix, parts: Sequence[Indices]) -> Groups:
    """Return the columns of a symmetric pattern in groups, which refine given parts."""
    degrees = np.diff(pattern.indptr)
    few = max(HUB_DEGREE, HUB_RATIO * float(np.median(degrees)), HUB_SHARE * len(degrees))
    hub = degrees > few
    short = [part for part in parts if len(part) <= SHORT]
    if sum(map(len, short)) < HUB_SHARE * len(degrees):
        hub[np.concatenate([*short, np.zeros(0, int)])] = True
    by_size = sorted((part[~hub[part]] for part in parts), key=len, reverse=True)
    return Groups(by_size, np.flatnonzero(hub))


def coloured(pattern: SparseMatrix, groups: Groups) -> Colouring:
    """Return a colouring of a symmetric pattern (D, D), greedy within each group of columns."""
    dim = pattern.shape[0]
    rank, place = np.empty(dim, int), np.empty(dim, int)
    for r, group in enumerate(groups.all):
        rank[group], place[group] = r, np.arange(len(group))
    colours, first = np.empty(dim, int), 0
    by_column = scipy.sparse.csc_array(pattern)
    for r, group in enumerate(groups.all):
        part = by_column[:, group]
        kept = rank[part.indices] <= r
        columns = np.repeat(np.arange(len(group)), np.diff(part.indptr))[kept]
        own = _greedy(part.indices[kept], columns, len(group))
        colours[group] = first + own
        first += int(own.max(initial=-1)) + 1
    entries = scipy.sparse.coo_array(pattern)
    rows, columns = (np.asarray(index, int) for index in entries.coords)
    order = rank * dim + place
    one_of_each = order[rows] <= order[columns]
    return Colouring(colours, rows[one_of_each], columns[one_of_each])


def _greedy(rows: Indices, columns: Indices, num: int) -> Indices:
    """Return colours (num,) such that no two columns of a colour share a row."""
    if not len(rows) or np.bincount(rows).max() == 1:
        return np.zeros(num, int)
    taken: dict[int, int] = {}  # the colours of a row, as bits
    found = np.zeros(num, int)
    starts = np.searchsorted(columns, np.arange(num + 1))
    listed = rows.tolist()
    for j in range(num):
        of_column = listed[starts[j] : starts[j + 1]]
        used = 0
        for i in of_column:
            used |= taken.get(i, 0)
        free = ~used & (used + 1)  # the lowest colour that no row has
        for i in of_column:
            taken[i] = taken.get(i, 0) | free
        found[j] = free.bit_length() - 1
    return found
