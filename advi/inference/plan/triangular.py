"""Coordinates around a Gaussian with a triangular scale, in which it is standard."""

import numpy as np

from advi.inference.plan.lockstep import Stage
from advi.variational.gaussian import Floats, Gaussian, Structure


class Frame:
    """The coordinates (u, V) around the current Gaussian, V on the pattern of the blocks."""

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.structure = E, structure
        self.same_block = structure.same_block()
        pattern = np.tril(self.same_block) & structure.noisy[:, None] & structure.noisy[None, :]
        self.rows, self.columns = np.nonzero(pattern)
        self.on_diagonal = self.rows == self.columns
        # inverse Fisher metric of a standard Gaussian: 1 for means and shears, 1/2 for log scales
        self.metric = np.concatenate([np.ones(E.shape[1]), np.where(self.on_diagonal, 0.5, 1.0)])
        self.constant = 0.5 * structure.dim * (1 + np.log(2 * np.pi))

    def value(self, q: Gaussian, log_p: Floats) -> float:
        """Return minus the ELBO, up to `constant`."""
        return float(-log_p.mean()) - q.log_det(self.structure.noisy)

    def objective(self, q: Gaussian) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient with respect to (u, V) at zero."""
        log_p, gradients = yield q.points(self.E)
        W = q.in_frame(gradients)
        GV = -(W.T @ self.E)[self.rows, self.columns] / len(self.E) - self.on_diagonal
        return self.value(q, log_p), np.concatenate([-W.mean(0), GV])

    def retract(self, q: Gaussian, step: Floats) -> Gaussian:
        """Move by a step (u, V)."""
        dim = len(q.loc)
        V = np.eye(dim)
        with np.errstate(over="ignore"):
            V[self.rows, self.columns] = np.where(self.on_diagonal, np.exp(step[dim:]), step[dim:])
        return Gaussian(q.loc + q.scale @ step[:dim], q.scale @ V)
