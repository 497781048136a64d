"""Coordinates in which an optimiser moves a Gaussian, one chart for each kind of scale.

A chart gives the ELBO on fixed draws and its gradient, the inverse Fisher metric, and the Gaussian
that a step leads to.
"""

from typing import Any, Protocol

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.scale import DiagonalScale, LowRankScale, TriangularScale

RETREAT = 0.5  # of a scale some of whose draws have no finite log density
MAX_TURN = 25.0  # largest inverse metric of a turn: a direction as wide as the others turns freely


class Chart(Protocol):
    """Coordinates around a Gaussian. A point of it is a Gaussian, or what stands for one.

    Parameters
    ----------
    E
        (M, D) fixed orthogonal antithetic draws, zero at coordinates that are not random.
    structure
        Which coordinates are random and which are coupled.
    """

    def start(self, q: Gaussian) -> Any:
        """Return the point that stands for a Gaussian."""

    def gaussian(self, point: Any) -> Gaussian:
        """Return the Gaussian that a point stands for."""
        ...

    def objective(self, point: Any) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO, without the entropy's constant, and its gradient."""
        ...

    def metric(self, point: Any) -> Floats:
        """Return the diagonal of the inverse Fisher metric."""
        ...

    def retract(self, point: Any, step: Floats) -> Any:
        """Return the point that a step leads to."""

    def retreat(self, point: Any) -> Any:
        """Return the point with half the scale."""

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> Any:
        """Return the scale after a sticking-the-landing step on fresh draws E; `cut` bounds it."""


class DiagonalChart:
    """Means m and log sds w: f(m, w) = -mean_e log p(m + exp(w) e) - sum w.

    Giordano, Ingram & Broderick (2024), Black Box Variational Inference with a Deterministic
    Objective, JMLR 25(18).
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.random, self.dim = E, structure.random, E.shape[1]

    def start(self, q: Gaussian) -> Floats:
        """Return means and log sds (2 D,)."""
        return np.concatenate([q.loc, np.log(q.scale.diagonal)])

    def gaussian(self, point: Floats) -> Gaussian:
        """Return the Gaussian of means and log sds."""
        return Gaussian(point[: self.dim], DiagonalScale(np.exp(point[self.dim :])))

    def objective(self, point: Floats) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient."""
        q = self.gaussian(point)
        values, gradients = yield q.points(self.E)
        value = -values.mean() - point[self.dim :][self.random].sum()
        of_scale = -(gradients * self.E).mean(0) * q.scale.diagonal - self.random
        return float(value), np.concatenate([-gradients.mean(0), of_scale])

    def metric(self, point: Floats) -> Floats:
        """Return the variances, and 1/2 for log sds."""
        return np.concatenate([np.exp(2 * point[self.dim :]), np.full(self.dim, 0.5)])

    def retract(self, point: Floats, step: Floats) -> Floats:
        """Add a step."""
        return point + step

    def retreat(self, point: Floats) -> Floats:
        """Halve the sds."""
        return np.concatenate([point[: self.dim], point[self.dim :] + np.log(RETREAT)])

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> DiagonalScale:
        """Move the log sds."""
        W = q.scale.rmv(gradients) + E
        return DiagonalScale(q.scale.diagonal * np.exp(0.5 * cut((W * E).mean(0))))


class _MovingChart:
    """A chart whose points are Gaussians: steps are in the frame in which each is standard.

    It is abstract: what is left to say is how a scale moves.
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.structure = E, structure

    def start(self, q: Gaussian) -> Gaussian:
        """Return the Gaussian."""
        return q

    def gaussian(self, point: Gaussian) -> Gaussian:
        """Return the Gaussian."""
        return point

    def retreat(self, point: Gaussian) -> Gaussian:
        """Halve the scale."""
        return Gaussian(point.loc, point.scale.shrunk(RETREAT))

    def value(self, q: Gaussian, log_p: Floats) -> float:
        """Return minus the ELBO, without the entropy's constant."""
        return float(-log_p.mean()) - q.scale.log_det(self.structure.random)


class TriangularChart(_MovingChart):
    """Steps (u, V), V on the pattern of the blocks.

    The mean moves to m + L u, the scale to L (strict_tril(V) + diag(exp V_jj)).
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        super().__init__(E, structure)
        self.same_block = structure.same_block()
        random = structure.random
        pattern = np.tril(self.same_block) & random[:, None] & random[None, :]
        self.rows, self.columns = np.nonzero(pattern)
        self.on_diagonal = self.rows == self.columns
        # inverse Fisher metric of a standard Gaussian: 1 for means and shears, 1/2 for log scales
        self._metric = np.concatenate([np.ones(E.shape[1]), np.where(self.on_diagonal, 0.5, 1.0)])

    def objective(self, point: Gaussian) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient with respect to (u, V) at zero."""
        log_p, gradients = yield point.points(self.E)
        W = point.scale.rmv(gradients)
        GV = -(W.T @ self.E)[self.rows, self.columns] / len(self.E) - self.on_diagonal
        return self.value(point, log_p), np.concatenate([-W.mean(0), GV])

    def metric(self, point: Gaussian) -> Floats:
        """Return the metric at a standard Gaussian."""
        return self._metric

    def retract(self, point: Gaussian, step: Floats) -> Gaussian:
        """Move by a step (u, V)."""
        dim, L = len(point.loc), point.scale.tril()
        V = np.eye(dim)
        with np.errstate(over="ignore"):
            V[self.rows, self.columns] = np.where(self.on_diagonal, np.exp(step[dim:]), step[dim:])
        return Gaussian(point.loc + L @ step[:dim], TriangularScale(L @ V))

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> TriangularScale:
        """Move along the shears and log scales."""
        W = q.scale.rmv(gradients) + E
        V = np.where(np.tril(self.same_block), cut((W.T @ E) / len(E)), 0.0)
        factor = np.tril(V, -1) + np.diag(np.exp(0.5 * np.diag(V)))
        return TriangularScale(q.scale.tril() @ factor)


class LowRankChart(_MovingChart):
    """Steps (u, w, t, Z): means by L u, log sds by w, log stretches by t, directions by Z.

    Directions move only where there are draws enough to determine them.
    """

    def __init__(self, E: Floats, structure: Structure) -> None:
        super().__init__(E, structure)
        self.turns = structure.directions & (len(E) >= 2 * structure.dim)

    def objective(self, point: Gaussian) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient with respect to a step at zero."""
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
        """Return the diagonal of the inverse Fisher metric."""
        _, U, stretch = point.scale.low_rank()
        with np.errstate(divide="ignore"):
            turn = np.minimum((stretch / (stretch**2 - 1)) ** 2, MAX_TURN)
        of_stretch = np.full(len(stretch), 0.5)
        return np.concatenate(
            [np.ones(len(U)), _metric_of_sd(U, stretch), of_stretch, np.tile(turn, len(U))]
        )

    def retract(self, point: Gaussian, step: Floats) -> Gaussian:
        """Move by a step."""
        sd, U, stretch = point.scale.low_rank()
        dim, rank = U.shape
        u, w, t, Z = np.split(step, np.cumsum([dim, dim, rank]))
        with np.errstate(over="ignore"):
            moved = LowRankScale(
                sd * np.exp(w), _orthonormal(U + Z.reshape(U.shape)), stretch * np.exp(t)
            )
        return Gaussian(point.loc + point.scale.mv(u[None])[0], moved)

    def polished(self, q: Gaussian, gradients: Floats, E: Floats, cut: Any) -> LowRankScale:
        """Move the log sds and log stretches; the directions stay."""
        sd, U, stretch = q.scale.low_rank()
        EU = E @ U
        G = gradients * sd + E + EU * (1 / stretch - 1) @ U.T
        of_sd = (G * (E + EU * (stretch - 1) @ U.T)).mean(0)
        of_stretch = (G @ U * EU).mean(0) * stretch
        return LowRankScale(
            sd * np.exp(_metric_of_sd(U, stretch) * cut(of_sd)),
            U,
            stretch * np.exp(0.5 * cut(of_stretch)),
        )


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
