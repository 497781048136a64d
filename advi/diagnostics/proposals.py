"""Proposals of importance sampling over the random coordinates of R^D, and the frame of chains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.special import gammaln

from advi.core.types import LOG_2PI, Floats, Indices
from advi.variational.gaussian import Gaussian
from advi.variational.transport import Transport


class Proposal(Protocol):
    """A distribution of points Y (n, dim) of the random coordinates."""

    @property
    def noise_dim(self) -> int: ...
    @property
    def gaussian(self) -> Gaussian: ...  # its moments

    def draw(self, E: Floats) -> tuple[Floats, Floats]:
        """Return the points of noise E (n, noise_dim), and their log densities (n,)."""
        ...

    def log_density(self, Y: Floats) -> Floats | None:
        """Return log densities (n,) of points, or None if they are not known."""
        ...


@dataclass
class GaussianProposal:
    """A Gaussian."""

    gaussian: Gaussian

    @property
    def noise_dim(self) -> int:
        return len(self.gaussian.loc)

    def draw(self, E: Floats) -> tuple[Floats, Floats]:
        standard = log_standard((E**2).sum(1), E.shape[1], np.inf)
        log_det = self.gaussian.scale.log_det(np.ones(E.shape[1], bool))
        return self.gaussian.points(E), standard - log_det

    def log_density(self, Y: Floats) -> Floats:
        return self._dense.log_density(Y)

    @cached_property
    def _dense(self) -> "StudentT":
        return StudentT(self.gaussian.loc, self.gaussian.scale.tril(), np.inf)


@dataclass
class MapProposal:
    """A fit that is no Gaussian, as the map from noise to points that it is.

    Attributes
    ----------
    transport
        The map to all coordinates of R^D.
    random
        Indices of those that are random.
    points
        From points of the random coordinates to points of R^D.
    gaussian
        Mean and scale of the fit over the random coordinates.
    """

    transport: Transport
    random: Indices
    points: Callable[[Floats], Floats]
    gaussian: Gaussian

    @property
    def noise_dim(self) -> int:
        return self.transport.noise_dim

    def draw(self, E: Floats) -> tuple[Floats, Floats]:
        drawn = self.transport.draw(E)
        return drawn.points[:, self.random], drawn.log_q

    def log_density(self, Y: Floats) -> Floats | None:
        return self.transport.log_prob(self.points(Y))

    def noise_of(self, Y: Floats) -> Floats | None:
        """Return the noise of points, or None if the inverse of the map is not known."""
        return self.transport.noise_of(self.points(Y))

    def value_and_grad(
        self, log_p: Callable[[Floats], tuple[Floats, Floats]], E: Floats
    ) -> tuple[Floats, Floats]:
        """Return the log density of the noise under the posterior, and its gradient.

        `log_p` is that of all coordinates of R^D, and its gradient (n, D).
        """
        drawn = self.transport.draw(E)
        X = np.where(np.isfinite(drawn.points), drawn.points, 0.0)
        values, gradients = log_p(X)
        values = np.where(np.isfinite(drawn.points).all(1), values, -np.inf)
        log_jacobian = -0.5 * (E**2 + LOG_2PI).sum(1) - drawn.log_q
        return values + log_jacobian, self.transport.pull_back(drawn, gradients)


@dataclass
class StudentT:
    """A multivariate Student-t, or a Gaussian for infinite degrees of freedom."""

    loc: Floats
    scale_tril: Floats
    degrees: float

    @cached_property
    def _whitening(self) -> Floats:
        # one inverse for all draws
        return np.asarray(np.linalg.inv(self.scale_tril).T, float)

    def sample(self, num: int, rng: np.random.Generator) -> Floats:
        """Return antithetic draws (num, dim)."""
        half = rng.standard_normal((num // 2, len(self.loc)))
        half /= np.sqrt(rng.chisquare(self.degrees, (num // 2, 1)) / self.degrees)
        return self.loc + np.concatenate([half, -half]) @ self.scale_tril.T

    def log_density(self, Z: Floats) -> Floats:
        """Return log densities (n,) of points (n, D)."""
        squared = (((Z - self.loc) @ self._whitening) ** 2).sum(1)
        log_scale = np.log(np.diag(self.scale_tril)).sum()
        return log_standard(squared, len(self.loc), self.degrees) - log_scale


def log_standard(squared: Floats, dim: int, degrees: float) -> Floats:
    """Return log densities of the standard Student-t, or Gaussian, by squared norms."""
    if not np.isfinite(degrees):
        return -0.5 * squared - 0.5 * dim * np.log(2 * np.pi)
    constant = gammaln((degrees + dim) / 2) - gammaln(degrees / 2)
    constant -= 0.5 * dim * np.log(degrees * np.pi)
    return constant - 0.5 * (degrees + dim) * np.log1p(squared / degrees)
