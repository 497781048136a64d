"""Posteriors that a full-rank Gaussian holds, or nearly: exact Gaussians and regressions.

A verdict other than good costs their users an effort that is not needed. Gaussians and linear
regressions have their moments in closed form; those of logistic regressions are from importance
sampling in float64, from the Gaussian at the mode with the curvature there, which has nothing in
common with a fit.
"""

from collections.abc import Callable
from functools import partial
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
STREAM_DIM, STREAM_ROWS, STREAM_BATCH = 5, 50_000, 500
STREAM_STEPS = (20, 50, 100, 300, 1000)
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


def linear(dim: int, rows: int | None = None) -> Target:
    """Return a linear regression whose noise is known: a Gaussian posterior."""
    x, weights, rng = _design(dim, rows)
    y = x @ weights + NOISE * rng.standard_normal(len(x))

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum()
        return prior + dist.Normal(d["x"] @ z["w"], NOISE).log_prob(d["y"]).sum()

    cov = np.asarray(np.linalg.inv(np.eye(dim) + x.T @ x / NOISE**2), float)
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


def streamed(steps: int) -> Target:
    """Return the rows of a linear regression as a stream of batches, and steps on some of them."""
    target = linear(STREAM_DIM, STREAM_ROWS)
    x, y = target.data["x"], target.data["y"]

    def log_joint(z: Any, d: Any) -> advi.Terms:
        prior = dist.Normal(0, 1).log_prob(z["w"]).sum()
        return advi.Terms(prior, dist.Normal(d["x"] @ z["w"], NOISE).log_prob(d["y"]))

    batches = [
        {"x": x[i : i + STREAM_BATCH], "y": y[i : i + STREAM_BATCH]}
        for i in range(0, len(x), STREAM_BATCH)
    ]
    model = advi.Model(log_joint, {"w": advi.real(STREAM_DIM)})
    options = {"num_rows": len(x), "max_steps": steps}
    name = f"stream({steps * STREAM_BATCH / len(x):g} epochs)"
    return Target(name, model, batches, target.reference, options=options)


def _design(dim: int, rows: int | None = None) -> tuple[Floats, Floats, np.random.Generator]:
    """Return predictors, coefficients and the generator that they are from."""
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((rows or ROWS * dim, dim))
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


def makers() -> dict[str, Callable[[], Target]]:
    """Return what makes each of them, by name: a reference may take some seconds."""
    kinds = ((gaussian, GAUSSIANS), (linear, LINEAR), (logistic, LOGISTIC))
    return {f"{kind.__name__}({dim})": partial(kind, dim) for kind, dims in kinds for dim in dims}


def streams() -> dict[str, Callable[[], Target]]:
    """Return what makes fits to streams of a few epochs or less, by name."""
    epochs = {steps: steps * STREAM_BATCH / STREAM_ROWS for steps in STREAM_STEPS}
    return {f"stream({e:g} epochs)": partial(streamed, steps) for steps, e in epochs.items()}
