"""Low rank: the directions in which a mean field is wrong, in closed form, then by L-BFGS."""

from collections.abc import Callable

import numpy as np

from advi.inference.plan.lbfgs import minimise
from advi.inference.plan.lockstep import Stage
from advi.inference.plan.mean_field import RETREAT, STEP_CAP, Fitted, settled
from advi.variational.gaussian import Floats, Gaussian, Structure
from advi.variational.scale import LowRankScale, gain

MAX_EVALS = 300
CURVATURE_DRAWS = 16
CURVATURE_STEP = 0.3  # sds along a direction, to both sides, that gradients are differenced over
LANCZOS_STEPS = (4, 20)  # per direction wanted, and besides
CURVATURE_RANGE = (1e-4, 1e4)
DAMPING = (1.0, 0.5, 0.25)
MAX_TURN = 25.0  # largest inverse metric of a turn: a direction as wide as the others turns freely


def low_rank(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    eps: float,
    accepted: Callable[[Gaussian, float], None],
    rng: np.random.Generator,
) -> Stage[Fitted]:
    """Maximise the ELBO over the mean and a low-rank scale on fixed draws.

    From a mean field the best directions are known in closed form: the eigenvectors of the
    expected Hessian of -log p, in the mean field's own coordinates, with the largest
    h - 1 - log h. L-BFGS then moves mean, diagonal and stretches in the Fisher metric, and, where
    there are draws enough to determine them, the directions.

    Parameters
    ----------
    gaussian
        Where to start: the mean-field optimum, or a low-rank Gaussian of the same rank.
    E
        (M, D) fixed orthogonal antithetic draws, zero at coordinates without noise.
    structure
        Which coordinates have noise, and which each direction may involve.
    eps
        Machine epsilon of the log density.
    accepted
        Called with every accepted Gaussian and its ELBO.
    rng
        Generator of the search for directions.

    Returns
    -------
    Fitted
    """
    frame = _Frame(E, structure)
    q = gaussian
    if not isinstance(q.scale, LowRankScale) or len(q.scale.stretch) != structure.rank:
        q = yield from _closed_form(Gaussian(q.loc, q.diagonal), frame, rng)
    minimum = yield from minimise(
        q,
        frame.objective,
        retract=frame.retract,
        metric=frame.metric,
        cap=STEP_CAP,
        max_evals=MAX_EVALS,
        done=settled,
        eps=eps,
        accepted=lambda q, value: accepted(q, frame.constant - value),
        retreat=lambda q: Gaussian(q.loc, q.scale._replace(sd=RETREAT * q.scale.sd)),
    )
    return Fitted(
        minimum.point, frame.constant - minimum.value, minimum.reason, minimum.measure.gradient
    )


class _Frame:
    """Steps (u, w, t, Z): means by L u, log sds by w, log stretches by t, directions by Z."""

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.structure = E, structure
        self.turns = structure.directions & (len(E) >= 2 * structure.dim)
        self.constant = 0.5 * structure.dim * (1 + np.log(2 * np.pi))

    def value(self, q: Gaussian, log_p: Floats) -> float:
        """Return minus the ELBO, up to `constant`."""
        return float(-log_p.mean()) - q.log_det(self.structure.noisy)

    def objective(self, q: Gaussian) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient with respect to a step at zero."""
        log_p, gradients = yield q.points(self.E)
        sd, U, stretch = _low_rank(q)
        E, M = self.E, len(self.E)
        G = gradients * sd
        EU, GU = E @ U, G @ U
        moved = E + EU * (stretch - 1) @ U.T
        of_sd = -(G * moved).mean(0) - self.structure.noisy
        of_stretch = -(GU * EU).mean(0) * stretch - 1
        of_U = -(G.T @ EU + E.T @ GU) / M * (stretch - 1)
        across = U.T @ of_U
        of_U = np.where(self.turns, of_U - U @ (across + across.T) / 2, 0.0)
        gradient = [-q.in_frame(gradients).mean(0), of_sd, of_stretch, of_U.ravel()]
        return self.value(q, log_p), np.concatenate(gradient)

    def metric(self, q: Gaussian) -> Floats:
        """Return the diagonal of the inverse Fisher metric."""
        _, U, stretch = _low_rank(q)
        variance, precision = 1 + U**2 @ (stretch**2 - 1), 1 + U**2 @ (stretch**-2.0 - 1)
        with np.errstate(divide="ignore"):
            turn = np.minimum((stretch / (stretch**2 - 1)) ** 2, MAX_TURN)
        of_sd, of_stretch = 1 / (1 + variance * precision), np.full(len(stretch), 0.5)
        return np.concatenate([np.ones(len(U)), of_sd, of_stretch, np.tile(turn, len(U))])

    def retract(self, q: Gaussian, step: Floats) -> Gaussian:
        """Move by a step."""
        sd, U, stretch = _low_rank(q)
        dim, rank = U.shape
        u, w, t, Z = np.split(step, np.cumsum([dim, dim, rank]))
        with np.errstate(over="ignore"):
            moved = LowRankScale(
                sd * np.exp(w), _orthonormal(U + Z.reshape(U.shape)), stretch * np.exp(t)
            )
        return Gaussian(q.loc + q.moves(u[None])[0], moved)


def _low_rank(q: Gaussian) -> LowRankScale:
    assert isinstance(q.scale, LowRankScale)
    return q.scale


def _orthonormal(U: Floats) -> Floats:
    Q, R = np.linalg.qr(U)
    return Q * np.sign(np.diag(R))


def _closed_form(q: Gaussian, frame: _Frame, rng: np.random.Generator) -> Stage[Gaussian]:
    """Return the best low-rank Gaussian on the line from a mean field to its closed form."""
    directions = frame.structure.directions
    E = frame.structure.fixed_draws(rng, CURVATURE_DRAWS)
    h, U = np.ones(directions.shape[1]), np.zeros(directions.shape)
    for involved in np.unique(directions, axis=1).T:
        columns = np.flatnonzero((directions == involved[:, None]).all(0))
        values, vectors = yield from _extreme(q, E, involved, len(columns), rng)
        values = np.clip(values, *CURVATURE_RANGE)
        best = np.argsort(-gain(values), kind="stable")[: len(columns)]
        h[columns], U[:, columns] = values[best], vectors[:, best]
    ends = [Gaussian(q.loc, LowRankScale(q.scale, U, h ** (-0.5 * damping))) for damping in DAMPING]  # type: ignore[arg-type]
    ends.append(Gaussian(q.loc, LowRankScale(q.scale, U, np.ones_like(h))))  # type: ignore[arg-type]
    best, best_value = ends[-1], np.inf
    for end in ends:
        log_p, _ = yield end.points(frame.E)
        value = frame.value(end, log_p)
        if value < best_value:
            best, best_value = end, value
    return best


def _extreme(
    q: Gaussian, E: Floats, involved: Floats, num: int, rng: np.random.Generator
) -> Stage[tuple[Floats, Floats]]:
    """Return eigenvalues (K,) and eigenvectors (D, K) at both ends of the expected Hessian.

    By the Lanczos iteration with full reorthogonalisation (Golub & Van Loan 2013, section 10.3);
    products with the Hessian are differences of gradients, averaged over the draws E.
    """
    per_direction, besides = LANCZOS_STEPS
    steps = min(int(involved.sum()), per_direction * num + besides)
    V, products = np.zeros((len(involved), steps)), np.zeros((len(involved), steps))
    v = np.where(involved, rng.standard_normal(len(involved)), 0.0)
    for k in range(steps):
        v = v - V[:, :k] @ (V[:, :k].T @ v)
        v = v - V[:, :k] @ (V[:, :k].T @ v)
        length = np.linalg.norm(v)
        if not length > 1e-10:
            v = np.where(involved, rng.standard_normal(len(involved)), 0.0)
            v = v - V[:, :k] @ (V[:, :k].T @ v)
            length = np.linalg.norm(v)
        V[:, k] = v / length
        move = CURVATURE_STEP * V[:, k]
        _, gradients = yield q.points(np.concatenate([E + move, E - move]))
        ahead, behind = np.split(q.in_frame(gradients), 2)
        v = np.where(involved, (behind - ahead).mean(0) / (2 * CURVATURE_STEP), 0.0)
        if not np.all(np.isfinite(v)):
            v = V[:, k]  # as if the scale were right: nothing else is known
        products[:, k] = v
    T = V.T @ products
    values, W = np.linalg.eigh((T + T.T) / 2)
    return values, V @ W
