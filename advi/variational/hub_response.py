"""How the precision of effects responds to hubs, and what that adds to the variance of these.

A Gaussian has one precision P of the effects for all values of the hubs, such as the effects' sd.
The posterior's P(hubs) changes with them: its hubs have the marginal precision S - C, where S is
that of the Gaussian, and C_ij = tr(P_i P^-1 P_j P^-1) / 2 with P_i = dP / d hub_i, the effects
being at their conditional means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy

from advi.core.types import Floats, Indices
from advi.variational.gaussian import Gaussian
from advi.variational.precision_scale import PrecisionScale, ridged

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

PROBES = 12  # random directions of the effects, for the trace
MAX_RATE = 0.99  # of C over S, any direction


@dataclass(frozen=True, eq=False)
class HubProbe:
    """Points around a Gaussian whose gradients tell the response of P to the hubs."""

    gaussian: Gaussian  # with a sparse precision
    hubs: Indices  # (H,)
    noise: Float[ndarray, "M D"]  # standard normal

    @property
    def scale(self) -> PrecisionScale:
        return self.gaussian.scale  # type: ignore[return-value]

    @cached_property
    def columns(self) -> Float[ndarray, "H D"]:
        """Columns of the covariance of all coordinates, one for each hub."""
        units = np.zeros((len(self.hubs), len(self.gaussian.loc)))
        units[np.arange(len(self.hubs)), self.hubs] = 1
        return self.scale.covariance_times(units)

    @cached_property
    def precision(self) -> Float[ndarray, "H H"]:
        """Marginal precision S of the hubs."""
        return np.linalg.inv(self.columns[:, self.hubs])

    @cached_property
    def effects(self) -> Float[ndarray, "M D"]:
        """Draws around the mean given the hubs at their means."""
        return self._given_hubs(self.scale.mv(self.noise))

    @cached_property
    def paths(self) -> Float[ndarray, "H D"]:
        """Slopes of all conditional means in each hub."""
        return self.precision @ self.columns

    @property
    def steps(self) -> Float[ndarray, " H"]:
        """Distances of the hubs from their means: sds given the other hubs."""
        return np.diag(self.precision) ** -0.5

    def points(self) -> Float[ndarray, "N D"]:
        """Return the points, N = 4 H M, at which gradients are needed."""
        signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        X = np.tile(self.gaussian.loc, (4, len(self.hubs), len(self.noise), 1))
        X += signs[:, 1, None, None, None] * self.effects
        X += signs[:, 0, None, None, None] * (self.steps[:, None] * self.paths)[:, None]
        return X.reshape(-1, X.shape[-1])

    def response(self, gradients: Float[ndarray, "N D"]) -> Float[ndarray, "H H"]:
        """Return C, at most `MAX_RATE` of S in any direction, from the gradients at the points."""
        G = gradients.reshape(4, len(self.hubs), *self.noise.shape)
        W = (G[1] - G[0] + G[2] - G[3]) / (4 * self.steps[:, None, None])  # P_i v
        W[:, :, self.hubs] = 0
        flat = W.reshape(-1, W.shape[-1])
        solved = self._given_hubs(self.scale.covariance_times(flat)).reshape(W.shape)
        C = 0.5 * np.einsum("imd,jmd->ij", W, solved) / len(self.noise)
        if not np.isfinite(C).all():
            return np.zeros_like(C)
        root = np.linalg.cholesky(self.precision)
        inner = np.linalg.solve(root, np.linalg.solve(root, (C + C.T) / 2).T)
        rates, vectors = np.linalg.eigh((inner + inner.T) / 2)
        basis = root @ vectors
        return basis * np.clip(rates, 0.0, MAX_RATE) @ basis.T

    def num_draws(self, response: Float[ndarray, "H H"], error: float) -> float:
        """Return how many draws the mean gradient takes for hubs with an error of so many sds.

        The part of a draw's gradient of which C is the variance is even in the noise, so that
        antithetic pairs count once.
        """
        excess = np.linalg.eigvals(np.linalg.solve(self.precision - response, response)).real
        return float(2 * excess.max(initial=0.0) / error**2)

    def moved(self, step: Float[ndarray, " D"], response: Float[ndarray, "H H"]) -> Floats:
        """Return a Newton step (D,) of the means that allows for the response of P."""
        of_hubs = step[self.hubs]
        longer = np.linalg.solve(self.precision - response, self.precision @ of_hubs)
        return step + (longer - of_hubs) @ self.paths

    def widened(self, response: Float[ndarray, "H H"]) -> Gaussian:
        """Return the Gaussian whose hubs have the marginal precision S - C."""
        size = len(self.gaussian.loc)
        rows, columns = np.meshgrid(self.hubs, self.hubs, indexing="ij")
        added = scipy.sparse.coo_array(
            (-response.ravel(), (rows.ravel(), columns.ravel())), (size, size)
        )
        found = ridged(scipy.sparse.csc_array(self.scale.precision + added), self.scale.order)
        return self.gaussian if found is None else Gaussian(self.gaussian.loc, found)

    def _given_hubs(self, X: Float[ndarray, "M D"]) -> Floats:
        """Return X less its regression on the hubs."""
        return X - X[:, self.hubs] @ self.paths
