"""Growth curves and growth regressions on raw scales: whether every key reaches the optimum.

Days, grams and millimetres as they are measured, centred effects, and priors that say next to
nothing: what a climb meets before it meets the posterior. A fit is short of the optimum by its
ELBO below the best one that any key has found with the same family.

References
----------
Draper & Smith (1998), Applied Regression Analysis, exercise 24.N: the orange trees.
Spiegelhalter, Thomas, Best & Lunn (2003), WinBUGS examples, volumes 1 and 2: rats, orange trees.
Gelfand, Hills, Racine-Poon & Smith (1990), Illustration of Bayesian inference in normal data models
using Gibbs sampling, JASA 85: rats.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.common import print_header, print_table, save
from benchmarks.problem import Problem

FAMILIES = ("full_rank", "mean_field")
KEYS = 10
SHORT_NATS = 0.1  # of the best ELBO, plus three standard errors of the difference
VAGUE = 1e-3  # shape and rate of a gamma prior on a precision
TREE_DAYS = (118.0, 484.0, 664.0, 1004.0, 1231.0, 1372.0, 1582.0)
CIRCUMFERENCES = (  # mm, of five orange trees
    (30.0, 58.0, 87.0, 115.0, 120.0, 142.0, 145.0),
    (33.0, 69.0, 111.0, 156.0, 172.0, 203.0, 203.0),
    (30.0, 51.0, 75.0, 108.0, 115.0, 139.0, 140.0),
    (32.0, 62.0, 112.0, 167.0, 179.0, 209.0, 214.0),
    (30.0, 49.0, 81.0, 125.0, 142.0, 174.0, 177.0),
)


def orange_trees() -> Problem:
    """Return logistic curves with multivariate effects: an exp of a latent inside an exp."""

    def log_joint(z: Any, d: Any) -> Array:
        first, second, third = z["theta"].T
        curve = jnp.exp(first)[:, None] / (
            1 + jnp.expm1(second)[:, None] * jnp.exp(-jnp.exp(third)[:, None] * d["day"])
        )
        return (
            dist.Normal(0, 1000).log_prob(z["mu"]).sum()
            + dist.Wishart(3.0, rate_matrix=0.1 * jnp.eye(3)).log_prob(z["omega"])
            + dist.MultivariateNormal(z["mu"], precision_matrix=z["omega"])
            .log_prob(z["theta"])
            .sum()
            + dist.Gamma(VAGUE, VAGUE).log_prob(z["tau"])
            + dist.Normal(curve, z["tau"] ** -0.5).log_prob(d["y"]).sum()
        )

    latents = {
        "mu": advi.real(3),
        "omega": advi.cov_matrix(3),
        "theta": advi.real(5, 3),
        "tau": advi.positive(),
    }
    data = {"day": np.array(TREE_DAYS), "y": np.array(CIRCUMFERENCES)}
    return Problem("orange trees", advi.Model(log_joint, latents), data, "Draper & Smith (1998)")


def gompertz() -> Problem:
    """Return Gompertz curves in grams and days with LKJ effects: an exp inside an exp."""
    rng = np.random.default_rng(1)
    day = np.array([5.0, 12.0, 20.0, 30.0, 42.0, 56.0, 75.0])
    scale = np.array([0.15, 0.12, 0.18])
    L = np.linalg.cholesky(np.array([[1, 0.4, -0.3], [0.4, 1, 0.1], [-0.3, 0.1, 1]]))
    center = np.log([2100.0, 4.2, 0.06])
    theta = center + rng.standard_normal((12, 3)) @ (scale[:, None] * L).T
    asymptote, delay, rate = np.exp(theta).T[:, :, None]
    y = asymptote * np.exp(-delay * np.exp(-rate * day)) + rng.normal(0, 35, (12, len(day)))

    def log_joint(z: Any, d: Any) -> Array:
        a, b, c = z["theta"].T[:, :, None]
        curve = jnp.exp(a) * jnp.exp(-jnp.exp(b) * jnp.exp(-jnp.exp(c) * d["day"]))
        effects = dist.MultivariateNormal(
            z["mu"], scale_tril=z["scale"][:, None] * z["correlation"]
        )
        return (
            dist.Normal(0, 100).log_prob(z["mu"]).sum()
            + dist.HalfCauchy(1.0).log_prob(z["scale"]).sum()
            + dist.LKJCholesky(3, 2.0).log_prob(z["correlation"])
            + effects.log_prob(z["theta"]).sum()
            + dist.HalfCauchy(100.0).log_prob(z["sigma"])
            + dist.Normal(curve, z["sigma"]).log_prob(d["y"]).sum()
        )

    latents = {
        "mu": advi.real(3),
        "scale": advi.positive(3),
        "correlation": advi.corr_cholesky(3),
        "theta": advi.real(12, 3),
        "sigma": advi.positive(),
    }
    return Problem("gompertz", advi.Model(log_joint, latents), {"day": day, "y": y}, "simulated")


def logistic() -> Problem:
    """Return logistic curves by asymptote, midpoint and width, with scores of LKJ effects."""
    rng = np.random.default_rng(2)
    day = np.linspace(50.0, 1500.0, 9)
    L = np.diag([0.2, 0.15, 0.1]) @ np.linalg.cholesky(0.7 * np.eye(3) + 0.3)
    theta = np.log([190.0, 720.0, 340.0]) + rng.standard_normal((10, 3)) @ L.T
    asymptote, middle, width = np.exp(theta).T[:, :, None]
    y = asymptote / (1 + np.exp(-(day - middle) / width)) + rng.normal(0, 7, (10, len(day)))

    def log_joint(z: Any, d: Any) -> Array:
        factor = z["scale"][:, None] * z["correlation"]
        a, b, c = (z["mu"] + z["score"] @ factor.T).T[:, :, None]
        curve = jnp.exp(a) / (1 + jnp.exp(-(d["day"] - jnp.exp(b)) / jnp.exp(c)))
        return (
            dist.Normal(0, 10).log_prob(z["mu"]).sum()
            + dist.HalfNormal(1.0).log_prob(z["scale"]).sum()
            + dist.LKJCholesky(3, 1.0).log_prob(z["correlation"])
            + dist.Normal().log_prob(z["score"]).sum()
            + dist.HalfCauchy(25.0).log_prob(z["sigma"])
            + dist.Normal(curve, z["sigma"]).log_prob(d["y"]).sum()
        )

    latents = {
        "mu": advi.real(3),
        "scale": advi.positive(3),
        "correlation": advi.corr_cholesky(3),
        "score": advi.real(10, 3),
        "sigma": advi.positive(),
    }
    return Problem("logistic", advi.Model(log_joint, latents), {"day": day, "y": y}, "simulated")


def regression(name: str, num: int, x: np.ndarray, truth: tuple[float, ...], seed: int) -> Problem:
    """Return a line for every subject, on raw `x`, with vague precisions (rats).

    Parameters
    ----------
    name
        What it is called.
    num
        Subjects.
    x
        (J,) when all are measured.
    truth
        Intercept, its sd, slope, its sd, and noise.
    seed
        Of the simulated data.
    """
    rng = np.random.default_rng(seed)
    alpha = rng.normal(truth[0], truth[1], (num, 1))
    beta = rng.normal(truth[2], truth[3], (num, 1))
    y = alpha + beta * x + rng.normal(0, truth[4], (num, len(x)))

    def log_joint(z: Any, d: Any) -> Array:
        def effects(name: str) -> Array:
            return (
                dist.Normal(0, 1000).log_prob(z[f"mu_{name}"])
                + dist.Gamma(VAGUE, VAGUE).log_prob(z[f"tau_{name}"])
                + dist.Normal(z[f"mu_{name}"], z[f"tau_{name}"] ** -0.5).log_prob(z[name]).sum()
            )

        line = z["alpha"][:, None] + z["beta"][:, None] * d["x"]
        return (
            effects("alpha")
            + effects("beta")
            + dist.Gamma(VAGUE, VAGUE).log_prob(z["tau"])
            + dist.Normal(line, z["tau"] ** -0.5).log_prob(d["y"]).sum()
        )

    latents = {
        "mu_alpha": advi.real(),
        "mu_beta": advi.real(),
        "tau_alpha": advi.positive(),
        "tau_beta": advi.positive(),
        "tau": advi.positive(),
        "alpha": advi.real(num),
        "beta": advi.real(num),
    }
    return Problem(name, advi.Model(log_joint, latents), {"x": x, "y": y}, "simulated")


def rats() -> Problem:
    """Return thirty weights in grams over five weeks, uncentred."""
    days = np.array([8.0, 15.0, 22.0, 29.0, 36.0])
    return regression("rats", 30, days, (107.0, 10.0, 6.2, 0.5, 6.0), 3)


def pigs() -> Problem:
    """Return forty-eight weights in kilograms over nine weeks."""
    return regression("pigs", 48, np.arange(1.0, 10.0), (19.4, 2.6, 6.2, 0.6, 1.3), 4)


def boys() -> Problem:
    """Return twenty heights in millimetres at ages far from zero.

    They hardly tell whether boys differ in level or in slope: there are two optima, near in height.
    """
    return regression("boys", 20, np.array([8.0, 8.5, 9.0, 9.5]), (850.0, 40.0, 55.0, 8.0, 6.0), 5)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "orange_trees": orange_trees,
    "gompertz": gompertz,
    "logistic": logistic,
    "rats": rats,
    "pigs": pigs,
    "boys": boys,
}


class Record(NamedTuple):
    """One fit."""

    problem: str
    family: str
    key: int
    status: str
    message: str
    elbo: float  # nats
    mcse: float
    gradients: int
    seconds: float


def measure(problem: Problem, family: str, key: int, **settings: Any) -> Record:
    """Fit once and return the figures; the settings are those of `advi.fit`."""
    begin = time.perf_counter()
    fit = advi.fit(problem.model, problem.data, family=family, key=key, diagnose=False, **settings)
    return Record(
        problem.name, family, key, str(fit.status), fit.status.message, *fit.elbo,
        fit.diagnostics["num_gradients"], time.perf_counter() - begin,
    )  # fmt: skip


def arrived(records: list[Record]) -> list[bool]:
    """Return whether each of one problem's and family's fits is at the best ELBO of them all."""
    best = max((r for r in records if np.isfinite(r.elbo)), key=lambda r: r.elbo, default=None)
    return [
        best is not None and best.elbo - r.elbo < SHORT_NATS + 3 * np.hypot(best.mcse, r.mcse)
        for r in records
    ]


def main(arguments: list[str] | None = None) -> None:
    """Fit, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--names", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header(f"Growth on raw scales, fitted with the defaults, {args.keys} keys")
    records, rows = [], []
    for name in args.names:
        problem = PROBLEMS[name]()
        for family in args.families:
            of_keys = [
                measure(problem, family, key, restarts=args.restarts) for key in range(args.keys)
            ]
            records += of_keys
            there, elbos = arrived(of_keys), [r.elbo for r in of_keys]
            gradients = [r.gradients for r in of_keys]
            rows.append(
                [
                    problem.name,
                    str(problem.model.size),
                    family,
                    f"{sum(there)}/{args.keys}",
                    f"{sum(r.status == 'converged' for r in of_keys)}/{args.keys}",
                    f"{np.nanmax(elbos):.2f}",
                    f"{np.nanmax(elbos) - np.min(elbos):.2f}",
                    f"{np.max([r.mcse for r in of_keys]):.2f}",
                    f"{np.median(gradients):.0f}",
                    f"{max(gradients)}",
                    f"{np.median([r.seconds for r in of_keys]):.2f}",
                ]
            )
    header = ["problem", "D", "family", "arrived", "converged", "best ELBO", "worst below"]
    print_table([*header, "mcse", "gradients", "most", "s"], rows)
    for r in records:
        if r.status != "converged":
            print(f"not converged: {r.problem}, {r.family}, key {r.key}: {r.elbo:.2f}; {r.message}")

    def draw(axes: Any) -> None:
        draw_shortfalls(axes, records)

    settings = {k: v for k, v in vars(args).items() if k != "out"}
    save("growth", {"settings": settings, "fits": [r._asdict() for r in records]}, draw, args.out)


def draw_shortfalls(axes: Any, records: list[Record]) -> None:
    """Draw how far below the best each fit is, against the gradients it took."""
    for i, (name, family) in enumerate(dict.fromkeys((r.problem, r.family) for r in records)):
        of = [r for r in records if (r.problem, r.family) == (name, family)]
        best = np.nanmax([r.elbo for r in of])
        axes.plot(
            [r.gradients for r in of],
            [max(best - r.elbo, 1e-3) for r in of],
            "o" if family == FAMILIES[0] else "s",
            color=f"C{i // 2}", markersize=4, label=f"{name}, {family.replace('_', ' ')}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("gradients")
    axes.set_ylabel("nats below the best ELBO (from 0.001)")
    axes.legend(fontsize=6)


if __name__ == "__main__":
    main()
