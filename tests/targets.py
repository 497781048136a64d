"""Posteriors with closed-form answers."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import advi


class Target(NamedTuple):
    model: advi.Model
    data: dict
    mean: np.ndarray  # of the single latent "x"
    cov: np.ndarray
    log_evidence: float


def gaussian_log_joint(z, data):
    r = z["x"] - data["mean"]
    return -0.5 * r @ data["precision"] @ r + data["log_scale"]


def gaussian(mean, cov) -> Target:
    """A normalised Gaussian: log evidence zero."""
    mean, cov = np.asarray(mean, float), np.asarray(cov, float)
    dim = len(mean)
    data = {
        "mean": mean,
        "precision": np.linalg.inv(cov),
        "log_scale": -0.5 * (np.linalg.slogdet(cov)[1] + dim * np.log(2 * np.pi)),
    }
    model = advi.Model(gaussian_log_joint, {"x": advi.real(dim)})
    return Target(model, data, mean, cov, 0.0)


def ill_conditioned(dim, condition, seed) -> Target:
    """A Gaussian with log-spaced eigenvalues along random axes."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return gaussian(rng.standard_normal(dim), (Q * np.geomspace(1, 1 / condition, dim)) @ Q.T)


def conjugate_log_joint(z, data):
    """Unit-variance observations with a N(0, 10^2) prior on their mean; rows per observation."""
    prior = -0.5 * (z["x"][0] / 10) ** 2 - jnp.log(10.0) - 0.5 * jnp.log(2 * jnp.pi)
    rows = -0.5 * (data["y"] - z["x"][0]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    return advi.Terms(prior, rows)


def conjugate_normal(n=50, seed=0) -> Target:
    """The mean of normal observations of known variance, with a normal prior."""
    y = np.random.default_rng(seed).normal(2.0, 1.0, n)
    variance = 1 / (n + 1 / 100)
    marginal = np.eye(n) + 100.0  # covariance of y under the model
    log_evidence = -0.5 * (
        y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(marginal)[1] + n * np.log(2 * np.pi)
    )
    model = advi.Model(conjugate_log_joint, {"x": advi.real(1)})
    return Target(
        model, {"y": y}, np.array([variance * y.sum()]), np.array([[variance]]), log_evidence
    )


def gamma_log_joint(z, data):
    return (data["shape"] - 1) * jnp.log(z["x"]) - data["rate"] * z["x"] + data["constant"]


def gamma(shape, rate, transform) -> tuple[advi.Model, dict]:
    """A Gamma(shape, rate) density, normalised, and its data: its ELBO is minus KL(q, p)."""
    from scipy.special import gammaln

    data = {"shape": shape, "rate": rate, "constant": shape * np.log(rate) - gammaln(shape)}
    return advi.Model(gamma_log_joint, {"x": advi.positive(transform=transform)}), data
