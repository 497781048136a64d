"""Linear response: the posterior covariance from the response of the optimum to a small tilt."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from advi.core.errors import check_names, unknown
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.types import Floats, Indices, ValueAndGrad
from advi.diagnostics.alarms import ONLY_POINTS
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord
from advi.variational import draws
from advi.variational.block import Block
from advi.variational.draws import MIN_DRAWS, even_draws
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.guide import Guide
from advi.variational.joined_scale import MAX_DENSE_DIM, joined
from advi.variational.mean_field import MeanField
from advi.variational.point import Point
from advi.variational.scale import DiagonalScale, Scale, TriangularScale
from advi.variational.sparse_precision import is_sparse

DENSE_DIM = 200  # larger systems are solved by conjugate gradients, without the Hessian
CG_TOLERANCE = 1e-3  # relative residual: a tenth of a percent of a covariance
CG_ITERATIONS = 200
ELBO_DRAWS = 256
RESPONSE_ELEMENTS = 2**17  # of the draws that are averaged over: 2 D up to D = 256


# (points (n, D), directions (n, D)) to the Hessian of the log density times the directions
HessianVector = Callable[[Floats, Floats], Floats]
Report = Callable[[str], object]  # of a sentence on the progress
GLOBAL_SIZE = 8  # coordinates of a latent that is global, where there are very many


class NotPositiveError(ValueError):
    """The Hessian of the negative ELBO is not positive definite at the fit."""


def linear_response_covariance(
    hessian_vector: HessianVector,
    value_and_grad: ValueAndGrad,
    gaussian: Gaussian,
    structure: Structure,
    E: Floats,
    wanted: Indices,
    report: Report = lambda words: None,
) -> Floats:
    """Return the linear-response covariance (K, K) of the `wanted` coordinates of a Gaussian fit.

    If the log density is tilted by t'x, the optimal mean moves by ``d m / d t = [H^-1]_mm``, with
    H the Hessian of the negative ELBO in all variational parameters. It gives a mean-field fit the
    correlations and sds that the family cannot express. `E` (M, D) are draws, zero at points.
    Raises `NotPositiveError` if the fit is not at a maximum of its ELBO.

    Giordano, Broderick & Jordan (2018), Covariances, Robustness, and Variational Bayes, eq. 14.
    """
    gaussian = gaussian.positive()  # the means of points respond too, and need a scale
    system = _System(hessian_vector, value_and_grad, gaussian, structure, E)
    units = np.zeros((len(wanted), system.dim))
    units[np.arange(len(wanted)), wanted] = 1
    right = np.zeros((system.size, len(wanted)))
    right[: system.dim] = gaussian.scale.rmv(units).T
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
        solved = np.zeros_like(right)
        for k, b in enumerate(right.T):
            report(f"linear response, {k + 1} of {len(wanted)}")
            solved[:, k] = _conjugate_gradients(system, b)
    covariance = gaussian.scale.mv(solved[: system.dim].T)[:, wanted]
    return (covariance + covariance.T) / 2


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


def linear_response(
    record: FitRecord, names: Sequence[str] | None = None, report: Report = lambda words: None
) -> FitRecord:
    """Return the fit with the linear-response covariance of some latents, by default of all.

    Above `DENSE_DIM` coordinates by default of the globals. The others stay as they are, and
    independent of these.
    """
    posterior = record.global_posterior
    if not posterior.structure.dim:
        raise ValueError(f"linear_response: {ONLY_POINTS}")
    if not posterior.guide.is_gaussian:
        raise ValueError(
            f"linear_response: got a fit of {posterior.guide.description}; expected a Gaussian, "
            "whose covariance it corrects. Use corrected()."
        )
    if is_sparse(posterior.guide):
        raise ValueError(
            "linear_response: got a fit with a sparse precision, which has all correlations; its "
            "sds of hyperparameters are corrected by corrected()."
        )
    model, estimated = posterior.model, posterior.guide.estimated
    inferred = [name for name in model.latents if name not in estimated]
    chosen = _chosen(posterior, inferred, names)
    wanted = np.concatenate([np.arange(*model.spans[name]) for name in chosen])
    matrix = np.linalg.cholesky(_covariance(record, wanted, report)).astype(float)
    blocks, scales = [Block(tuple(chosen), FullRank())], list[Scale]([TriangularScale(matrix)])
    others = tuple(name for name in inferred if name not in chosen)
    points = tuple(name for name in model.latents if name in estimated)
    for rest, family in ((others, MeanField()), (points, Point())):
        if rest:
            blocks.append(Block(rest, family))
            index = np.concatenate([np.arange(*model.spans[name]) for name in rest])
            scales.append(DiagonalScale(posterior.gaussian.sds[index]))
    guide = Guide(model, tuple(blocks))
    q = Gaussian(posterior.gaussian.loc, joined(model.size, guide.indices, scales))
    params = guide.params_of(q, posterior.float_dtype)
    responded = GlobalPosterior(guide, params, posterior.density)
    rng = host_rng(record.key, Stream.RESPONSE_ELBO)
    elbos = responded.elbos(draws.antithetic(rng, ELBO_DRAWS, responded.guide.noise_dim))
    record = dataclasses.replace(record, posterior=responded, examination=None)
    return record.with_outcome(elbo=Estimate.of(elbos))


def _chosen(
    posterior: GlobalPosterior, inferred: list[str], names: Sequence[str] | None
) -> list[str]:
    """Return the latents whose covariance is wanted, in the model's order."""
    latents, dim = posterior.model.latents, posterior.structure.dim
    given = names if names is None else check_names("linear_response", names)
    for name in given or ():
        if name not in latents:
            raise ValueError(f"linear_response: {unknown('latent', name, inferred)}")
        if name not in inferred:
            raise ValueError(
                f"linear_response: got {name!r}, which is estimated as a point or held at a value; "
                "expected latents with a distribution."
            )
    if given is None:
        shared = [name for name in inferred if latents[name].size <= GLOBAL_SIZE]
        given = shared if shared and dim > DENSE_DIM else inferred
    size = sum(latents[name].size for name in set(given))
    if size > MAX_DENSE_DIM:
        raise ValueError(
            f"linear_response: got latents of {size} coordinates; expected names of latents of at "
            f"most {MAX_DENSE_DIM}, linear_response(['mu', ...]), whose covariance is a dense "
            "matrix."
        )
    return [name for name in inferred if name in set(given)]


def response_scale(record: FitRecord) -> TriangularScale:
    """Return the linear-response scale (dim, dim) of the random coordinates."""
    wanted = np.flatnonzero(record.global_posterior.structure.random)
    return TriangularScale(np.linalg.cholesky(_covariance(record, wanted)).astype(float))


def _covariance(record: FitRecord, wanted: Indices, report: Report = lambda words: None) -> Floats:
    """Return the linear-response covariance (K, K) of coordinates."""
    posterior = record.global_posterior
    structure, density = posterior.structure, posterior.density.on(None)
    rng, dim = host_rng(record.key, Stream.RESPONSE), structure.dim
    num = max(MIN_DRAWS, min(2 * dim, RESPONSE_ELEMENTS // dim))
    E = structure.fixed_draws(rng, even_draws(num, dim))
    with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
        return linear_response_covariance(
            density.hessian_vector, density.value_and_grad, posterior.gaussian, structure, E,
            wanted, report,
        )  # fmt: skip
