"""Posteriors that a full-rank Gaussian holds, or nearly: exact Gaussians and regressions.

A verdict other than good costs their users an effort that is not needed. Gaussians and linear
regressions have their moments in closed form; those of logistic regressions are from importance
sampling in float64, from the Gaussian at the mode with the curvature there, which has nothing in
common with a fit.
"""

from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

import advi
from benchmarks.accuracy import Reference
from benchmarks.targets import Target

Floats = NDArray[np.float64]

GAUSSIANS = (2, 10, 50, 75, 100, 150, 250, 500, 1000)
LINEAR = (50, 100, 250, 500)
LOGISTIC = (50, 100, 250, 500)
ROWS = 40  # to a predictor
NOISE = 0.5
DRAWS = 4000
NEWTON_STEPS = 25


def gaussian(dim: int) -> Target:
    """Return a correlated Gaussian with mean zero."""
    rng = np.random.default_rng(dim)
    A = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    precision = A @ A.T + 0.3 * np.eye(dim)

    def log_joint(z: Any, d: Any) -> Array:
        return -0.5 * z["w"] @ (d["precision"] @ z["w"])

    reference = _named(np.zeros(dim), np.linalg.inv(precision))
    model = advi.Model(log_joint, {"w": advi.real(dim)})
    return Target(f"gaussian({dim})", model, {"precision": precision}, reference)


def linear(dim: int) -> Target:
    """Return a linear regression whose noise is known: a Gaussian posterior."""
    x, weights, rng = _design(dim)
    y = x @ weights + NOISE * rng.standard_normal(len(x))

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum()
        return prior + dist.Normal(d["x"] @ z["w"], NOISE).log_prob(d["y"]).sum()

    cov = np.linalg.inv(np.eye(dim) + x.T @ x / NOISE**2)
    reference = _named(cov @ x.T @ y / NOISE**2, cov)
    model = advi.Model(log_joint, {"w": advi.real(dim)})
    return Target(f"linear({dim})", model, {"x": x, "y": y}, reference)


def logistic(dim: int) -> Target:
    """Return a logistic regression of 40 rows to a predictor."""
    x, weights, rng = _design(dim)
    y = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ weights))).astype(float)

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum()
        return prior + dist.BernoulliLogits(d["x"] @ z["w"]).log_prob(d["y"]).sum()

    model = advi.Model(log_joint, {"w": advi.real(dim)})
    reference = _named(*_logistic_moments(x, y, rng))
    return Target(f"logistic({dim})", model, {"x": x, "y": y}, reference)


def _design(dim: int) -> tuple[Floats, Floats, np.random.Generator]:
    """Return predictors, coefficients and the generator that they are from."""
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((ROWS * dim, dim))
    return x, rng.standard_normal(dim) / np.sqrt(dim), rng


def _logistic_moments(x: Floats, y: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return posterior mean and covariance, by importance sampling from the Gaussian at the mode.

    Raises
    ------
    ValueError
        If fewer than a tenth of the draws are effective.
    """
    dim = x.shape[1]
    w, curvature = np.zeros(dim), np.eye(dim)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-x @ w))
        curvature = np.eye(dim) + (x * (p * (1 - p))[:, None]).T @ x
        w = w + np.linalg.solve(curvature, x.T @ (y - p) - w)
    scale = np.linalg.inv(np.linalg.cholesky(curvature)).T
    half = rng.standard_normal((DRAWS // 2, dim))
    E = np.concatenate([half, -half])
    draws = w + E @ scale.T
    log_p = np.array([-np.logaddexp(0, -(2 * y - 1) * (x @ draw)).sum() for draw in draws])
    log_p -= 0.5 * (draws**2).sum(1)
    log_ratios = log_p + 0.5 * (E**2).sum(1)
    weights = np.exp(log_ratios - log_ratios.max())
    weights /= weights.sum()
    if 1 / (weights**2).sum() < DRAWS / 10:
        raise ValueError("too few draws are effective: the reference cannot be relied upon.")
    # what the draws have by chance they have without weights too, where their moments are known
    centred = draws - w
    mean = w + weights @ centred
    second = np.linalg.inv(curvature) + (centred * (weights - 1 / DRAWS)[:, None]).T @ centred
    return mean, second - np.outer(mean - w, mean - w)


def _named(mean: Floats, cov: Floats) -> Reference:
    sds = np.sqrt(np.diag(cov))
    return {
        f"w[{i}]": (float(m), float(s)) for i, (m, s) in enumerate(zip(mean, sds, strict=True), 1)
    }


def targets() -> list[Target]:
    """Return all of them."""
    return [
        *map(gaussian, GAUSSIANS),
        *map(linear, LINEAR),
        *map(logistic, LOGISTIC),
    ]
