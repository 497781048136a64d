"""Student-t proposals of importance sampling, with the moments of weighted draws."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.special import log_gamma
from advi.core.types import Floats
from advi.variational.draws import STUDENT_DEGREES, student

MODES = np.linspace(-1.5, 1.5, 31)  # of a skewed axis, sds from its mean
MIN_SIDE = 0.2  # sd of one side of an axis, as a share of that of both


@dataclass(frozen=True)
class Student:
    """A multivariate Student-t, or a Gaussian for infinite degrees of freedom."""

    loc: Floats
    scale_tril: Floats
    degrees: float = STUDENT_DEGREES

    @cached_property
    def _whitening(self) -> Floats:
        # one inverse for all draws
        return np.asarray(np.linalg.inv(self.scale_tril).T, float)

    def draw(self, rng: np.random.Generator, num: int) -> Floats:
        """Return antithetic draws (num, D)."""
        half = student(rng, num // 2, len(self.loc))
        return self.loc + np.concatenate([half, -half]) @ self.scale_tril.T

    def log_density(self, Z: Floats) -> Floats:
        """Return log densities (n,) of points (n, D)."""
        squared = (((Z - self.loc) @ self._whitening) ** 2).sum(1)
        log_scale = np.log(np.diag(self.scale_tril)).sum()
        return log_standard(squared, len(self.loc), self.degrees) - log_scale

    def adapted(self, draws: WeightedDraws) -> Self:
        """Return the next proposal; with few effective draws it stays near this one."""
        mean, factor, keep = self._moments(draws)
        return type(self)((1 - keep) * mean + keep * self.loc, factor)

    def _moments(self, draws: WeightedDraws) -> tuple[Floats, Floats, float]:
        """Return the mean of draws, a factor of their covariance, and the share of what is kept."""
        dim = len(self.loc)
        keep = dim / (dim + draws.ess)
        mean = draws.weights @ draws.points
        centred = draws.points - mean
        cov = (1 - keep) * (draws.weights[:, None] * centred).T @ centred
        cov += keep * self.scale_tril @ self.scale_tril.T
        try:
            factor = np.asarray(np.linalg.cholesky(cov), float)
        except np.linalg.LinAlgError:
            factor = self.scale_tril  # too few distinct draws: keep the scale
        return mean, factor, keep


@dataclass(frozen=True)
class SplitStudent(Student):
    """A Student-t about its mode, whose axes have a scale of their own on either side.

    The log scales of hierarchies have a long tail toward zero. Geweke (1989), Bayesian Inference
    in Econometric Models Using Monte Carlo Integration, section 4, here of a continuous density.
    """

    sides: Floats | None = None  # (2, D), below and above the mode

    def draw(self, rng: np.random.Generator, num: int) -> Floats:
        if self.sides is None:
            return super().draw(rng, num)
        half = np.abs(student(rng, num // 2, len(self.loc)))
        below, above = self.sides
        uniform = rng.uniform(size=half.shape)
        signs = np.concatenate([uniform, 1 - uniform]) < above / (below + above)
        return self.loc + self._scaled(np.where(signs, 1, -1) * np.tile(half, (2, 1)))

    def _scaled(self, V: Floats) -> Floats:
        assert self.sides is not None
        return (V * np.where(V > 0, self.sides[1], self.sides[0])) @ self.scale_tril.T

    def log_density(self, Z: Floats) -> Floats:
        if self.sides is None:
            return super().log_density(Z)
        V = (Z - self.loc) @ self._whitening
        V /= np.where(V > 0, self.sides[1], self.sides[0])
        log_scale = np.log(np.diag(self.scale_tril)).sum() + np.log(self.sides.mean(0)).sum()
        return log_standard((V**2).sum(1), len(self.loc), self.degrees) - log_scale

    def adapted(self, draws: WeightedDraws) -> Self:
        mean, factor, keep = self._moments(draws)
        V = (draws.points - mean) @ np.linalg.inv(factor).T
        found = np.array([_two_pieces(v, draws.weights) for v in V.T])
        modes, sides = (1 - keep) * found[:, 0], (1 - keep) * found[:, 1:].T + keep
        return type(self)(mean + factor @ modes, factor, sides=np.maximum(sides, MIN_SIDE))


def _two_pieces(x: Floats, weights: Floats) -> tuple[float, float, float]:
    """Return the mode of a two-piece normal, and its sds below and above, by maximum likelihood."""
    away = x - MODES[:, None]
    below, above = (
        np.cbrt((weights * np.where(side, away, 0.0) ** 2).sum(1)) for side in (away < 0, away > 0)
    )
    best = int(np.argmin(below + above))
    size = np.sqrt(below[best] + above[best])
    return float(MODES[best]), float(below[best] * size), float(above[best] * size)


def log_standard(squared: Floats, dim: int, degrees: float) -> Floats:
    """Return log densities of the standard Student-t, or Gaussian, by squared norms."""
    if not np.isfinite(degrees):
        return -0.5 * squared - 0.5 * dim * np.log(2 * np.pi)
    constant = log_gamma((degrees + dim) / 2) - log_gamma(degrees / 2)
    constant -= 0.5 * dim * np.log(degrees * np.pi)
    return constant - 0.5 * (degrees + dim) * np.log1p(squared / degrees)
