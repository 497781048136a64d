"""Adaptive importance sampling from a Gaussian fit: density evaluations only."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from advi.diagnostics.psis import pareto_smooth
from advi.diagnostics.weighted import WeightedDraws
from advi.gaussian import Gaussian

Floats = NDArray[np.float64]

ROUND_DRAWS = 1000
DEGREES = 7.0  # of freedom of the Student-t proposals
MIN_SHARE, MAX_KHAT = 0.6, 0.7
RADII = 1000  # of the quadrature for what a Gaussian would weigh


class Adapted(NamedTuple):
    """The weighted draws of all rounds, and the proposal they ended with."""

    draws: WeightedDraws
    khat: float
    log_ratios: Floats  # (num,) log p - log q of the first round, drawn from the Gaussian itself
    proposal: Gaussian
    # effective share of the draws, of all or of the last round, to that for a Gaussian posterior
    share: float

    @property
    def reliable(self) -> bool:
        """Whether the draws' moments may be believed.

        The Pareto k-hat does not see what no draw has found. The share does: proposals that have
        adapted to what they found weigh unevenly where the posterior has no Gaussian's shape, and
        the neck of a funnel, which they miss, is part of such a shape.
        """
        return bool(self.share >= MIN_SHARE and self.khat <= MAX_KHAT)


class _Proposal:
    """A multivariate Student-t, or a Gaussian for infinite degrees of freedom."""

    def __init__(self, loc: Floats, scale_tril: Floats, degrees: float) -> None:
        self.loc, self.scale_tril, self.degrees = loc, scale_tril, degrees

    @cached_property
    def _whitening(self) -> Floats:
        # one inverse, for the thousands of draws of every round
        return np.asarray(np.linalg.inv(self.scale_tril).T, float)

    def log_density(self, Z: Floats) -> Floats:
        """Return log densities (n,) of points (n, D)."""
        squared = (((Z - self.loc) @ self._whitening) ** 2).sum(1)
        log_scale = np.log(np.diag(self.scale_tril)).sum()
        return _log_standard(squared, len(self.loc), self.degrees) - log_scale


def adaptive_importance_sampling(
    log_p: Callable[[Floats], Floats],
    loc: Floats,
    scale_tril: Floats,
    rng: np.random.Generator,
    rounds: int,
    num: int = ROUND_DRAWS,
) -> Adapted:
    """Sample from proposals that adapt their moments round by round.

    The first round draws from the Gaussian, the others from Student-t proposals. All rounds
    count, weighted by the mixture of all proposals, and the weights are Pareto-smoothed.

    Parameters
    ----------
    log_p
        Points (n, D) to log densities (n,), nats.
    loc, scale_tril
        Mean (D,) and scale (D, D) of the Gaussian.
    rng
        Generator.
    rounds, num
        Rounds, and antithetic draws in each.

    Returns
    -------
    Adapted

    References
    ----------
    Cornuet, Marin, Mira & Robert (2012), Adaptive Multiple Importance Sampling, section 2.
    """
    dim = len(loc)
    proposals = [_Proposal(loc, scale_tril, np.inf)]
    Z, values = np.zeros((0, dim)), np.zeros(0)
    densities = np.zeros((0, 0))  # log density of every draw under every proposal
    draws, khat = WeightedDraws(Z, values), np.inf
    log_ratios = np.zeros(0)
    for _ in range(rounds):
        last = proposals[-1]
        loc, scale_tril = last.loc, last.scale_tril
        half = rng.standard_normal((num // 2, dim))
        if np.isfinite(last.degrees):
            half /= np.sqrt(rng.chisquare(last.degrees, (num // 2, 1)) / last.degrees)
        new = loc + np.concatenate([half, -half]) @ scale_tril.T
        value = log_p(new)
        values = np.concatenate([values, np.where(np.isfinite(value), value, -np.inf)])
        old_under_last = last.log_density(Z)[:, None]
        new_under_all = np.stack([q.log_density(new) for q in proposals], axis=1)
        densities = np.concatenate(
            [np.concatenate([densities, old_under_last], axis=1), new_under_all]
        )
        if not len(Z):
            log_ratios = values - new_under_all[:, 0]
        Z = np.concatenate([Z, new])
        weights, khat = pareto_smooth(values - _log_mean_exp(densities))
        draws = WeightedDraws(Z, weights)
        # with few effective draws the proposal moves little
        keep = dim / (dim + draws.ess)
        mean = weights @ Z
        centred = Z - mean
        cov = (1 - keep) * (weights[:, None] * centred).T @ centred
        cov += keep * scale_tril @ scale_tril.T
        try:
            factor = np.asarray(np.linalg.cholesky(cov), float)
        except np.linalg.LinAlgError:
            factor = scale_tril  # too few distinct draws: try again from the same proposal
        proposals.append(_Proposal((1 - keep) * mean + keep * loc, factor, DEGREES))
    last_round = _effective_share(values[-num:] - densities[-num:, -1])
    share = max(draws.ess / len(draws.weights), last_round) / gaussian_share(dim)
    proposal = Gaussian(proposals[-1].loc, proposals[-1].scale_tril)
    return Adapted(draws, khat, log_ratios, proposal, share)


def importance_sampling(
    log_p: Callable[[Floats], Floats],
    gaussian: Gaussian,
    rng: np.random.Generator,
    num: int = ROUND_DRAWS,
) -> Adapted:
    """Weight antithetic draws of a Gaussian, which may have too many dimensions to adapt.

    Parameters
    ----------
    log_p
        Points (n, D) to log densities (n,), nats.
    gaussian
        The proposal.
    rng
        Generator.
    num
        Number of draws.

    Returns
    -------
    Adapted
    """
    half = rng.standard_normal((num // 2, len(gaussian.loc)))
    E = np.concatenate([half, -half])
    Z = gaussian.points(E)
    value = log_p(Z)
    standard = _log_standard((E**2).sum(1), E.shape[1], np.inf)
    log_q = standard - gaussian.log_det(np.ones(E.shape[1], bool))
    log_ratios = np.where(np.isfinite(value), value, -np.inf) - log_q
    weights, khat = pareto_smooth(log_ratios)
    draws = WeightedDraws(Z, weights)
    return Adapted(draws, khat, log_ratios, gaussian, draws.ess / num)


def _log_mean_exp(x: Floats) -> Floats:
    top = x.max(1)
    return top + np.log(np.exp(x - top[:, None]).mean(1))


def _effective_share(log_weights: Floats) -> float:
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def gaussian_share(dim: int) -> float:
    """Return the effective share of draws of a proposal with a Gaussian's mean and scale."""
    r = np.linspace(0, np.sqrt(dim) + 8, RADII + 1)[1:]
    log_p, log_q = (_log_standard(r**2, dim, degrees) for degrees in (np.inf, DEGREES))
    of_radius = log_p + (dim - 1) * np.log(r)
    p = np.exp(of_radius - of_radius.max())
    return float(p.sum() / (p * np.exp(log_p - log_q)).sum())


def _log_standard(squared: Floats, dim: int, degrees: float) -> Floats:
    """Return log densities of the standard Student-t, by squared norms, or of the Gaussian."""
    if not np.isfinite(degrees):
        return -0.5 * squared - 0.5 * dim * np.log(2 * np.pi)
    constant = gammaln((degrees + dim) / 2) - gammaln(degrees / 2)
    constant -= 0.5 * dim * np.log(degrees * np.pi)
    return constant - 0.5 * (degrees + dim) * np.log1p(squared / degrees)
