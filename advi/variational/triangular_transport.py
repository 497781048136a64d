"""The triangular family on the host, with derivatives by hand: no program to compile."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from advi.core.types import Floats, Indices
from advi.variational.transport import Drawn, log_normal
from advi.variational.triangular import Triangular, TriangularParams
from advi.variational.triangular_map import (
    Forward,
    Layer,
    forward,
    gradient,
    inverse,
    pull_back,
    push_score,
)


class TriangularTransport:
    """A `Triangular` family's distribution; the parameters of its maps move."""

    def __init__(self, family: Triangular, params: TriangularParams) -> None:
        self.family = family
        self.loc, self.tril = (np.asarray(a, np.float64) for a in params[:2])
        self.layers = tuple(
            Layer(*(np.asarray(leaf, np.float64) for leaf in layer)) for layer in params.layers
        )
        self.order: Indices = family.in_order(len(self.loc))
        self._back = np.argsort(self.order)
        self._log_det = float(np.log(np.diag(self.tril)).sum())

    @property
    def noise_dim(self) -> int:
        return len(self.loc)

    @property
    def vector(self) -> Floats:
        return _raveled(self.layers)

    def at(self, vector: Floats) -> TriangularTransport:
        layers, start = [], 0
        for layer in self.layers:
            leaves = []
            for leaf in layer:
                leaves.append(vector[start : start + leaf.size].reshape(leaf.shape))
                start += leaf.size
            layers.append(Layer(*leaves))
        params = TriangularParams(self.loc, self.tril, tuple(layers))  # type: ignore[arg-type]
        return TriangularTransport(self.family, params)

    def draw(self, E: Floats) -> Drawn:
        passed: list[Forward] = []
        u, log_det = E, np.zeros(len(E))
        for layer in self.layers:
            passed.append(forward(layer, u))
            u, log_det = passed[-1].u, log_det + passed[-1].log_det
        X = (self.loc + u @ self.tril.T)[:, self._back]
        log_q = log_normal(E) - log_det - self._log_det
        return Drawn(X, log_q, E, passed)

    def gradient(self, drawn: Drawn, G: Floats) -> Floats:
        pairs = list(zip(self.layers, drawn.kept, strict=True))
        score = -drawn.noise
        for layer, passed in pairs:
            score = push_score(layer, passed, score)
        # sticking the landing: log q at held parameters, whose noise vanishes at the posterior
        path = G[:, self.order] @ self.tril - score
        found = []
        for layer, passed in reversed(pairs):
            found.append(gradient(layer, passed, path, of_log_det=False))
            path = pull_back(layer, passed, path, of_log_det=False)
        return _raveled(found[::-1])

    def pull_back(self, drawn: Drawn, G: Floats) -> Floats:
        pulled = G[:, self.order] @ self.tril
        for layer, passed in reversed(list(zip(self.layers, drawn.kept, strict=True))):
            pulled = pull_back(layer, passed, pulled, of_log_det=True)
        return pulled

    def noise_of(self, X: Floats) -> Floats:
        u = scipy.linalg.solve_triangular(self.tril, (X[:, self.order] - self.loc).T, lower=True).T
        for layer in reversed(self.layers):
            u = inverse(layer, u)
        return u

    def params(self, family: Any) -> TriangularParams:
        return TriangularParams(self.loc, self.tril, self.layers)  # type: ignore[arg-type]


def _raveled(layers: Any) -> Floats:
    return np.concatenate([leaf.ravel() for layer in layers for leaf in layer])
