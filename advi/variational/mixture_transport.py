"""The mixture of Gaussians on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from advi.core.types import Floats
from advi.variational.gaussian import Gaussian
from advi.variational.mixture import MixtureParams
from advi.variational.transport import Drawn, log_normal


class MixtureTransport:
    """A mixture of Gaussians; no parameter moves by steps.

    The first entry of the noise chooses the component. The density is continuous within each.
    """

    def __init__(self, params: MixtureParams) -> None:
        log_weights, self.locs, self.trils = (np.asarray(a, np.float64) for a in params)
        self.log_weights: Floats = log_weights - scipy.special.logsumexp(log_weights)
        self._log_dets = np.log(np.diagonal(self.trils, axis1=1, axis2=2)).sum(1)

    @classmethod
    def of(
        cls, gaussians: Sequence[Gaussian], log_weights: Sequence[float] = (0.0,)
    ) -> MixtureTransport:
        """Return the mixture of Gaussians (K) with log weights up to a constant."""
        locs = np.stack([q.loc for q in gaussians])
        trils = np.stack([q.scale.tril() for q in gaussians])
        return cls(MixtureParams(np.array(log_weights), locs, trils))  # type: ignore[arg-type]

    @property
    def noise_dim(self) -> int:
        return self.locs.shape[1] + 1

    @property
    def vector(self) -> Floats:
        return np.zeros(0)

    def at(self, vector: Floats) -> MixtureTransport:
        return self

    def draw(self, E: Floats) -> Drawn:
        bounds = np.cumsum(np.exp(self.log_weights))[:-1]
        chosen = np.searchsorted(bounds, scipy.special.ndtr(E[:, 0]))
        X = np.empty((len(E), self.noise_dim - 1))
        for k, (loc, tril) in enumerate(zip(self.locs, self.trils, strict=True)):
            X[chosen == k] = loc + E[chosen == k, 1:] @ tril.T
        joint, whitened = self._joint(X)
        log_q: Floats = np.asarray(scipy.special.logsumexp(joint, axis=1), float)
        with np.errstate(invalid="ignore"):  # of a point that is infinite
            responsibilities = np.exp(joint - log_q[:, None])
        return Drawn(X, log_q, E, (chosen, responsibilities, whitened))

    def responsibilities(self, drawn: Drawn) -> Floats:
        """Return the probabilities of the components at draws, (M, K)."""
        return np.asarray(drawn.kept[1], float)

    def gradient(self, drawn: Drawn, G: Floats) -> Floats:
        return np.zeros(0)

    def pull_back(self, drawn: Drawn, G: Floats) -> Floats:
        chosen, responsibilities, whitened = drawn.kept
        path = np.array(G)
        for k, tril in enumerate(self.trils):
            # less the score of q
            score = scipy.linalg.solve_triangular(
                tril, whitened[k].T, lower=True, trans=1, check_finite=False
            ).T
            path += responsibilities[:, k : k + 1] * score
        pulled = np.empty_like(path)
        for k, tril in enumerate(self.trils):
            pulled[chosen == k] = path[chosen == k] @ tril
        return np.column_stack([-drawn.noise[:, 0], pulled - drawn.noise[:, 1:]])

    def noise_of(self, X: Floats) -> None:
        return None

    def params(self, family: Any) -> MixtureParams:
        return MixtureParams(self.log_weights, self.locs, self.trils)  # type: ignore[arg-type]

    def _joint(self, X: Floats) -> tuple[Floats, list[Floats]]:
        """Return log weight + log density under every component (M, K), and whitened points."""
        joint, whitened = [], []
        for k, (loc, tril) in enumerate(zip(self.locs, self.trils, strict=True)):
            u = scipy.linalg.solve_triangular(tril, (X - loc).T, lower=True, check_finite=False).T
            whitened.append(u)
            joint.append(self.log_weights[k] + log_normal(u) - self._log_dets[k])
        return np.stack(joint, axis=1), whitened
