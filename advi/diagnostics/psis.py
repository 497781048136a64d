"""Pareto-smoothed importance sampling."""

import numpy as np

from advi.core.types import Floats

MIN_TAIL = 5  # fewer tail draws determine no tail index
PRIOR_DRAWS, PRIOR_K = 10, 0.5  # weak prior of the tail index


def khat_threshold(num: int) -> float:
    """Return the largest reliable k-hat of `num` draws, min(1 - 1 / log10(num), 0.7).

    Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto Smoothed Importance Sampling, section 3.
    """
    return min(1 - 1 / np.log10(num), 0.7)


def pareto_smooth(log_ratios: Floats) -> tuple[Floats, float]:
    """Return normalised weights (S,), Pareto-smoothed, of log ratios (S,), and their k-hat.

    The k-hat is infinite if too few ratios are finite. Vehtari et al. (2024), algorithm 1.

    Examples
    --------
    >>> weights, khat = pareto_smooth(np.random.default_rng(0).standard_normal(1000))
    >>> bool(np.isclose(weights.sum(), 1)), khat < 0.7
    (True, True)
    """
    log_w = np.where(np.isnan(log_ratios), -np.inf, log_ratios)
    if not np.any(np.isfinite(log_w)):
        return np.full(len(log_w), 1 / len(log_w)), np.inf
    log_w = log_w - log_w.max()
    order = np.argsort(log_w)
    num = len(log_w)
    tail = order[num - int(min(0.2 * num, 3 * np.sqrt(num))) :]
    cutoff = log_w[order[num - len(tail) - 1]]
    khat = np.inf
    if len(tail) >= MIN_TAIL and np.isfinite(cutoff):
        excess = np.exp(log_w[tail]) - np.exp(cutoff)
        if excess[0] > 0 and excess[-1] > excess[0] * (1 + 1e-10):
            khat, sigma = fit_pareto(excess)
            quantiles = (np.arange(len(tail)) + 0.5) / len(tail)
            smoothed = sigma * np.expm1(-khat * np.log1p(-quantiles)) / khat
            log_w[tail] = np.minimum(np.log(smoothed + np.exp(cutoff)), 0.0)
        else:
            khat = -np.inf  # the largest ratios are equal: no tail at all
    weights = np.exp(log_w)
    return weights / weights.sum(), float(khat)


def fit_pareto(x: Floats) -> tuple[float, float]:
    """Return shape and scale of a generalised Pareto distribution of increasing exceedances (M,).

    Zhang & Stephens (2009), Technometrics 51(3), 316-325, eqs. 5-8; the shape is shrunk towards
    0.5.
    """
    n = len(x)
    grid = 30 + int(np.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * quartile) + 1 / x[-1]
    k = np.log1p(-b[:, None] * x).mean(1)
    profile = n * (np.log(-b / k) - k - 1)
    weights = np.exp(profile - profile.max())
    b_mean = (b * weights).sum() / weights.sum()
    k_mean = float(np.log1p(-b_mean * x).mean())
    sigma = -k_mean / b_mean
    shrunk = (k_mean * n + PRIOR_DRAWS * PRIOR_K) / (n + PRIOR_DRAWS)
    return shrunk, float(sigma)


def khat_words(khat: float, num: int, when: str = "") -> str:
    """Return a k-hat with the threshold for its number of draws, as printed."""
    threshold = khat_threshold(num)
    return f"k-hat {khat:.2f}{when} (importance weights are reliable below {threshold:.2f})"
