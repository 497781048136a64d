"""Precisions of effects given hubs, by a polynomial in the hubs once enough are known."""

import numpy as np
import scipy

from advi.core.types import Floats, SparseMatrix
from advi.variational.gaussian import Gaussian

# Precisions that a polynomial is fitted to, for each of its coefficients, and that it is tested on;
# sds of the hubs up to which it is taken.
PER_COEFFICIENT, HELD_OUT, MAX_DISTANCE = 2, 3, 5.0
MAX_VARIANCE = 0.2  # of the log weights, that its errors add


def num_precisions(num_hubs: int) -> int:
    """Return from how many Hessians others are predicted by lines and squares."""
    return PER_COEFFICIENT * (1 + 2 * num_hubs) + HELD_OUT


class HubPrecisions:
    """Precisions given the hubs, by a polynomial in these once enough are known.

    It is linear, then has squares, then products, until its errors are small. They are of
    proposals: the weights take up the rest.
    """

    def __init__(self, hubs: Gaussian) -> None:
        self.hubs = hubs
        dim = len(hubs.loc)
        squares, products = np.diag_indices(dim), np.triu_indices(dim, 1)
        all_pairs = np.concatenate([squares, products], axis=1)
        self.pairs = [all_pairs[:, :0], all_pairs[:, :dim], all_pairs]  # of terms of second order
        self.known: list[tuple[Floats, SparseMatrix]] = []
        self.coefficients: Floats | None = None  # (basis, entries)

    def learn(self, hubs: Floats, precision: SparseMatrix) -> None:
        """Take a precision that was computed."""
        if self.coefficients is not None or not self.pairs:
            return
        self.known.append((hubs, precision))
        size = 1 + len(hubs) + self.pairs[0].shape[1]
        if len(self.known) < PER_COEFFICIENT * size + HELD_OUT:
            return
        basis = self._basis(np.array([hubs for hubs, _ in self.known]))
        entries = np.array([precision.data for _, precision in self.known])
        found = np.linalg.lstsq(basis[:-HELD_OUT], entries[:-HELD_OUT], rcond=None)[0]
        errors = basis[-HELD_OUT:] @ found - entries[-HELD_OUT:]
        columns = np.repeat(np.arange(precision.shape[1]), np.diff(precision.indptr))
        variances = np.abs(precision.diagonal())
        scaled = errors**2 / (variances[precision.indices] * variances[columns])
        if 0.5 * scaled.sum(1).mean() <= MAX_VARIANCE:
            self.coefficients = np.asarray(found, float)
        else:
            self.pairs.pop(0)

    def predicted(self, hubs: Floats) -> SparseMatrix | None:
        """Return the precision at hubs (H,), or None if it must be computed."""
        if self.coefficients is None or np.abs(self._standard(hubs)).max() > MAX_DISTANCE:
            return None
        like = self.known[0][1]
        entries = (self._basis(hubs[None]) @ self.coefficients)[0]
        return scipy.sparse.csc_array((entries, like.indices, like.indptr), shape=like.shape)

    def _standard(self, hubs: Floats) -> Floats:
        return (hubs - self.hubs.loc) / self.hubs.sds

    def _basis(self, hubs: Floats) -> Floats:
        z = self._standard(hubs)
        first, second = self.pairs[0]
        return np.concatenate([np.ones((len(z), 1)), z, z[:, first] * z[:, second]], axis=1)
