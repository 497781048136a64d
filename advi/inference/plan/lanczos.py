"""The best directions of a low-rank scale in closed form, by the Lanczos iteration."""

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import LowRankChart
from advi.variational.gaussian import Gaussian
from advi.variational.scale import LowRankScale, gain

CURVATURE_DRAWS = 16
CURVATURE_STEP = 0.3  # sds to either side over which gradients are differenced
LANCZOS_STEPS = (4, 20)  # per direction, and added to all
CURVATURE_RANGE = (1e-4, 1e4)
DAMPING = (1.0, 0.5, 0.25)


def low_rank_start(q: Gaussian, chart: LowRankChart, rng: np.random.Generator) -> Stage[Gaussian]:
    """Return the best low-rank Gaussian on the line from a mean field to its closed form.

    From a mean field the best directions are known in closed form: the eigenvectors of the
    expected Hessian of -log p, in the mean field's own coordinates, with the largest
    h - 1 - log h.
    """
    structure, sd = chart.structure, q.scale.diagonal
    directions = structure.directions
    E = structure.fixed_draws(rng, CURVATURE_DRAWS)
    h, U = np.ones(directions.shape[1]), np.zeros(directions.shape)
    for involved in np.unique(directions, axis=1).T:
        columns = np.flatnonzero((directions == involved[:, None]).all(0))
        values, vectors = yield from _extreme(q, E, involved, len(columns), rng)
        values = np.clip(values, *CURVATURE_RANGE)
        best = np.argsort(-gain(values), kind="stable")[: len(columns)]
        h[columns], U[:, columns] = values[best], vectors[:, best]
    stretches = [*(h ** (-0.5 * damping) for damping in DAMPING), np.ones_like(h)]
    trials = [Gaussian(q.loc, LowRankScale(sd, U, stretch)) for stretch in stretches]
    best, best_value = trials[-1], np.inf
    for trial in trials:
        log_p, _ = yield trial.points(chart.E)
        value = chart.value(trial, log_p)
        if value < best_value:
            best, best_value = trial, value
    return best


def _extreme(
    q: Gaussian, E: Floats, involved: Floats, num: int, rng: np.random.Generator
) -> Stage[tuple[Floats, Floats]]:
    """Return Ritz values (K,) and vectors (D, K) of the expected Hessian, accurate at both ends.

    By the Lanczos iteration with full reorthogonalisation (Golub & Van Loan 2013, section 10.3);
    products with the Hessian are differences of gradients, averaged over the draws E.
    """
    per_direction, added = LANCZOS_STEPS
    steps = min(int(involved.sum()), per_direction * num + added)
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
        ahead, behind = np.split(q.scale.rmv(gradients), 2)
        v = np.where(involved, (behind - ahead).mean(0) / (2 * CURVATURE_STEP), 0.0)
        if not np.all(np.isfinite(v)):
            v = V[:, k]  # as if the scale were right
        products[:, k] = v
    T = V.T @ products
    values, W = np.linalg.eigh((T + T.T) / 2)
    return values, V @ W
