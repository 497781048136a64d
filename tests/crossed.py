"""Ratings by crossed students and lecturers with known sds: a Gaussian posterior that is known."""

import numpy as np
from jax.scipy.stats import norm

import advi

PRIOR_SDS = 2.0, 0.5, 0.7  # of the mean, the students and the lecturers


def log_joint(z, d):
    mu, student, lecturer = PRIOR_SDS
    location = z["mu"] + z["student"][d["student"]] + z["lecturer"][d["lecturer"]]
    log_p = norm.logpdf(z["mu"], 0, mu) + norm.logpdf(z["student"], 0, student).sum()
    return (
        log_p + norm.logpdf(z["lecturer"], 0, lecturer).sum() + norm.logpdf(d["y"], location).sum()
    )


def model(students, lecturers):
    latents = {"mu": advi.real(), "student": advi.real(students), "lecturer": advi.real(lecturers)}
    return advi.Model(log_joint, latents)


def simulate(students, lecturers, rows):
    rng = np.random.default_rng(3)
    return {
        "student": rng.integers(0, students, rows),
        "lecturer": rng.integers(0, lecturers, rows),
        "y": rng.standard_normal(rows) + 1.0,
    }


def exact(data, students, lecturers):
    """Mean and covariance of mu, students, lecturers, and the log evidence."""
    rows = len(data["y"])
    X = np.zeros((rows, 1 + students + lecturers))
    X[:, 0] = 1
    X[np.arange(rows), 1 + data["student"]] = 1
    X[np.arange(rows), 1 + students + data["lecturer"]] = 1
    prior = np.repeat(np.square(PRIOR_SDS), [1, students, lecturers])
    cov = np.linalg.inv(X.T @ X + np.diag(1 / prior))
    marginal = np.eye(rows) + X * prior @ X.T
    evidence = -0.5 * (
        rows * np.log(2 * np.pi)
        + np.linalg.slogdet(marginal)[1]
        + data["y"] @ np.linalg.solve(marginal, data["y"])
    )
    return cov @ X.T @ data["y"], cov, evidence
