"""Counts: overdispersed, with too many zeros, few groups; power laws.

References
----------
Gelman & Hill (2007), Data Analysis Using Regression and Multilevel Models, chapter 6: roaches.
McElreath (2020), Statistical Rethinking, chapter 11: tools of Oceanic societies.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models import tables
from benchmarks.real_models.definition import grouped, normal
from models.shared_data import read


def roaches_data(root: Path | None) -> dict[str, Any]:
    """Return roaches caught in 262 flats: before, treatment, home of the elderly, trap days."""
    raw = {name: x.astype(float) for name, x in read(root, "rdata/rstanarm_roaches").items()}
    return {
        "y": raw["y"].astype(int),
        "x": np.stack([np.ones(262), raw["roach1"] / 100, raw["treatment"], raw["senior"]], 1),
        "log_exposure": np.log(raw["exposure2"]),
    }


def roaches_zero_inflated(root: Path | None) -> Problem:
    """Negative binomial counts of roaches with zeros of another kind, more where treated."""

    def log_joint(z: Any, d: Any) -> Array:
        log_rate = d["log_exposure"] + d["x"] @ z["beta"]
        counts = dist.NegativeBinomial2(jnp.exp(log_rate), z["size"])
        zero = z["gamma"][0] + z["gamma"][1] * d["x"][:, 2]
        either = jnp.where(
            d["y"] == 0, jnp.logaddexp(zero, counts.log_prob(0)), counts.log_prob(d["y"])
        )
        return (
            normal(z["beta"], 0, 3)
            + normal(z["gamma"], -1, 1.5)
            + dist.Exponential(1).log_prob(z["size"])
            + (either - jnp.logaddexp(zero, 0.0)).sum()
        )

    latents = {"beta": advi.real(4), "gamma": advi.real(2), "size": advi.positive()}
    model = advi.Model(log_joint, latents)
    return Problem("roaches_zero_inflated", model, roaches_data(root), "rstanarm, roaches")


def sprays() -> Problem:
    """Insects under six sprays, negative binomial, half-Cauchy sd of the sprays; centred."""
    y = np.array(tables.SPRAYS)

    def rest(z: Any, d: Any) -> Array:
        counts = dist.NegativeBinomial2(jnp.exp(z["spray"])[:, None], z["size"])
        return (
            normal(z["mu"], 2, 1)
            + dist.HalfCauchy(1).log_prob(z["sd"])
            + dist.LogNormal(2, 1).log_prob(z["size"])
            + counts.log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"spray": (z["mu"], z["sd"])}

    latents = {
        "mu": advi.real(),
        "sd": advi.positive(),
        "size": advi.positive(),
        "spray": advi.real(len(y)),
    }
    return grouped(
        "sprays", (rest, spread, latents), {"y": y}, "Beall (1942)",
        centred=True, sample_centred=True,
    )  # fmt: skip


def breaks() -> Problem:
    """Broken yarn, two wools by three tensions, negative binomial."""

    def log_joint(z: Any, d: Any) -> Array:
        counts = dist.NegativeBinomial2(jnp.exp(d["x"] @ z["beta"])[:, None], z["size"])
        return (
            normal(z["beta"], jnp.array([3.0, 0, 0, 0, 0, 0]), 1)
            + dist.LogNormal(2, 1).log_prob(z["size"])
            + counts.log_prob(d["y"]).sum()
        )

    wool, medium, high = np.repeat([0, 1], 3), np.tile([0, 1, 0], 2), np.tile([0, 0, 1], 2)
    x = np.stack([np.ones(6), wool, medium, high, wool * medium, wool * high], 1)
    latents = {"beta": advi.real(6), "size": advi.positive()}
    data = {"y": np.array(tables.BREAKS), "x": x}
    return Problem("breaks", advi.Model(log_joint, latents), data, "Tukey (1977)")


def tools() -> Problem:
    """Tools of ten societies: gains by a power of the population, over a rate of loss."""

    def log_joint(z: Any, d: Any) -> Array:
        gained = jnp.exp(z["log_gain"][d["contact"]]) * d["population"] ** z["power"][d["contact"]]
        return (
            normal(z["log_gain"], 1, 1)
            + dist.Exponential(1).log_prob(z["power"]).sum()
            + dist.Exponential(1).log_prob(z["loss"])
            + dist.Poisson(gained / z["loss"]).log_prob(d["y"]).sum()
        )

    population, contact, y = np.array(tables.TOOLS).T
    data = {"y": y, "population": population.astype(float), "contact": contact}
    latents = {"log_gain": advi.real(2), "power": advi.positive(2), "loss": advi.positive()}
    return Problem("tools", advi.Model(log_joint, latents), data, "Kline & Boyd (2010)")


SHARED = (roaches_zero_inflated,)
OWN = (sprays, breaks, tools)
