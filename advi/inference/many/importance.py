"""Adaptive importance sampling in a compiled program, as `diagnostics` has it for one fit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from advi.variational.draws import STUDENT_DEGREES


class Weighted(NamedTuple):
    """Log weights of the draws of all rounds, and their moments."""

    log_ratios: Any  # (n,) log p - log q, q the mixture of all proposals
    last_share: Any  # effective share of the draws of the last round, by its own proposal
    mean: Any  # (K,) of the quantities on the constrained scale
    sd: Any


class _Proposal(NamedTuple):
    """A Gaussian, or a Student-t."""

    loc: Array  # (D,)
    tril: Array  # (D, D)
    gaussian: bool

    def log_density(self, Z: Array) -> Array:
        """Return log densities (n,) of points (n, D)."""
        dim = len(self.loc)
        V = lax.linalg.triangular_solve(self.tril, (Z - self.loc).T, left_side=True, lower=True)
        squared, log_det = (V**2).sum(0), jnp.log(jnp.diag(self.tril)).sum()
        if self.gaussian:
            return -0.5 * (squared + dim * np.log(2 * np.pi)) - log_det
        nu = STUDENT_DEGREES
        of_gamma = lax.lgamma(0.5 * (nu + dim)) - lax.lgamma(0.5 * nu)
        constant = of_gamma - 0.5 * dim * np.log(nu * np.pi) - log_det
        return constant - 0.5 * (nu + dim) * jnp.log1p(squared / nu)


def weighted(
    values: Callable[[Array], Array],
    columns: Callable[[Array], Array],
    loc: Array,
    tril: Array,
    drawn: tuple[Array, Array, Array],
    rounds: Array,
) -> Weighted:
    """Weight draws of a Gaussian and of Student-t proposals that adapt, one for each round.

    `drawn` are the Gaussian's points (n, D), their log p and log q (n,); `rounds` (R, n, D) are
    standard draws. All are weighted by the mixture of all proposals (Cornuet et al. 2012). The
    weights by which proposals adapt are truncated (Ionides 2008), those of the result are not.
    """
    points, log_p, log_q = drawn
    proposals, under = [_Proposal(loc, tril, True)], log_q[:, None]  # (n, proposals)
    last_share = _share(log_p - log_q)
    for E in rounds:
        last = _adapted(proposals[-1], points, log_p - _log_mean_exp(under))
        proposals.append(last)
        new = last.loc + E @ last.tril.T
        of_new = jnp.stack([q.log_density(new) for q in proposals], axis=1)
        of_old = jnp.concatenate([under, last.log_density(points)[:, None]], axis=1)
        points, under = jnp.concatenate([points, new]), jnp.concatenate([of_old, of_new])
        log_new = values(new)
        log_p = jnp.concatenate([log_p, log_new])
        last_share = _share(log_new - of_new[:, -1])
    log_ratios = log_p - _log_mean_exp(under)
    return Weighted(log_ratios, last_share, *_moments(columns(points), _weights(log_ratios)))


def _adapted(last: _Proposal, points: Array, log_ratios: Array) -> _Proposal:
    """Return the next proposal; with few effective draws it stays near the last one."""
    weights = _weights(log_ratios)
    weights = jnp.minimum(weights, 1 / np.sqrt(len(weights)))
    weights /= weights.sum()
    dim = len(last.loc)
    keep = dim / (dim + 1 / (weights**2).sum())
    mean = weights @ points
    centred = points - mean
    cov = (1 - keep) * (weights[:, None] * centred).T @ centred + keep * last.tril @ last.tril.T
    factor = jnp.linalg.cholesky(cov)
    factor = jnp.where(jnp.isfinite(factor).all(), factor, last.tril)
    return _Proposal((1 - keep) * mean + keep * last.loc, factor, False)


def _weights(log_ratios: Array) -> Array:
    return jax.nn.softmax(jnp.where(jnp.isnan(log_ratios), -jnp.inf, log_ratios))


def _share(log_ratios: Array) -> Array:
    return 1 / (_weights(log_ratios) ** 2).sum() / len(log_ratios)


def _log_mean_exp(under: Array) -> Array:
    return jax.nn.logsumexp(under, axis=1) - np.log(under.shape[1])


def _moments(columns: Array, weights: Array) -> tuple[Array, Array]:
    """Return weighted means and sds of columns (n, K); draws without weight count for nothing."""
    columns = jnp.where(weights[:, None] > 0, columns, 0.0)
    mean = weights @ columns
    return mean, jnp.sqrt(weights @ (columns - mean) ** 2)
