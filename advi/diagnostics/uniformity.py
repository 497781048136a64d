"""Whether ranks are uniform: simultaneous bands of an empirical distribution function.

References
----------
Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison, section 2.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy

from advi.core.types import Floats

GRID, SIMULATIONS = 100, 10_000


class Bands(NamedTuple):
    """Simultaneous bands of the distribution function of uniform values."""

    at: Floats  # (G,) where
    lower: Floats  # (G,)
    upper: Floats  # (G,)


def p_value(values: Floats) -> float:
    """Return the probability that uniform values (n,) leave the pointwise bands as far as these."""
    least, _ = _simulated(len(values))
    own = _least(_counts(values[None]), len(values))[0]
    return float((1 + (least <= own).sum()) / (1 + len(least)))


def bands(num: int, level: float) -> Bands:
    """Return the bands within which all of the function of `num` uniform values is, by `level`."""
    least, at = _simulated(num)
    gamma = np.quantile(least, 1 - level)
    lower, upper = (quantile(p, num, at) / num for p in (gamma / 2, 1 - gamma / 2))
    return Bands(at, lower, upper)


def quantile(p: float, num: int, shares: Any) -> Floats:
    """Return the smallest counts of a binomial distribution, for each share, by probability p.

    Examples
    --------
    >>> quantile(0.5, 10, [0.2, 0.5]).tolist()
    [2.0, 5.0]
    """
    return (_below(num, shares)[1:] < p).sum(0).astype(float)


@lru_cache(maxsize=8)
def _simulated(num: int) -> tuple[Floats, Floats]:
    """Return the smallest pointwise p-value of simulated uniform values (S,), and the grid."""
    rng = np.random.default_rng(0)
    # counts between grid points are multinomial: no need of the values themselves
    counts = rng.multinomial(num, np.full(GRID, 1 / GRID), SIMULATIONS)
    return _least(counts.cumsum(1)[:, :-1], num), _grid()


def _grid() -> Floats:
    return np.arange(1, GRID) / GRID


def _counts(values: Floats) -> np.ndarray:
    return (values[:, :, None] <= _grid()).sum(1)


def _least(counts: np.ndarray, num: int) -> Floats:
    """Return the smallest of the two-sided pointwise p-values of counts (S, G)."""
    table = _below(num, _grid())
    column = np.arange(counts.shape[1])
    below, above = table[counts + 1, column], 1 - table[counts, column]
    return 2 * np.minimum(below, above).min(1)


def _below(num: int, shares: Any) -> Floats:
    """Return the binomial distribution function at -1, 0, ..., num for each share, (num + 2, G)."""
    counts = np.arange(num + 1)[:, None]
    return np.concatenate(
        [np.zeros((1, len(shares))), scipy.special.bdtr(counts, num, np.asarray(shares))]
    )
