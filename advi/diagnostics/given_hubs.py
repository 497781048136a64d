"""The density of hubs, by draws of all other coordinates from their Gaussian given them.

From one value of the hubs to another the mean of the others moves as their mode does, and their
precision as the Hessian: at the means of the hubs they are those of the fit, whose weights are far
more even, of very many others, than those of the Gaussian at the mode.
"""

from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.types import LOG_2PI, Floats, Indices, SparseMatrix
from advi.diagnostics.hub_precisions import HubPrecisions
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian
from advi.variational.precision_scale import PrecisionScale, ridged

# Draws given each draw of the hubs, as many as their log density takes for a variance of `NOISE`;
# where weights are uneven; of those that are kept; and elements of all at once.
MIN_INNER, MAX_INNER, MAX_UNEVEN, NOISE = 4, 64, 512, 0.1
MIN_KEPT, MAX_KEPT, KEPT_COORDINATES = 2, 4, 2**16
ELEMENTS, TINY = 2**24, 1e-300
MAX_EVEN = 0.7  # variance of log weights, beyond which the draws that are kept are resampled
UNEVEN = 3.0  # times the draws wanted at the fit, beyond which no precision is predicted
MAX_VARIANCE = 4.0  # of the log weights, beyond which so many draws do not give the density
MAX_NEWTON, DECREMENT = 6, 1e-3  # steps to a conditional mode, and nats that the last one gains
MAX_FACTOR_ENTRIES = 2**24  # of the factors that are held at once


class Conditional(NamedTuple):
    """Antithetic draws of the others given hubs."""

    noise: Floats  # (n / 2, D - H)
    points: Floats  # (n, D)
    log_ratio: Floats  # (n,) log p - log q, nats

    @property
    def variance(self) -> float:
        """Variance of the log weights."""
        variance = float(np.var(self.log_ratio))
        return variance if np.isfinite(variance) else np.inf

    @property
    def log_mean(self) -> float:
        """Log of the mean weight, the log density of the hubs."""
        return float(np.logaddexp.reduce(self.log_ratio) - np.log(len(self.log_ratio)))

    def resampled(self, num: int, rng: np.random.Generator) -> Floats:
        """Return draws (num, D) by their weights."""
        weights = np.exp(self.log_ratio - np.maximum(self.log_ratio.max(), -1e300)) + TINY
        return WeightedDraws(self.points, weights / weights.sum()).resample(num, rng)


class GivenHubs:
    """The log density of the hubs, and the draws of all coordinates that it was estimated from."""

    def __init__(
        self, density: Density, hessian: SparseHessian, q: Gaussian, rng: np.random.Generator
    ) -> None:
        self.density, self.hessian, self.q, self.rng = density, hessian, q, rng
        self.kept = int(np.clip(KEPT_COORDINATES // hessian.dim, MIN_KEPT, MAX_KEPT)) // 2 * 2
        is_hub = np.zeros(hessian.dim, bool)
        is_hub[hessian.hyperparameters] = True
        self.rest = np.flatnonzero(~is_hub)
        place = np.cumsum(~is_hub) - 1  # among the rest
        order = hessian.elimination.order
        self.order = place[order[~is_hub[order]]]
        precision, hubs = q.scale.precision, hessian.hyperparameters  # type: ignore[attr-defined]
        self.own = PrecisionScale(self._of_rest(precision), self.order)
        self.to_hubs = precision[self.rest][:, hubs]
        self.precisions = HubPrecisions(Gaussian(q.loc[hubs], q.scale.take(hubs)))
        self.points: list[Floats] = []  # (n kept, D), of every call
        self.log_inner: list[Floats] = []  # (n, kept) log weights given each draw of the hubs
        self.of_proposal: list[Floats] = []  # (n kept, D)
        # of the fit from the mode and the Hessian, at the means of the hubs
        self.shift, self.added = np.zeros(len(self.rest)), 0.0 * self.own.precision
        center = q.loc[None]
        self.added = self.own.precision - self._precision(q.loc, exact=True)
        self.shift = (center - self._modes(center)[0])[0, self.rest]
        self.most = int(np.clip(ELEMENTS // hessian.dim, MAX_INNER, MAX_UNEVEN)) // 2 * 2
        [at_fit] = self._given(center, [self.own], np.array([self.most]))
        self.variance = at_fit.variance
        self.wanted = max(MIN_INNER, _wanted(self.variance))
        self.inner = int(min(self.wanted, MAX_INNER)) // 2 * 2
        self.uneven = self.variance > MAX_EVEN

    def joined(self) -> tuple[Floats, Floats | None, Floats]:
        """Return the points of all calls, those of the proposal, and log weights given hubs."""
        kept = self.points, self.of_proposal, self.log_inner
        for parts in kept:
            parts[:] = [np.concatenate(parts)] if parts else []
        of_proposal = None if self.uneven else self.of_proposal[0]
        return self.points[0], of_proposal, self.log_inner[0]

    def log_density(self, hubs: Floats) -> Floats:
        """Return estimates (n,) at hubs (n, H), nats; they keep the draws."""
        of_factors = MAX_FACTOR_ENTRIES // self.hessian.elimination.entries
        at_once = max(1, min(of_factors, ELEMENTS // (self.inner * self.hessian.dim)))
        parts = range(0, len(hubs), at_once)
        return np.concatenate([self._log_density(hubs[k : k + at_once]) for k in parts])

    def _log_density(self, hubs: Floats) -> Floats:
        num = len(hubs)
        fitted = np.tile(self.q.loc, (num, 1))
        shift = self.to_hubs @ (hubs - fitted[:, self.hessian.hyperparameters]).T
        fitted[:, self.hessian.hyperparameters] = hubs
        fitted[:, self.rest] -= self.own.covariance_times(shift.T)
        given = self._given(*self._modes(fitted), np.full(num, self.inner))
        wanted = np.array([_wanted(of.variance) for of in given])
        uneven = np.flatnonzero(wanted > UNEVEN * self.wanted)
        if len(uneven):
            exact = zip(uneven, *self._modes(fitted[uneven], exact=True), strict=True)
            for k, center, scale in exact:  # one by one: their draws are very many
                most = int(min(wanted[k], self.most)) // 2 * 2
                [given[k]] = self._given(center[None], [scale], np.array([most]))
        values = np.array([of.log_mean for of in given])
        self._keep(given, values, fitted)
        return values

    def _keep(self, given: list[Conditional], values: Floats, fitted: Floats) -> None:
        """Keep some draws of each, and draws of the proposal at their noise.

        Where weights are very uneven they are resampled, and there are no equal draws.
        """
        if self.uneven:
            some = [of.resampled(self.kept, self.rng) for of in given]
            self.points.append(np.concatenate(some))
            self.log_inner.append(np.zeros((len(given), self.kept)))
            return
        half = self.kept // 2
        away = self.own.mv(np.concatenate([of.noise[:half] for of in given]))
        away = away.reshape(len(given), half, -1)
        of_proposal = np.repeat(fitted[:, None], self.kept, axis=1)
        of_proposal[:, :, self.rest] += np.concatenate([away, -away], axis=1)
        some = np.array([_in_pairs(of.log_ratio, half) for of in given])
        self.points.append(np.concatenate([_in_pairs(of.points, half) for of in given]))
        self.of_proposal.append(of_proposal.reshape(-1, self.hessian.dim))
        self.log_inner.append(some - np.maximum(values, -1e300)[:, None])

    def _given(
        self, centers: Floats, scales: list[PrecisionScale], nums: Indices
    ) -> list[Conditional]:
        """Return antithetic draws of the others given hubs, so many of each."""
        points, ends = np.empty((nums.sum(), self.hessian.dim)), np.cumsum(nums)
        all_, noise, log_q = np.ones(len(self.rest), bool), [], []
        for center, scale, num, end in zip(centers, scales, nums, ends, strict=True):
            half = self.rng.standard_normal((num // 2, len(self.rest)))
            away, own = scale.mv(half), points[end - num : end]
            own[:] = center
            own[: num // 2, self.rest] += away
            own[num // 2 :, self.rest] -= away
            of_half = -0.5 * np.einsum("ij,ij->i", half, half) - scale.log_det(all_)
            log_q += [of_half, of_half]
            noise.append(half)
        log_p = self.density.value(points)  # its calls are of many points
        log_ratio = log_p - np.concatenate(log_q) + 0.5 * LOG_2PI * len(self.rest)
        log_ratio = np.where(np.isfinite(log_p), log_ratio, -np.inf)
        of_each = np.split(points, ends[:-1]), np.split(log_ratio, ends[:-1])
        return [Conditional(*of) for of in zip(noise, *of_each, strict=True)]

    def _modes(self, X: Floats, *, exact: bool = False) -> tuple[Floats, list[PrecisionScale]]:
        """Return X (n, D) with all but the hubs at their means given these, and scales there.

        They are conditional modes, moved as the fit is from its own. Where a mode is not found,
        the last step is near enough for a proposal. Of `exact` scales no precision is predicted.
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
                    scales[s] = self._scale(X[s], exact=exact)
                    X[s, self.rest] += scales[s].covariance_times(g[None])[0]
                still.append(s)
            open_ = np.array(still, int)
            if not len(open_):
                break
        X[:, self.rest] += self.shift
        return X, scales

    def _scale(self, x: Floats, *, exact: bool) -> PrecisionScale:
        found = ridged(self._precision(x, exact=exact) + self.added, self.order)
        return self.own if found is None else found

    def _precision(self, x: Floats, *, exact: bool) -> SparseMatrix:
        hubs = x[self.hessian.hyperparameters]
        predicted = None if exact else self.precisions.predicted(hubs)
        if predicted is not None:
            return predicted
        precision = -self._of_rest(self.hessian.mean(x[None]))
        self.precisions.learn(hubs, precision)
        return precision

    def _of_rest(self, matrix: SparseMatrix) -> SparseMatrix:
        return matrix[self.rest][:, self.rest].tocsc()


def _wanted(variance: float) -> float:
    """Return how many draws give a density by log-normal weights of a variance."""
    return float(np.expm1(min(variance, MAX_VARIANCE)) / NOISE)


def _in_pairs(rows: Floats, num: int) -> Floats:
    """Return so many pairs of antithetic rows."""
    return np.concatenate([rows[:num], rows[len(rows) // 2 :][:num]])
