"""Linear response: the posterior covariance from the response of the optimum to a small tilt."""

import dataclasses
from collections.abc import Callable

import numpy as np

from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.types import Floats, ValueAndGrad
from advi.diagnostics.alarms import ONLY_POINTS
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord
from advi.variational import draws
from advi.variational.block import Block
from advi.variational.draws import MIN_DRAWS, even_draws
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.guide import Guide
from advi.variational.point import Point
from advi.variational.scale import TriangularScale

DENSE_DIM = 200  # larger systems are solved by conjugate gradients, without the Hessian
CG_TOLERANCE = 1e-3  # relative residual: a tenth of a percent of a covariance
CG_ITERATIONS = 200
ELBO_DRAWS = 256
RESPONSE_ELEMENTS = 2**17  # of the draws that are averaged over: 2 D up to D = 256


# (points (n, D), directions (n, D)) to the Hessian of the log density times the directions
HessianVector = Callable[[Floats, Floats], Floats]


class NotPositiveError(ValueError):
    """The Hessian of the negative ELBO is not positive definite at the fit."""


def linear_response_covariance(
    hessian_vector: HessianVector,
    value_and_grad: ValueAndGrad,
    gaussian: Gaussian,
    structure: Structure,
    E: Floats,
) -> Floats:
    """Return the linear-response covariance (D, D) of a Gaussian fit, zero for point estimates.

    If the log density is tilted by t'x, the optimal mean moves by ``d m / d t = [H^-1]_mm``, with
    H the Hessian of the negative ELBO in all variational parameters. It gives a mean-field fit the
    correlations and sds that the family cannot express. `E` (M, D) are draws, zero at points.
    Raises `NotPositiveError` if the fit is not at a maximum of its ELBO.

    Giordano, Broderick & Jordan (2018), Covariances, Robustness, and Variational Bayes, eq. 14.
    """
    gaussian = gaussian.positive()  # the means of points respond too, and need a scale
    system = _System(hessian_vector, value_and_grad, gaussian, structure, E)
    wanted = np.flatnonzero(structure.random)
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
    inverse = np.zeros((system.dim, system.dim))
    inverse[np.ix_(wanted, wanted)] = solved[wanted]
    halfway = gaussian.scale.mv((inverse + inverse.T) / 2)
    covariance = gaussian.scale.mv(halfway.T)
    covariance[~structure.random] = covariance[:, ~structure.random] = 0
    return covariance


class _System:
    """Hessian-vector products of the negative ELBO in the frame (u, V) of the fit.

    x(e) = m + L (u + exp-shear(V) e), so that at zero d x = L (u + V e), and the log scales on V's
    diagonal have second derivatives d2 x / d V_jj^2 = L_j e_j. V is diagonal except for coupled
    blocks; for a low-rank Gaussian these are the scales of the frame in which it is standard.
    """

    def __init__(
        self,
        hessian_vector: HessianVector,
        value_and_grad: ValueAndGrad,
        gaussian: Gaussian,
        structure: Structure,
        E: Floats,
    ) -> None:
        self.gaussian, self.E, self.hessian_vector = gaussian, E, hessian_vector
        random = structure.random
        if structure.coupled:
            pattern = np.tril(structure.same_block()) & random[:, None] & random[None, :]
            self.rows, self.columns = np.nonzero(pattern)
        else:
            self.rows = self.columns = np.flatnonzero(random)
        self.dim = len(gaussian.loc)
        self.points = gaussian.points(E)
        W = gaussian.scale.rmv(value_and_grad(self.points)[1])
        curvature = -(W * E).mean(0)
        self.curvature = np.where(self.rows == self.columns, curvature[self.rows], 0.0)
        self.size = self.dim + len(self.rows)

    def times(self, v: Floats) -> Floats:
        """Return the Hessian times v (size,)."""
        u, V = v[: self.dim], v[self.dim :]
        moved = np.tile(u, (len(self.E), 1))
        np.add.at(moved.T, self.rows, V[:, None] * self.E.T[self.columns])
        directions = self.gaussian.scale.mv(moved)
        curved = -self.gaussian.scale.rmv(self.hessian_vector(self.points, directions))
        shear = (curved[:, self.rows] * self.E[:, self.columns]).mean(0)
        return np.concatenate([curved.mean(0), shear + self.curvature * V])


def _conjugate_gradients(system: _System, right: Floats) -> Floats:
    """Solve H x = right (Nocedal & Wright 2006, algorithm 5.2); in the frame H is near I."""
    x, r, p = np.zeros_like(right), right.copy(), right.copy()
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


def linear_response(record: FitRecord) -> FitRecord:
    """Return the full-rank fit with the linear-response covariance."""
    posterior = record.global_posterior
    if not posterior.structure.dim:
        raise ValueError(f"linear_response: {ONLY_POINTS}")
    if not posterior.guide.is_gaussian:
        raise ValueError(
            f"linear_response: got a fit of {posterior.guide.description}; expected a Gaussian, "
            "whose covariance it corrects. Use corrected()."
        )
    random, estimated = posterior.structure.random, posterior.guide.estimated
    scale = np.zeros((posterior.model.size, posterior.model.size))
    scale[np.ix_(random, random)] = response_scale(record).matrix
    latents = posterior.model.latents
    points = tuple(name for name in latents if name in estimated)
    blocks = [Block(tuple(name for name in latents if name not in estimated), FullRank())]
    blocks += [Block(points, Point())] if points else []
    guide = Guide(posterior.model, tuple(blocks))
    q = Gaussian(posterior.gaussian.loc, TriangularScale(scale))
    params = guide.params_of(q, posterior.float_dtype)
    responded = GlobalPosterior(guide, params, posterior.density)
    rng = host_rng(record.key, Stream.RESPONSE_ELBO)
    elbos = responded.elbos(draws.antithetic(rng, ELBO_DRAWS, responded.guide.noise_dim))
    record = dataclasses.replace(record, posterior=responded, examination=None)
    return record.with_outcome(elbo=Estimate.of(elbos))


def response_scale(record: FitRecord) -> TriangularScale:
    """Return the linear-response scale (dim, dim) of the random coordinates."""
    posterior = record.global_posterior
    structure, density = posterior.structure, posterior.density.on(None)
    rng, dim = host_rng(record.key, Stream.RESPONSE), structure.dim
    num = max(MIN_DRAWS, min(2 * dim, RESPONSE_ELEMENTS // dim))
    E = structure.fixed_draws(rng, even_draws(num, dim))
    with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
        covariance = linear_response_covariance(
            density.hessian_vector, density.value_and_grad, posterior.gaussian, structure, E
        )
    random = structure.random
    return TriangularScale(np.linalg.cholesky(covariance[np.ix_(random, random)]).astype(float))
