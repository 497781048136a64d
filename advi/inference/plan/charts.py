"""Coordinates in which an optimiser moves a Gaussian, one chart for each kind of scale."""

from typing import Any, Protocol

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.triangular_step import polished
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.scale import DiagonalScale, LowRankScale, TriangularScale

RETREAT = 0.5  # factor of a scale with draws of non-finite log density
MAX_TURN = 25.0  # largest inverse metric of a rotation: between equal widths it is unbounded


class Chart(Protocol):
    """Coordinates around a Gaussian, made from draws E and a structure.

    E (M, D) are fixed orthogonal antithetic draws, zero at coordinates that are not random.
    """

    def start(self, q: Gaussian) -> Any: ...  # the point of a Gaussian
    def gaussian(self, point: Any) -> Gaussian: ...  # the Gaussian of a point
    # minus the ELBO, without the entropy's constant, and its gradient
    def objective(self, point: Any) -> Stage[tuple[float, Floats]]: ...
    def metric(self, point: Any) -> Floats: ...  # diagonal of the inverse Fisher metric
    def retract(self, point: Any, step: Floats) -> Any: ...  # the point after a step
    def retreat(self, point: Any) -> Any: ...  # the point with half the scale
    # the scale after a sticking-the-landing step on fresh draws E, bounded by `cut`
    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> Any: ...


class DiagonalChart:
    """Means m and log sds w: f(m, w) = -mean_e log p(m + exp(w) e) - sum w."""

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.random, self.dim = E, structure.random, E.shape[1]

    def start(self, q: Gaussian) -> Floats:
        return np.concatenate([q.loc, np.log(q.scale.diagonal)])

    def gaussian(self, point: Floats) -> Gaussian:
        return Gaussian(point[: self.dim], DiagonalScale(np.exp(point[self.dim :])))

    def objective(self, point: Floats) -> Stage[tuple[float, Floats]]:
        q = self.gaussian(point)
        values, gradients = yield q.points(self.E)
        value = -values.mean() - point[self.dim :][self.random].sum()
        of_scale = -(gradients * self.E).mean(0) * q.scale.diagonal - self.random
        return float(value), np.concatenate([-gradients.mean(0), of_scale])

    def metric(self, point: Floats) -> Floats:
        return np.concatenate([np.exp(2 * point[self.dim :]), np.full(self.dim, 0.5)])

    def retract(self, point: Floats, step: Floats) -> Floats:
        return point + step

    def retreat(self, point: Floats) -> Floats:
        return np.concatenate([point[: self.dim], point[self.dim :] + np.log(RETREAT)])

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> DiagonalScale:
        W = q.scale.rmv(gradients) + E
        return DiagonalScale(q.scale.diagonal * np.exp(0.5 * cut((W * E).mean(0))))


class _MovingChart:
    """A chart whose points are Gaussians; steps are in coordinates where each is standard."""

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.structure = E, structure

    def start(self, q: Gaussian) -> Gaussian:
        return q

    def gaussian(self, point: Gaussian) -> Gaussian:
        return point

    def retreat(self, point: Gaussian) -> Gaussian:
        return Gaussian(point.loc, point.scale.shrunk(RETREAT))

    def value(self, q: Gaussian, log_p: Floats) -> float:
        return float(-log_p.mean()) - q.scale.log_det(self.structure.random)


class TriangularChart(_MovingChart):
    """Steps (u, V), V on the pattern of the blocks.

    The mean moves to m + L u, the scale to L (strict_tril(V) + diag(exp V_jj)).
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        super().__init__(E, structure)
        self.same_block = structure.same_block()
        pattern = np.tril(self.same_block) & np.outer(structure.random, structure.random)
        self.rows, self.columns = np.nonzero(pattern)
        self.on_diagonal = self.rows == self.columns
        # inverse Fisher metric of a standard Gaussian: 1 for means and shears, 1/2 for log scales
        self._metric = np.concatenate([np.ones(E.shape[1]), np.where(self.on_diagonal, 0.5, 1.0)])

    def objective(self, point: Gaussian) -> Stage[tuple[float, Floats]]:
        log_p, gradients = yield point.points(self.E)
        W = point.scale.rmv(gradients)
        GV = -(W.T @ self.E)[self.rows, self.columns] / len(self.E) - self.on_diagonal
        return self.value(point, log_p), np.concatenate([-W.mean(0), GV])

    def metric(self, point: Gaussian) -> Floats:
        return self._metric

    def retract(self, point: Gaussian, step: Floats) -> Gaussian:
        dim, L = len(point.loc), point.scale.tril()
        V = np.eye(dim)
        with np.errstate(over="ignore"):
            V[self.rows, self.columns] = np.where(self.on_diagonal, np.exp(step[dim:]), step[dim:])
        return Gaussian(point.loc + L @ step[:dim], TriangularScale(L @ V))

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> TriangularScale:
        W = q.scale.rmv(gradients) + E
        return TriangularScale(polished(np, q.scale.tril(), W, E, self.same_block, cut))


class LowRankChart(_MovingChart):
    """Steps (u, w, t, Z): means by L u, log sds by w, log stretches by t, directions by Z.

    Directions move only if there are enough draws to determine them.
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        super().__init__(E, structure)
        self.turns = structure.directions & (len(E) >= 2 * structure.dim)

    def objective(self, point: Gaussian) -> Stage[tuple[float, Floats]]:
        log_p, gradients = yield point.points(self.E)
        sd, U, stretch = point.scale.low_rank()
        E, M = self.E, len(self.E)
        G = gradients * sd
        EU, GU = E @ U, G @ U
        moved = E + EU * (stretch - 1) @ U.T
        of_sd = -(G * moved).mean(0) - self.structure.random
        of_stretch = -(GU * EU).mean(0) * stretch - 1
        of_U = -(G.T @ EU + E.T @ GU) / M * (stretch - 1)
        across = U.T @ of_U
        of_U = np.where(self.turns, of_U - U @ (across + across.T) / 2, 0.0)
        gradient = [-point.scale.rmv(gradients).mean(0), of_sd, of_stretch, of_U.ravel()]
        return self.value(point, log_p), np.concatenate(gradient)

    def metric(self, point: Gaussian) -> Floats:
        _, U, stretch = point.scale.low_rank()
        with np.errstate(divide="ignore"):
            turn = np.minimum((stretch / (stretch**2 - 1)) ** 2, MAX_TURN)
        of_stretch = np.full(len(stretch), 0.5)
        of_sd = _metric_of_sd(U, stretch)
        return np.concatenate([np.ones(len(U)), of_sd, of_stretch, np.tile(turn, len(U))])

    def retract(self, point: Gaussian, step: Floats) -> Gaussian:
        sd, U, stretch = point.scale.low_rank()
        dim, rank = U.shape
        u, w, t, Z = np.split(step, np.cumsum([dim, dim, rank]))
        with np.errstate(over="ignore"):
            sd, stretch = sd * np.exp(w), stretch * np.exp(t)
            scale = LowRankScale(sd, _orthonormal(U + Z.reshape(U.shape)), stretch)
        return Gaussian(point.loc + point.scale.mv(u[None])[0], scale)

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> LowRankScale:
        sd, U, stretch = q.scale.low_rank()
        EU = E @ U
        G = gradients * sd + E + EU * (1 / stretch - 1) @ U.T
        of_sd = (G * (E + EU * (stretch - 1) @ U.T)).mean(0)
        of_stretch = (G @ U * EU).mean(0) * stretch
        sd = sd * np.exp(_metric_of_sd(U, stretch) * cut(of_sd))
        return LowRankScale(sd, U, stretch * np.exp(0.5 * cut(of_stretch)))


def chart_of(structure: Structure, E: Floats) -> Chart:
    """Return the chart of the scales that a structure has."""
    if structure.coupled:
        return TriangularChart(E, structure)
    return LowRankChart(E, structure) if structure.rank else DiagonalChart(E, structure)


def _metric_of_sd(U: Floats, stretch: Floats) -> Floats:
    """Return the inverse Fisher metric of the log sds of a low-rank scale (D,)."""
    variance, precision = 1 + U**2 @ (stretch**2 - 1), 1 + U**2 @ (stretch**-2.0 - 1)
    return 1 / (1 + variance * precision)


def _orthonormal(U: Floats) -> Floats:
    Q, R = np.linalg.qr(U)
    return Q * np.sign(np.diag(R))
