"""Series of years: a change point, Gaussian processes, a local level, an autoregression.

References
----------
Jarrett (1979), Biometrika 66: disasters in coal mines.
Durbin & Koopman (2012), Time Series Analysis by State Space Methods, chapter 2: the Nile.
Moran (1953), Australian Journal of Zoology 1: the lynxes.
Moller, Syversveen & Waagepetersen (1998), Log Gaussian Cox Processes, Scand. J. Stat. 25.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models import tables
from benchmarks.real_models.definition import normal

JITTER = 1e-4  # share of a process' variance, for float32
YEARS_A_BIN = 4


def coal_change() -> Problem:
    """Disasters at two rates, the year of the change summed out."""

    def log_joint(z: Any, d: Any) -> Array:
        by_year = dist.Poisson(z["rate"]).log_prob(d["y"][:, None])
        before = jnp.cumsum(by_year[:, 0])[:-1]
        after = by_year[:, 1].sum() - jnp.cumsum(by_year[:, 1])[:-1]
        years = len(d["y"]) - 1
        rates = dist.Exponential(0.5).log_prob(z["rate"]).sum()
        return rates + jax.nn.logsumexp(before + after) - jnp.log(years)

    model = advi.Model(log_joint, {"rate": advi.positive(2)})
    return Problem("coal_change", model, {"y": np.array(tables.COAL)}, "Jarrett (1979)")


def coal_year() -> Problem:
    """Disasters at two rates, the time of the change a latent: kinks, and more than one mode."""

    def log_joint(z: Any, d: Any) -> Array:
        share = jnp.clip(z["change"] - d["year"], 0.0, 1.0)  # of the year at the first rate
        rate = share * z["rate"][0] + (1 - share) * z["rate"][1]
        return (
            dist.Exponential(0.5).log_prob(z["rate"]).sum()
            + dist.Poisson(rate).log_prob(d["y"]).sum()
        )

    y = np.array(tables.COAL)
    latents = {"rate": advi.positive(2), "change": advi.interval(0.0, float(len(y)))}
    data = {"y": y, "year": np.arange(len(y), dtype=float)}
    return Problem("coal_year", advi.Model(log_joint, latents), data, "Jarrett (1979)")


def coal_process() -> Problem:
    """Log Gaussian Cox process: 28 bins of four years; standard scores."""

    def log_joint(z: Any, d: Any) -> Array:
        factor = _factor(d["time"], z["length"], z["sd"])
        log_rate = z["mu"] + factor @ z["score"]
        return (
            normal(z["mu"], 1, 1)
            + dist.HalfNormal(1).log_prob(z["sd"])
            + dist.InverseGamma(3, 40).log_prob(z["length"])
            + normal(z["score"])
            + dist.Poisson(jnp.exp(log_rate)).log_prob(d["y"]).sum()
        )

    y = np.array(tables.COAL).reshape(-1, YEARS_A_BIN).sum(1)
    latents = {
        "mu": advi.real(),
        "sd": advi.positive(),
        "length": advi.positive(),
        "score": advi.real(len(y)),
    }
    data = {"y": y, "time": YEARS_A_BIN * np.arange(len(y), dtype=float)}
    return Problem("coal_process", advi.Model(log_joint, latents), data, "Jarrett (1979)")


def orings_process() -> Problem:
    """Damage to O-rings: Bernoulli, logits a Gaussian process of temperature; scores."""

    def log_joint(z: Any, d: Any) -> Array:
        logits = z["mu"] + _factor(d["time"], z["length"], z["sd"]) @ z["score"]
        return (
            normal(z["mu"], 0, 2)
            + dist.HalfNormal(2).log_prob(z["sd"])
            + dist.InverseGamma(3, 20).log_prob(z["length"])
            + normal(z["score"])
            + dist.BernoulliLogits(logits[d["at"]]).log_prob(d["y"]).sum()
        )

    temperature, y = np.array(tables.ORINGS).T
    levels, at = np.unique(temperature, return_inverse=True)
    latents = {
        "mu": advi.real(),
        "sd": advi.positive(),
        "length": advi.positive(),
        "score": advi.real(len(levels)),
    }
    data = {"y": y, "time": levels.astype(float), "at": at}
    model = advi.Model(log_joint, latents)
    return Problem("orings_process", model, data, "Dalal, Fowlkes & Hoadley (1989)")


def _factor(time: Any, length: Array, sd: Array) -> Array:
    """Return the Cholesky factor of a squared-exponential covariance."""
    distance = (time[:, None] - time) / length
    cov = jnp.exp(-0.5 * distance**2) + JITTER * jnp.eye(len(time))
    return sd * jnp.linalg.cholesky(cov)


def nile() -> Problem:
    """Local level of the Nile's flow: 100 levels of a random walk as latents."""

    def log_joint(z: Any, d: Any) -> Array:
        return (
            dist.HalfNormal(1).log_prob(z["sd"])
            + dist.HalfNormal(2).log_prob(z["sigma"])
            + normal(z["level"][0], 10, 5)
            + normal(z["level"][1:], z["level"][:-1], z["sd"])
            + normal(d["y"], z["level"], z["sigma"])
        )

    def levels(z: Any) -> Any:
        steps = z["sd"] * z["step"][1:]
        first = 10 + 5 * z["step"][:1]
        return {
            "sd": z["sd"],
            "sigma": z["sigma"],
            "level": jnp.cumsum(jnp.concatenate([first, steps])),
        }

    latents = {"sd": advi.positive(), "sigma": advi.positive(), "level": advi.real(100)}
    by_steps = nile_steps()
    return Problem(
        "nile", advi.Model(log_joint, latents), by_steps.data, by_steps.source,
        by_steps.model, jax.vmap(levels),
    )  # fmt: skip


def nile_steps() -> Problem:
    """Return the same, its latents the standardised steps of the walk."""

    def log_joint(z: Any, d: Any) -> Array:
        scaled = jnp.concatenate([10 + 5 * z["step"][:1], z["sd"] * z["step"][1:]])
        return (
            dist.HalfNormal(1).log_prob(z["sd"])
            + dist.HalfNormal(2).log_prob(z["sigma"])
            + normal(z["step"])
            + normal(d["y"], jnp.cumsum(scaled), z["sigma"])
        )

    latents = {"sd": advi.positive(), "sigma": advi.positive(), "step": advi.real(100)}
    data = {"y": np.array(tables.NILE) / 100}
    return Problem("nile_steps", advi.Model(log_joint, latents), data, "Cobb (1978)")


def lynx() -> Problem:
    """Second-order autoregression of the logs of lynxes trapped, Student-t shocks."""

    def log_joint(z: Any, d: Any) -> Array:
        location = z["mu"] + d["lags"] @ z["beta"]
        return (
            normal(z["mu"], 0, 5)
            + normal(z["beta"])
            + dist.HalfNormal(1).log_prob(z["sigma"])
            + dist.Gamma(2, 0.1).log_prob(z["df"])
            + dist.StudentT(z["df"], location, z["sigma"]).log_prob(d["y"]).sum()
        )

    y = np.log(tables.LYNX)
    latents = {
        "mu": advi.real(),
        "beta": advi.real(2),
        "sigma": advi.positive(),
        "df": advi.positive(),
    }
    data = {"y": y[2:], "lags": np.stack([y[1:-1], y[:-2]], 1)}
    return Problem("lynx", advi.Model(log_joint, latents), data, "Elton & Nicholson (1942)")


SHARED = ()
OWN = (coal_change, coal_year, coal_process, orings_process, nile, nile_steps, lynx)
