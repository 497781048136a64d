"""Precisions of effects given hubs, by a quadratic in the hubs once enough are known."""

import numpy as np
from scipy import sparse

from advi.core.types import Floats, SparseMatrix
from advi.variational.gaussian import Gaussian

# Precisions that a quadratic in the hubs is fitted to, for each of its coefficients; errors of the
# quadratic, as a share of the diagonal, and sds of the hubs, up to which it is taken.
PER_COEFFICIENT, HELD_OUT, MAX_MISFIT, MAX_DISTANCE = 2, 3, 0.01, 5.0


def num_precisions(num_hubs: int) -> int:
    """Return from how many Hessians all others are predicted."""
    return PER_COEFFICIENT * (1 + num_hubs + num_hubs * (num_hubs + 1) // 2) + HELD_OUT


class HubPrecisions:
    """Precisions given the hubs, by a quadratic in these once enough are known.

    They are of proposals: the weights take up their errors.
    """

    def __init__(self, hubs: Gaussian) -> None:
        self.hubs = hubs
        self.pairs = np.triu_indices(len(hubs.loc))
        self.enough = num_precisions(len(hubs.loc))
        self.known: list[tuple[Floats, SparseMatrix]] = []
        self.coefficients: Floats | None = None  # (basis, entries)

    def learn(self, hubs: Floats, precision: SparseMatrix) -> None:
        if len(self.known) >= self.enough:
            return
        self.known.append((hubs, precision))
        if len(self.known) == self.enough:
            basis = self._basis(np.array([hubs for hubs, _ in self.known]))
            entries = np.array([precision.data for _, precision in self.known])
            found = np.linalg.lstsq(basis[:-HELD_OUT], entries[:-HELD_OUT], rcond=None)[0]
            errors = np.abs(basis[-HELD_OUT:] @ found - entries[-HELD_OUT:])
            columns = np.repeat(np.arange(precision.shape[1]), np.diff(precision.indptr))
            size = np.sqrt(np.abs(precision.diagonal()))
            if (errors <= MAX_MISFIT * size[precision.indices] * size[columns]).all():
                self.coefficients = np.asarray(found, float)

    def predicted(self, hubs: Floats) -> SparseMatrix | None:
        if self.coefficients is None or np.abs(self._standard(hubs)).max() > MAX_DISTANCE:
            return None
        like = self.known[0][1]
        entries = (self._basis(hubs[None]) @ self.coefficients)[0]
        return sparse.csc_array((entries, like.indices, like.indptr), shape=like.shape)

    def _standard(self, hubs: Floats) -> Floats:
        return (hubs - self.hubs.loc) / self.hubs.sds

    def _basis(self, hubs: Floats) -> Floats:
        z = self._standard(hubs)
        first, second = self.pairs
        return np.concatenate([np.ones((len(z), 1)), z, z[:, first] * z[:, second]], axis=1)
