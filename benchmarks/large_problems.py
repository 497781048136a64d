"""Models with hundreds of latents that NUTS can sample: cuts of real data, and simulated data.

References
----------
Gelman & Hill (2007), Data Analysis Using Regression and Multilevel Models, chapter 12: radon.
Kim, Shephard & Chib (1998), Stochastic Volatility, Review of Economic Studies 65.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from scipy.fft import dct

import advi
from benchmarks.problem import Problem
from benchmarks.real_models.definition import Spread, normal
from models import item_response, spatial_counts
from models import ratings as crossed
from models.shared_data import codes, find_data, keep, read

STUDENTS, LECTURERS = 300, 100
SIDE = 15
NOT_GIVEN = 9  # floor of a radon measurement


@dataclass(frozen=True)
class Large:
    """A problem, which of its latents are effects, and the family that fits it."""

    problem: Problem
    effects: tuple[str, ...]
    family: str = "sparse"


def non_centred(model: advi.Model, spread: Spread) -> tuple[advi.Model, Callable[..., Any]]:
    """Return a model whose effects are standard scores, and the way back from draws of them.

    Parameters
    ----------
    model
        The model of the effects themselves.
    spread
        From the other latents to every effect's mean and sd.
    """

    def effects(z: Mapping[str, Any]) -> dict[str, Any]:
        return {**z, **{k: loc + scale * z[k] for k, (loc, scale) in spread(z).items()}}

    def log_joint(z: Any, d: Any) -> Array:
        volumes = [z[k].size * jnp.log(scale) for k, (_, scale) in spread(z).items()]
        return model.log_joint(effects(z), d) + sum(volumes)

    return advi.Model(log_joint, dict(model.latents)), jax.vmap(effects)


def ratings(root: Path) -> Large:
    """Ratings of InstEval by the first students of the first lecturers: crossed effects."""
    raw = read(root, "rdata/lme4_InstEval")
    first = (raw["s"].astype(int) <= STUDENTS) & (raw["d"].astype(int) <= LECTURERS)
    raw = keep(raw, first)
    data, students, lecturers = crossed.coded(raw)
    model = crossed.model(students, lecturers)

    def spread(z: Any) -> Any:
        return {"student": (0.0, z["student_sd"]), "lecturer": (0.0, z["lecturer_sd"])}

    source = f"lme4, InstEval: {len(data['y']):,} ratings by {students} students of {lecturers}"
    problem = Problem("ratings", model, data, f"{source} lecturers", *non_centred(model, spread))
    return Large(problem, ("student", "lecturer"))


def items(root: Path) -> Large:
    """Answers of VerbAgg: 316 persons crossed with 24 items."""
    answers = item_response.verbal_aggression(root)
    model = item_response.model(*(int(answers.rows[n].max()) + 1 for n in ("person", "item")))
    return Large(Problem("items", model, answers.rows, answers.source), ("person", "item"))


def radon(root: Path) -> Large:
    """Log radon in houses of 386 counties: intercepts and slopes of the floor by county."""
    with gzip.open(root / "posteriordb" / "radon_all.json.gz", "rt") as file:
        raw = {name: np.array(values) for name, values in json.load(file).items()}
    given = raw["floor_measure"] != NOT_GIVEN
    county, counties = codes(raw["county_idx"][given])
    data = {
        "y": raw["log_radon"][given].astype(np.float32),
        "floor": (raw["floor_measure"][given] > 0).astype(np.float32),
        "county": county.astype(np.int32),
    }

    def log_joint(z: Any, d: Any) -> Array:
        level = z["level"] + z["of_level"][d["county"]]
        slope = z["slope"] + z["of_slope"][d["county"]]
        return (
            normal(z["level"], 0, 2)
            + normal(z["slope"])
            + sum(dist.HalfNormal(1).log_prob(z[k]) for k in ("level_sd", "slope_sd", "noise"))
            + normal(z["of_level"], 0, z["level_sd"])
            + normal(z["of_slope"], 0, z["slope_sd"])
            + normal(d["y"], level + slope * d["floor"], z["noise"])
        )

    latents = {
        "level": advi.real(),
        "slope": advi.real(),
        "level_sd": advi.positive(),
        "slope_sd": advi.positive(),
        "noise": advi.positive(),
        "of_level": advi.real(counties),
        "of_slope": advi.real(counties),
    }
    model = advi.Model(log_joint, latents)

    def spread(z: Any) -> Any:
        return {"of_level": (0.0, z["level_sd"]), "of_slope": (0.0, z["slope_sd"])}

    source = f"posteriordb, radon_all: {len(county):,} houses of {counties} counties"
    problem = Problem("radon", model, data, source, *non_centred(model, spread))
    return Large(problem, ("of_level", "of_slope"))


def volatility(steps: int = 400) -> Large:
    """Stochastic volatility: the log variance of returns follows an autoregression."""
    rng = np.random.default_rng(0)
    mu, phi, sigma = -1.0, 0.95, 0.25
    h = np.empty(steps)
    h[0] = mu + sigma / np.sqrt(1 - phi**2) * rng.standard_normal()
    for t in range(1, steps):
        h[t] = mu + phi * (h[t - 1] - mu) + sigma * rng.standard_normal()
    data = {"y": (np.exp(h / 2) * rng.standard_normal(steps)).astype(np.float32)}

    def globals_(z: Any) -> Any:
        return (
            normal(z["mu"], 0, 3)
            + dist.Beta(20, 1.5).log_prob((z["phi"] + 1) / 2)
            + dist.Exponential(2).log_prob(z["sigma"])
        )

    def log_joint(z: Any, d: Any) -> Array:
        h, mu, phi, sigma = z["h"], z["mu"], z["phi"], z["sigma"]
        return (
            globals_(z)
            + normal(h[0], mu, sigma / jnp.sqrt(1 - phi**2))
            + normal(h[1:], mu + phi * (h[:-1] - mu), sigma)
            + normal(d["y"], 0, jnp.exp(h / 2))
        )

    def path(z: Any) -> dict[str, Any]:
        shocks = z["sigma"] * z["h"]
        shocks = shocks.at[0].divide(jnp.sqrt(1 - z["phi"] ** 2))
        decays = jnp.full(steps, z["phi"])
        _, around = jax.lax.associative_scan(
            lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (decays, shocks)
        )
        return {**z, "h": z["mu"] + around}

    def by_shocks(z: Any, d: Any) -> Array:
        return globals_(z) + normal(z["h"]) + normal(d["y"], 0, jnp.exp(path(z)["h"] / 2))

    latents = {
        "mu": advi.real(),
        "phi": advi.interval(-1.0, 1.0),
        "sigma": advi.positive(),
        "h": advi.real(steps),
    }
    problem = Problem(
        "volatility", advi.Model(log_joint, latents), data, f"simulated, {steps} returns",
        advi.Model(by_shocks, latents), jax.vmap(path),
    )  # fmt: skip
    return Large(problem, ("h",))


def grid() -> Large:
    """Return counts of `models.spatial_counts` in 15 x 15 cells."""
    counts = spatial_counts.simulate(SIDE)
    source = f"simulated, {counts.rows['y'].sum()} events"
    waves = np.asarray(
        dct(np.eye(SIDE), norm="ortho")
    )  # eigenvectors of the Laplacian of a path, in columns
    model = spatial_counts.model(SIDE)

    def precision(z: Any) -> Array:
        return counts.rows["laplacian"] / z["step"] ** 2 + spatial_counts.WEAK_SD**-2

    def rates(z: Any) -> dict[str, Any]:
        spectrum = z["log_rate"] / jnp.sqrt(precision(z))
        return {**z, "log_rate": z["mu"] + waves @ spectrum @ waves.T}

    def by_waves(z: Any, d: Any) -> Array:
        return model.log_joint(rates(z), d) - 0.5 * jnp.log(precision(z)).sum()

    sampled = advi.Model(by_waves, dict(model.latents))
    problem = Problem("grid", model, counts.rows, source, sampled, jax.vmap(rates))
    return Large(problem, ("log_rate",))


def groups(number: int) -> tuple[advi.Model, dict[str, Any]]:
    """Return a model of groups of four observations each, and simulated ones."""
    rng = np.random.default_rng(0)
    effects = 1 + 0.5 * rng.standard_normal((number, 1))
    data = {"y": (effects + rng.standard_normal((number, 4))).astype(np.float32)}

    def log_joint(z: Any, d: Any) -> Array:
        return (
            normal(z["mu"], 0, 5)
            + dist.HalfNormal(1).log_prob(z["sd"])
            + dist.HalfNormal(1).log_prob(z["noise"])
            + normal(z["effect"], z["mu"], z["sd"])
            + normal(d["y"], z["effect"][:, None], z["noise"])
        )

    latents = {
        "mu": advi.real(),
        "sd": advi.positive(),
        "noise": advi.positive(),
        "effect": advi.real(number),
    }
    return advi.Model(log_joint, latents), data


def inst_eval(data: str | None) -> tuple[advi.Model, Any]:
    """Return all ratings of InstEval, by 2,972 students of 1,128 lecturers, and their model."""
    found = crossed.inst_eval(find_data(data))
    sizes = (int(found.rows[name].max()) + 1 for name in ("student", "lecturer"))
    return crossed.model(*sizes), found.rows


def full_volatility(data: str | None) -> tuple[advi.Model, Any]:
    """Return stochastic volatility of 5,000 steps."""
    problem = volatility(5000).problem
    return problem.model, problem.data


def full_grid(data: str | None) -> tuple[advi.Model, Any]:
    """Return counts in 60 x 60 cells."""
    return spatial_counts.model(60), spatial_counts.simulate(60).rows


FULL = {"InstEval": inst_eval, "volatility": full_volatility, "grid": full_grid}
SHARED: dict[str, Callable[[Path], Large]] = {"ratings": ratings, "items": items, "radon": radon}
OWN: dict[str, Callable[[], Large]] = {"volatility": volatility, "grid": grid}
