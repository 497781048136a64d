"""Nested importance sampling: hubs are weighted, the others drawn from their Gaussian given them.

Hubs are the few coordinates that very many others depend on, such as hyperparameters. Given these
the others, such as effects of groups, are nearly Gaussian, with a precision of the same sparsity.
From one value of the hubs to another their mean moves as their mode does, and their precision as
the Hessian: at the means of the hubs they are those of the fit, of which the weights of very many
others are far more even than of the Gaussian at the mode.
"""

from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.types import LOG_2PI, Floats, SparseMatrix
from advi.diagnostics.hub_precisions import HubPrecisions
from advi.diagnostics.importance_sampling import (
    NEAR_KHAT,
    NEAR_SHARE,
    Adapted,
    adaptive,
    drawn,
    weighted,
)
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.draws import antithetic
from advi.variational.gaussian import Gaussian
from advi.variational.precision_scale import PrecisionScale, ridged

# Draws given each draw of the hubs: of its density, by the variance of their weights; and kept.
MIN_INNER, MAX_INNER, PILOT, MAX_KEPT, ELEMENTS = 4, 64, 64, 4, 2**24
MAX_VARIANCE = 4.0  # of the log weights, beyond which so many draws do not give the density
PER_DIMENSION = 20  # draws of the hubs for each of them in a round, where proposals adapt
MAX_NEWTON, DECREMENT = 6, 1e-3  # steps to a conditional mode, and nats that the last one gains
MAX_FACTOR_ENTRIES = 2**24  # of the factors that are held at once


class NestedDraws(NamedTuple):
    """Draws of all coordinates; `kept` of them, one after another, share their hubs."""

    draws: WeightedDraws  # (n kept, D)
    of_proposal: Floats  # (n kept, D) draws of the proposal at the same noise
    hubs: Adapted  # the importance sampling of the hubs
    kept: int
    variance: float  # of the log weights of the others given the hubs

    @property
    def reliable(self) -> bool:
        """Whether the moments of the draws are reliable."""
        return self.hubs.reliable and self.variance <= MAX_VARIANCE


def nested_sampling(
    density: Density, hessian: SparseHessian, q: Gaussian, rng: np.random.Generator,
    num: int, rounds: int,
) -> NestedDraws:  # fmt: skip
    """Draw from a posterior with hubs, in up to `rounds` rounds of `num` draws of these.

    The weights are those of the joint density: where others are not Gaussian given the hubs, it
    shows in their k-hat. In few dimensions the proposals of the hubs adapt, if those of `q` are
    not nearly right. Rue, Martino & Chopin (2009), Approximate Bayesian inference for latent
    Gaussian models by using integrated nested Laplace approximations.
    """
    hubs = hessian.hubs
    kept = int(np.clip(ELEMENTS // (num * hessian.dim), 2, MAX_KEPT)) // 2 * 2
    given = _GivenHubs(density, hessian, q, rng, kept)
    first = Gaussian(q.loc[hubs], q.scale.take(hubs))
    sample = drawn(given.log_density, first, rng, num)
    found = weighted(sample, first)
    even = found.share >= NEAR_SHARE and found.khat <= NEAR_KHAT
    if not even and num >= PER_DIMENSION * len(hubs) and np.isfinite(found.khat):
        found = adaptive(given.log_density, first, sample, found.khat, rng, rounds)
    weights = (found.draws.weights[:, None] * np.concatenate(given.inner_weights)).ravel()
    draws = WeightedDraws(np.concatenate(given.points), weights / weights.sum())
    return NestedDraws(draws, np.concatenate(given.of_proposal), found, kept, given.variance)


class _GivenHubs:
    """The log density of the hubs, and the draws of all coordinates that it was estimated from."""

    def __init__(
        self, density: Density, hessian: SparseHessian, q: Gaussian, rng: np.random.Generator,
        kept: int,
    ) -> None:  # fmt: skip
        self.kept, self.density, self.hessian = kept, density, hessian
        self.q, self.rng = q, rng
        is_hub = np.zeros(hessian.dim, bool)
        is_hub[hessian.hubs] = True
        self.rest = np.flatnonzero(~is_hub)
        place = np.cumsum(~is_hub) - 1  # among the rest
        order = hessian.elimination.order
        self.order = place[order[~is_hub[order]]]
        precision = q.scale.precision  # type: ignore[attr-defined]
        self.own = PrecisionScale(self._of_rest(precision), self.order)
        self.to_hubs = precision[self.rest][:, hessian.hubs]
        self.precisions = HubPrecisions(Gaussian(q.loc[hessian.hubs], q.scale.take(hessian.hubs)))
        self.points: list[Floats] = []  # (n kept, D), of every call
        self.inner_weights: list[Floats] = []  # (n, kept), of each draw of the hubs
        self.of_proposal: list[Floats] = []  # (n kept, D)
        # of the fit from the mode and the Hessian, at the means of the hubs
        self.shift, self.added = np.zeros(len(self.rest)), 0.0 * self.own.precision
        center = q.loc[None]
        self.added = self.own.precision - self._precision(q.loc)
        modes, _ = self._modes(center)
        self.shift = (center - modes)[0, self.rest]
        self.inner, self.variance = PILOT, 0.0
        self._find_inner(q.loc[hessian.hubs])

    def log_density(self, hubs: Floats) -> Floats:
        """Return estimates (n,) at hubs (n, H), nats; they keep the draws."""
        at_once = max(1, MAX_FACTOR_ENTRIES // self.hessian.elimination.entries)
        parts = range(0, len(hubs), at_once)
        return np.concatenate([self._log_density(hubs[k : k + at_once]) for k in parts])

    def _log_density(self, hubs: Floats) -> Floats:
        num, dim = len(hubs), self.hessian.dim
        fitted = np.tile(self.q.loc, (num, 1))
        shift = self.to_hubs @ (hubs - fitted[:, self.hessian.hubs]).T
        fitted[:, self.hessian.hubs] = hubs
        fitted[:, self.rest] -= self.own.covariance_times(shift.T)
        modes, scales = self._modes(fitted)
        modes[:, self.rest] += self.shift
        noise, kept, values = [], [], []
        for center, scale in zip(modes, scales, strict=True):
            E = antithetic(self.rng, self.inner, len(self.rest))
            X = np.tile(center, (self.inner, 1))
            X[:, self.rest] += scale.mv(E)
            log_q = -0.5 * (E**2 + LOG_2PI).sum(1) - scale.log_det(np.ones(len(self.rest), bool))
            log_p = self.density.value(X)
            values.append(np.where(np.isfinite(log_p), log_p - log_q, -np.inf))
            noise.append(self._some(E))
            kept.append(self._some(X))
        log_ratio = np.array(values)
        top = np.maximum(log_ratio.max(1, keepdims=True), -1e300)
        ratio = np.exp(log_ratio - top)
        mean = np.maximum(ratio.mean(1, keepdims=True), 1e-300)
        of_proposal = np.repeat(fitted[:, None], self.kept, axis=1)
        away = self.own.mv(np.concatenate(noise))
        of_proposal[:, :, self.rest] += away.reshape(num, self.kept, -1)
        self.points.append(np.concatenate(kept))
        self.of_proposal.append(of_proposal.reshape(-1, dim))
        self.inner_weights.append(np.array([self._some(r) for r in ratio / mean]) / self.kept)
        self.log_ratios = log_ratio
        return top[:, 0] + np.log(mean[:, 0])

    def _some(self, rows: Floats) -> Floats:
        """Return some of antithetic rows, in pairs."""
        half = self.kept // 2
        return np.concatenate([rows[:half], rows[len(rows) // 2 :][:half]])

    def _find_inner(self, hubs: Floats) -> None:
        """Find how many draws the density at hubs takes, by the variance of their log weights."""
        self.log_density(hubs[None])
        for made in (self.points, self.inner_weights, self.of_proposal):
            made.clear()
        variance = float(np.var(self.log_ratios))
        self.variance = variance if np.isfinite(variance) else np.inf
        wanted = MIN_INNER * np.exp(min(self.variance, MAX_VARIANCE))
        self.inner = int(np.clip(wanted, MIN_INNER, MAX_INNER)) // 2 * 2

    def _modes(self, X: Floats) -> tuple[Floats, list[PrecisionScale]]:
        """Return X (n, D) with all but the hubs at their conditional modes, and scales there.

        Where a mode is not found, the last step is near enough for a proposal.
        """
        X, scales = X.copy(), [self.own] * len(X)
        open_ = np.arange(len(X))
        for step in range(MAX_NEWTON):
            gradients = self.density.value_and_grad(X[open_])[1][:, self.rest]
            still = []
            for s, g in zip(open_, np.where(np.isfinite(gradients), gradients, 0.0), strict=True):
                if step:  # the last curvature tells how far the mode is
                    move = scales[s].covariance_times(g[None])[0]
                    X[s, self.rest] += move
                    if 0.5 * g @ move < DECREMENT:
                        continue
                else:
                    scales[s] = self._scale(X[s])
                    X[s, self.rest] += scales[s].covariance_times(g[None])[0]
                still.append(s)
            open_ = np.array(still, int)
            if not len(open_):
                break
        return X, scales

    def _scale(self, x: Floats) -> PrecisionScale:
        found = ridged(self._precision(x) + self.added, self.order)
        return self.own if found is None else found

    def _precision(self, x: Floats) -> SparseMatrix:
        hubs = x[self.hessian.hubs]
        precision = self.precisions.predicted(hubs)
        if precision is None:
            precision = -self._of_rest(self.hessian.mean(x[None]))
            self.precisions.learn(hubs, precision)
        return precision

    def _of_rest(self, matrix: SparseMatrix) -> SparseMatrix:
        return matrix[self.rest][:, self.rest].tocsc()
