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
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.predict import row_terms

NAMED = 5  # rows named in the text
NEXT = "use fit.corrected().loo(), whose draws are nearer to the posterior."
MIN_DRAWS = 100  # for a tail long enough for a k-hat (Vehtari et al. 2024, section 3)


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
        Effective number of parameters, nats: the gain in the rows' density by their own presence.
    num_draws
        Posterior draws that were weighted.
    khat_rows
        (N,) k-hat of the rows' own part of their weights, NaN where `khat` is low enough.
    corrected
        Whether these are draws of a fit that `Fit.corrected` returned.
    khat_fit
        k-hat of the weights p/q of all rows together; NaN of corrected draws, which have none.
    num_folds
        Number of the fits without the rows of a fold, where `Fit.kfold` made them; None for
        importance weights. Then `khat` is that of the row's fold.
    """

    pointwise: Floats
    khat: Floats
    p_loo: float
    num_draws: int
    khat_rows: Floats
    corrected: bool = False
    khat_fit: float = math.nan
    num_folds: int | None = None

    @property
    def elpd(self) -> float:
        """Sum over the rows, nats."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd` over the rows, nats."""
        return error_of_sum(self.pointwise)

    @property
    def bad(self) -> NDArray[np.intp]:
        """Numbers of the rows with a k-hat too high for a reliable estimate."""
        return np.flatnonzero(~(self.khat <= khat_threshold(self.num_draws)))

    @property
    def fit_at_fault(self) -> bool:
        """Whether rows are unreliable because of the approximation, not of themselves.

        The weights of a row are p/q, in which all have a part, over its own density. It is so
        where most rows with heavy-tailed weights have light-tailed ones of their own.
        """
        if self.num_folds is not None:
            return False
        own = self.khat_rows[self.bad] > khat_threshold(self.num_draws)
        return bool(2 * own.sum() < len(own))

    def __repr__(self) -> str:
        lines = [
            f"{self._method} of {len(self.pointwise)} rows, from {self.num_draws} "
            f"{'corrected ' if self.corrected else ''}draws",
            f"elpd: {self.elpd:.2f} ± {self.se:.2f} nats",
            f"p_loo: {self.p_loo:.2f}",
        ]
        return "\n".join([*lines, *self._reliability()])

    @property
    def _method(self) -> str:
        return "PSIS-LOO" if self.num_folds is None else f"{self.num_folds}-fold cross-validation"

    def _reliability(self) -> list[str]:
        count, threshold = len(self.bad), khat_threshold(self.num_draws)
        if not count:
            if self.khat.max() == -math.inf:
                return ["k-hat: none, all weights are even"]
            return [f"k-hat: at most {self.khat.max():.2f}, below {threshold:.2f} in all rows"]
        if self.num_folds is not None:
            return [f"k-hat: above {threshold:.2f} in folds of {count} rows, whose fits are poor"]
        if self.fit_at_fault:
            return [
                f"k-hat: above {threshold:.2f} in {count} of {len(self.khat)} rows, and "
                f"{self.khat_fit:.2f} with all of them: the approximation is at fault, not the "
                "rows",
                f"Next: {NEXT}",
            ]
        worst = self.bad[np.argsort(-self.khat[self.bad], kind="stable")][:NAMED]
        return [
            f"k-hat: above {threshold:.2f} in {count} row{'s' if count > 1 else ''}, most in "
            f"{', '.join(map(str, worst))}: there the density is too high, as a rule"
        ]


def error_of_sum(rows: Floats) -> float:
    """Return the standard error of the sum of rows (N,), taken as a sample of rows like these."""
    return float(np.sqrt(len(rows) * rows.var(ddof=1)))


def require_even_rows(density: Density, name: str) -> None:
    """Raise ValueError if the rows have weights, where `name` takes each out once."""
    if density.weights is not None:
        raise ValueError(
            f"{name}: the rows of this fit have weights, as fit_many(weights=...) gives them; "
            "expected rows that count once. Fit them without weights."
        )


def psis_loo(posterior: GlobalPosterior, data: Any, n: int, key: Any) -> Loo:
    """Return the PSIS-LOO estimate from `n` draws; see `Fit.loo`."""
    check_count("n", n, MIN_DRAWS)
    posterior = posterior.on(data)
    require_even_rows(posterior.density, "loo")
    density, rng = posterior.density, host_rng(key, Stream.LOO)
    if posterior.weighted is not None:
        X = posterior.weighted.resample(n, rng)
        log_ratios = np.zeros(n)
    else:
        X, log_q, *_ = posterior.transport.draw(rng.standard_normal((n, posterior.guide.noise_dim)))
        log_ratios = density.value(X) - log_q
    draws = posterior.model.to_tree(posterior.constrain(X))
    rows = row_terms(density, draws).astype(np.float64)
    pointwise, khat = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for i, row in enumerate(rows.T):
        weights, khat[i] = pareto_smooth(log_ratios - row)
        pointwise[i] = log_mean(weights, row)
    weights, khat_fit = pareto_smooth(log_ratios)
    p_loo = float(np.sum(log_mean(weights, rows) - pointwise))
    khat_rows = np.full(len(khat), math.nan)
    for i in np.flatnonzero(~(khat <= khat_threshold(n))):
        khat_rows[i] = pareto_smooth(-rows[:, i])[1]
    corrected = posterior.weighted is not None
    khat_fit = math.nan if corrected else khat_fit
    return Loo(pointwise, khat, p_loo, n, khat_rows, corrected, khat_fit)


def log_mean(weights: Floats, log_values: Floats) -> Floats:
    """Return the log of the weighted mean over the draws, the leading axis, of exp(log_values)."""
    top = log_values.max(0)
    return top + np.log(weights @ np.exp(log_values - top))
