"""Weighted draws on R^D."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class WeightedDraws(NamedTuple):
    """Points on R^D and their normalised weights."""

    points: Floats  # (S, D)
    weights: Floats  # (S,) sum to one

    @property
    def ess(self) -> float:
        """Kish's effective number of draws, 1 / sum w^2."""
        return float(1 / np.sum(self.weights**2))

    def resample(self, num: int, rng: np.random.Generator) -> Floats:
        """Return `num` points drawn by systematic resampling, in random order."""
        places = (np.arange(num) + rng.random()) / num
        index = np.searchsorted(np.cumsum(self.weights), places, side="right")
        return self.points[rng.permutation(np.minimum(index, len(self.weights) - 1))]


def moments(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return weighted means and sds (K,) of columns (S, K)."""
    mean = weights @ values
    variance = weights @ (values - mean) ** 2
    return mean, np.sqrt(variance)
