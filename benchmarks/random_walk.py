"""A random walk of 5,000 steps seen with noise: Gaussian given both sds, over which one can sum."""

from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax import Array
from scipy.linalg import cho_solve_banded, cholesky_banded

import advi
from benchmarks.large_problems import Large
from benchmarks.problem import Problem
from benchmarks.real_models.definition import normal

STEPS, WALK_SD, NOISE = 5000, 0.2, 0.5
WATCHED = 50  # levels whose moments are known
WIDTH = 5  # of the grid of log sds to either side of the mean, sds


def walk() -> Large:
    """Return 5,000 steps of a random walk seen with noise, fitted by default."""
    rng = np.random.default_rng(1)
    level = np.cumsum(WALK_SD * rng.standard_normal(STEPS))
    data = {"y": (level + NOISE * rng.standard_normal(STEPS)).astype(np.float32)}

    def log_joint(z: Any, d: Any) -> Array:
        x, sd, noise = z["x"], z["sd"], z["noise"]
        return (
            dist.Exponential(1).log_prob(sd)
            + dist.Exponential(1).log_prob(noise)
            + normal(x[0], 0, 2)
            + normal(x[1:], x[:-1], sd)
            + normal(d["y"], x, noise)
        )

    latents = {"sd": advi.positive(), "noise": advi.positive(), "x": advi.real(STEPS)}
    problem = Problem("walk", advi.Model(log_joint, latents), data, f"simulated, {STEPS:,} steps")
    return Large(problem, ("x",), "auto")


def walk_moments(y: Any, points: int = 15) -> dict[str, list[float]]:
    """Return means and sds of both sds and of some levels, by quadrature over the former."""
    y = np.asarray(y, float)
    at = np.linspace(0, len(y) - 1, WATCHED).round().astype(int)
    units = np.zeros((len(y), WATCHED))
    units[at, range(WATCHED)] = 1.0

    def given(log_sds: Any, watched: bool) -> tuple[float, Any, Any]:
        s, e = np.exp(log_sds)
        diagonal = np.full(len(y), 2 / s**2 + 1 / e**2)
        diagonal[[0, -1]] = 0.25 + 1 / s**2 + 1 / e**2, 1 / s**2 + 1 / e**2
        factor = cholesky_banded(np.stack([np.full(len(y), -1 / s**2), diagonal])), False
        mean = cho_solve_banded(factor, y / e**2)
        log_p = 0.5 * (y @ (mean - y)) / e**2 - np.log(factor[0][1]).sum() - s - e
        log_p += log_sds.sum() - len(y) * np.log(e) - (len(y) - 1) * np.log(s)
        variances = cho_solve_banded(factor, units)[at, range(WATCHED)] if watched else None
        return log_p, mean[at], variances

    def moments(weights: Any, values: Any) -> tuple[Any, Any]:
        mean = weights @ values
        return mean, np.sqrt(weights @ (values - mean) ** 2)

    def mesh(centre: Any, width: Any) -> tuple[Any, Any]:
        axes = [c + w * np.linspace(-1, 1, points) for c, w in zip(centre, width, strict=True)]
        nodes = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        log_p = np.array([given(n, False)[0] for n in nodes])
        weights = np.exp(log_p - log_p.max())
        return nodes, weights / weights.sum()

    nodes, weights = mesh(np.log([WALK_SD, NOISE]), np.array([0.4, 0.2]))
    for _ in range(2):  # the grid is moved to the density and fitted to its width
        centre, sds = moments(weights, nodes)
        nodes, weights = mesh(centre, WIDTH * sds)
    means, variances = (np.array(v) for v in zip(*(given(n, True)[1:] for n in nodes), strict=True))
    of_x, sd_of_mean = moments(weights, means)
    found = dict(
        zip(("sd", "noise"), zip(*moments(weights, np.exp(nodes)), strict=True), strict=True)
    )
    sd_of_x = np.sqrt(weights @ variances + sd_of_mean**2)
    found |= {
        f"x[{i + 1}]": pair for i, pair in zip(at, zip(of_x, sd_of_x, strict=True), strict=True)
    }
    return {name: [float(f"{v:.6g}") for v in pair] for name, pair in found.items()}
