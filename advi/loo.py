"""Leave-one-out cross-validation of a fit, without any further fit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advi.diagnostics.psis import khat_threshold, pareto_smooth
from advi.keys import Stream, host_rng
from advi.predict import row_terms

if TYPE_CHECKING:
    from advi.result import Fit

Floats = NDArray[np.float64]

NAMED = 5  # rows named in the text


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
    """

    pointwise: Floats
    khat: Floats
    p_loo: float
    num_draws: int

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

    def __repr__(self) -> str:
        count, threshold = len(self.bad), khat_threshold(self.num_draws)
        worst = self.bad[np.argsort(-self.khat[self.bad], kind="stable")][:NAMED]
        reliable = f"k-hat: at most {self.khat.max():.2f}, below {threshold:.2f} in all rows"
        doubtful = (
            f"k-hat: above {threshold:.2f} in {count} rows, most in "
            f"{', '.join(map(str, worst))}: there the density is too high, as a rule"
        )
        return "\n".join(
            [
                f"PSIS-LOO of {len(self.pointwise)} rows, from {self.num_draws} draws",
                f"elpd: {self.elpd:.2f} ± {self.se:.2f} nats",
                f"p_loo: {self.p_loo:.2f}",
                doubtful if count else reliable,
            ]
        )


def psis_loo(fit: "Fit", data: Any, n: int, key: Any) -> Loo:
    """Weight draws of the fit so that they stand for the posterior without each row in turn."""
    density = fit.density.on(data)
    rng = host_rng(key, Stream.LOO)
    if fit.corrected_draws is not None:
        X = fit.corrected_draws.resample(n, rng)
        log_ratios = np.zeros(n)
    else:
        E = fit.structure.spread(rng.standard_normal((n, fit.structure.dim)))
        X = fit.gaussian.points(E)
        log_ratios = fit.structure.elbos(density.value(X), E, fit.gaussian)
    rows = row_terms(density, fit.model.to_tree(fit.constrain(X))).astype(np.float64)
    weighted = [_log_predictive(log_ratios - row, row) for row in rows.T]
    pointwise, khat = np.array(weighted).T
    with_all = _log_mean(pareto_smooth(log_ratios)[0], rows)
    return Loo(pointwise, khat, float(np.sum(with_all - pointwise)), n)


def _log_predictive(log_ratios: Floats, row: Floats) -> tuple[float, float]:
    """Return the log of the weighted mean of a row's likelihood, and the weights' k-hat."""
    weights, khat = pareto_smooth(log_ratios)
    return float(_log_mean(weights, row)), khat


def _log_mean(weights: Floats, log_values: Floats) -> Floats:
    """Return the log of the weighted mean over the draws, the leading axis, of exp(log_values)."""
    top = log_values.max(0)
    return top + np.log(weights @ np.exp(log_values - top))
