"""Linear response: the covariance of the posterior from how the optimum answers a small tilt."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from advi.variational.gaussian import Gaussian, Structure

Floats = NDArray[np.float64]

DENSE_DIM = 200  # larger systems are solved by conjugate gradients, without the Hessian
CG_TOLERANCE = 1e-3  # relative residual: a tenth of a percent of a covariance
CG_ITERATIONS = 200


class NotPositiveError(ValueError):
    """The Hessian of the negative ELBO is not positive definite at the fit."""


def linear_response_covariance(
    hessian_vector: Callable[[Floats, Floats], Floats],
    value_and_grad: Callable[[Floats], tuple[Floats, Floats]],
    gaussian: Gaussian,
    structure: Structure,
    E: Floats,
) -> Floats:
    """Return the linear-response covariance of a Gaussian fit.

    If the log density is tilted by t'x, the optimal mean moves by ``d m / d t = [H^-1]_mm``, with
    H the Hessian of the negative ELBO in all variational parameters. That is the covariance that
    the family itself cannot express: a mean-field fit gains correlations and the right sds.

    Parameters
    ----------
    hessian_vector
        (points (n, D), directions (n, D)) to the Hessian of the log density times the directions.
    value_and_grad
        Points (n, D) to log densities and gradients.
    gaussian
        The fit.
    structure
        Which coordinates have noise and which are coupled.
    E
        (M, D) draws, zero where there is no noise.

    Returns
    -------
    NDArray
        (D, D); zero for coordinates estimated as a point.

    Raises
    ------
    NotPositiveError
        If the fit is not at a maximum of its ELBO.

    References
    ----------
    Giordano, Broderick & Jordan (2018), Covariances, Robustness, and Variational Bayes, eq. 14.
    """
    gaussian = gaussian.revived()  # a point's mean answers too, and needs a scale to move in
    system = _System(hessian_vector, value_and_grad, gaussian, structure, E)
    dim = len(gaussian.loc)
    wanted = np.flatnonzero(structure.noisy)
    right = np.zeros((system.size, len(wanted)))
    right[wanted, np.arange(len(wanted))] = 1
    if system.size <= DENSE_DIM:
        H = np.stack([system.times(column) for column in np.eye(system.size)], axis=1)
        try:
            np.linalg.cholesky((H + H.T) / 2)
        except np.linalg.LinAlgError:
            raise NotPositiveError(
                "the Hessian of the negative ELBO is not positive definite at the fit, which is "
                "therefore not at a maximum; linear response has no meaning there."
            ) from None
        solved = np.linalg.solve((H + H.T) / 2, right)
    else:
        solved = np.stack([_conjugate_gradients(system, b) for b in right.T], axis=1)
    inverse = np.zeros((dim, dim))
    inverse[np.ix_(wanted, wanted)] = solved[wanted]
    halfway = gaussian.moves((inverse + inverse.T) / 2)
    covariance = gaussian.moves(halfway.T)
    covariance[~structure.noisy] = covariance[:, ~structure.noisy] = 0
    return covariance


class _System:
    """Hessian-vector products of the negative ELBO in the frame (u, V) of the fit.

    x(e) = m + L (u + exp-shear(V) e), so that at zero d x = L (u + V e) and the log scales on V's
    diagonal bend: d2 x / d V_jj^2 = L_j e_j. V is diagonal but for coupled blocks; for a low-rank
    Gaussian these are the scales of the frame in which it is standard.
    """

    def __init__(
        self,
        hessian_vector: Callable[[Floats, Floats], Floats],
        value_and_grad: Callable[[Floats], tuple[Floats, Floats]],
        gaussian: Gaussian,
        structure: Structure,
        E: Floats,
    ) -> None:
        self.gaussian, self.E, self.hessian_vector = gaussian, E, hessian_vector
        noisy = structure.noisy
        if structure.coupled:
            pattern = np.tril(structure.same_block()) & noisy[:, None] & noisy[None, :]
            self.rows, self.columns = np.nonzero(pattern)
        else:
            self.rows = self.columns = np.flatnonzero(noisy)
        self.dim = len(gaussian.loc)
        self.points = gaussian.points(E)
        self.still = ~noisy
        W = gaussian.in_frame(value_and_grad(self.points)[1])
        bend = -(W * E).mean(0)
        self.bend = np.where(self.rows == self.columns, bend[self.rows], 0.0)
        self.size = self.dim + len(self.rows)

    def times(self, v: Floats) -> Floats:
        """Return the Hessian times v (size,)."""
        u, V = v[: self.dim], v[self.dim :]
        moved = np.tile(u, (len(self.E), 1))
        np.add.at(moved.T, self.rows, V[:, None] * self.E.T[self.columns])
        directions = self.gaussian.moves(moved)
        curved = -self.gaussian.in_frame(self.hessian_vector(self.points, directions))
        shear = (curved[:, self.rows] * self.E[:, self.columns]).mean(0)
        return np.concatenate([curved.mean(0), shear + self.bend * V])


def _conjugate_gradients(system: _System, right: Floats) -> Floats:
    """Solve H x = right (Nocedal & Wright 2006, algorithm 5.2); in the frame H is near I."""
    x = np.zeros_like(right)
    r, p = right.copy(), right.copy()
    rr = r @ r
    bound = CG_TOLERANCE**2 * rr
    for _ in range(CG_ITERATIONS):
        if rr <= bound:
            break
        Hp = system.times(p)
        curvature = p @ Hp
        if curvature <= 0:
            raise NotPositiveError(
                "the negative ELBO has a direction of negative curvature at the fit, which is "
                "therefore not at a maximum; linear response has no meaning there."
            )
        alpha = rr / curvature
        x += alpha * p
        r -= alpha * Hp
        rr, before = r @ r, rr
        p = r + (rr / before) * p
    return x
