"""Leave-one-out cross-validation of a fit, without any further fit."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import check_count
from advi.core.keys import Stream, host_rng
from advi.core.types import Floats
from advi.diagnostics.psis import khat_threshold, pareto_smooth
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.predict import row_terms

NAMED = 5  # rows named in the text
MIN_DRAWS = 100  # of fewer the tail is too short for a k-hat (Vehtari et al. 2024, section 3)
HEAVY = 0.5  # k-hat from which on weights have no variance


@dataclass(frozen=True, eq=False, repr=False)
class Loo:
    """Expected log predictive density of rows left out one at a time.

    Attributes
    ----------
    pointwise
        (N,) log predictive density of each row given all others, nats; higher is better.
    khat
        (N,) Pareto k-hat of each row's importance weights.
    p_loo
        Effective number of parameters: what the rows' own presence adds to their density, nats.
    num_draws
        Posterior draws that were weighted.
    corrected
        Whether these are draws of a fit that `Fit.corrected` returned.
    khat_fit
        k-hat of the weights of all rows together, which make up for the approximation alone; NaN
        of corrected draws, which have none.
    """

    pointwise: Floats
    khat: Floats
    p_loo: float
    num_draws: int
    corrected: bool = False
    khat_fit: float = math.nan

    @property
    def elpd(self) -> float:
        """Sum over the rows, nats."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd` over the rows, nats."""
        return float(np.sqrt(len(self.pointwise) * self.pointwise.var(ddof=1)))

    @property
    def bad(self) -> NDArray[np.intp]:
        """Numbers of the rows whose k-hat says that their estimate cannot be relied on."""
        return np.flatnonzero(~(self.khat <= khat_threshold(self.num_draws)))

    @property
    def fit_at_fault(self) -> bool:
        """Whether rows cannot be relied on because the approximation is off, not for their own.

        Every row's weights hold those of all rows together, p/q: where these are heavy-tailed by
        themselves, hardly any row's can be better.
        """
        heavy = self.khat_fit > khat_threshold(self.num_draws)
        if 2 * len(self.bad) > len(self.khat):
            heavy = self.khat_fit > HEAVY
        return bool(heavy and len(self.bad))

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"PSIS-LOO of {len(self.pointwise)} rows, from {self.num_draws} "
                f"{'corrected ' if self.corrected else ''}draws",
                f"elpd: {self.elpd:.2f} ± {self.se:.2f} nats",
                f"p_loo: {self.p_loo:.2f}",
                *self._reliability(),
            ]
        )

    def _reliability(self) -> list[str]:
        count, threshold = len(self.bad), khat_threshold(self.num_draws)
        if not count:
            return [f"k-hat: at most {self.khat.max():.2f}, below {threshold:.2f} in all rows"]
        if self.fit_at_fault:
            return [
                f"k-hat: above {threshold:.2f} in {count} of {len(self.khat)} rows, and "
                f"{self.khat_fit:.2f} with all of them: the approximation is at fault, not the "
                "rows",
                "Next: use fit.corrected().loo(), whose draws are nearer to the posterior.",
            ]
        worst = self.bad[np.argsort(-self.khat[self.bad], kind="stable")][:NAMED]
        return [
            f"k-hat: above {threshold:.2f} in {count} rows, most in "
            f"{', '.join(map(str, worst))}: there the density is too high, as a rule"
        ]


def psis_loo(posterior: GlobalPosterior, data: Any, n: int, key: Any) -> Loo:
    """Weight draws of a fit so that they stand for the posterior without each row in turn."""
    check_count("n", n, MIN_DRAWS)
    posterior = posterior.on(data)
    density, rng = posterior.density, host_rng(key, Stream.LOO)
    if posterior.weighted is not None:
        X = posterior.weighted.resample(n, rng)
        log_ratios = np.zeros(n)
    else:
        q, structure = posterior.gaussian, posterior.structure
        E = structure.embed(rng.standard_normal((n, structure.dim)))
        X = q.points(E)
        log_ratios = structure.elbos(density.value(X), E, q)
    draws = posterior.model.to_tree(posterior.constrain(X))
    rows = row_terms(density, draws).astype(np.float64)
    weighted = [_log_predictive(log_ratios - row, row) for row in rows.T]
    pointwise, khat = np.array(weighted).T
    weights, khat_fit = pareto_smooth(log_ratios)
    p_loo = float(np.sum(_log_mean(weights, rows) - pointwise))
    corrected = posterior.weighted is not None
    return Loo(pointwise, khat, p_loo, n, corrected, math.nan if corrected else khat_fit)


def _log_predictive(log_ratios: Floats, row: Floats) -> tuple[float, float]:
    """Return the log of the weighted mean of a row's likelihood, and the weights' k-hat."""
    weights, khat = pareto_smooth(log_ratios)
    return float(_log_mean(weights, row)), khat


def _log_mean(weights: Floats, log_values: Floats) -> Floats:
    """Return the log of the weighted mean over the draws, the leading axis, of exp(log_values)."""
    top = log_values.max(0)
    return top + np.log(weights @ np.exp(log_values - top))
