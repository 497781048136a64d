"""Nonlinear curves, errors in both variables, and times with censoring.

References
----------
Bates & Watts (1988), Nonlinear Regression Analysis and Its Applications: Puromycin, oxygen demand.
York (1966), Canadian Journal of Physics 44: Pearson's data with errors in both variables.
Miller (1981), Survival Analysis: remission of acute myelogenous leukaemia.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models import tables
from benchmarks.real_models.definition import normal


def puromycin() -> Problem:
    """Michaelis-Menten curves of two enzymes, raw scales."""

    def log_joint(z: Any, d: Any) -> Array:
        top, half = z["top"][d["group"]], z["half"][d["group"]]
        location = top * d["dose"] / (half + d["dose"])
        return (
            dist.HalfNormal(300).log_prob(z["top"]).sum()
            + dist.HalfNormal(1).log_prob(z["half"]).sum()
            + dist.HalfNormal(30).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    dose, y = np.array([row for group in tables.PUROMYCIN for row in group]).T
    group = np.repeat([0, 1], [len(rows) for rows in tables.PUROMYCIN])
    latents = {"top": advi.positive(2), "half": advi.positive(2), "sigma": advi.positive()}
    data = {"y": y, "dose": dose, "group": group}
    return Problem("puromycin", advi.Model(log_joint, latents), data, "Treloar (1974)")


def oxygen() -> Problem:
    """Growth to an asymptote seen at six days only: a curved ridge."""

    def log_joint(z: Any, d: Any) -> Array:
        location = z["top"] * -jnp.expm1(-z["rate"] * d["day"])
        return (
            dist.LogNormal(3, 0.5).log_prob(z["top"])
            + dist.LogNormal(-1, 1).log_prob(z["rate"])
            + dist.Exponential(0.3).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    day, y = np.array(tables.OXYGEN).T
    latents = {"top": advi.positive(), "rate": advi.positive(), "sigma": advi.positive()}
    model = advi.Model(log_joint, latents)
    return Problem("oxygen", model, {"y": y, "day": day}, "Bates & Watts (1988)")


def pearson() -> Problem:
    """Errors of known size in both variables of a line; the ten true abscissas are latents."""

    def log_joint(z: Any, d: Any) -> Array:
        return (
            normal(z["intercept"], 0, 10)
            + normal(z["slope"], 0, 2)
            + normal(z["mu"], 4, 3)
            + dist.HalfNormal(5).log_prob(z["sd"])
            + normal(z["x"], z["mu"], z["sd"])
            + normal(d["x"], z["x"], d["x_error"])
            + normal(d["y"], z["intercept"] + z["slope"] * z["x"], d["y_error"])
        )

    def from_residuals(z: Any) -> Any:
        return {**z, "x": data["x"] + data["x_error"] * z["x"]}

    x, x_weight, y, y_weight = np.array(tables.PEARSON).T
    data = {"x": x, "x_error": x_weight**-0.5, "y": y, "y_error": y_weight**-0.5}
    latents = {
        "intercept": advi.real(),
        "slope": advi.real(),
        "mu": advi.real(),
        "sd": advi.positive(),
        "x": advi.real(len(x)),
    }
    # NUTS takes the residuals of x in its standard errors, which differ by a factor of 30
    return Problem(
        "pearson",
        advi.Model(log_joint, latents),
        data,
        "Pearson (1901), York (1966)",
        advi.Model(lambda z, d: log_joint(from_residuals(z), d), latents),
        from_residuals,
    )


def leukaemia() -> Problem:
    """Weibull times to relapse in two arms, five of 23 censored."""

    def log_joint(z: Any, d: Any) -> Array:
        log_scale = z["beta"][0] + z["beta"][1] * d["maintained"]
        log_hazard = z["shape"] * (jnp.log(d["week"]) - log_scale)  # cumulative
        log_density = jnp.log(z["shape"]) + log_hazard - jnp.log(d["week"])
        return (
            normal(z["beta"], jnp.array([3.0, 0.0]), jnp.array([2.0, 1.0]))
            + dist.LogNormal(0, 1).log_prob(z["shape"])
            + (d["seen"] * log_density - jnp.exp(log_hazard)).sum()
        )

    week, seen = np.array([row for arm in tables.LEUKAEMIA for row in arm], float).T
    maintained = np.repeat([1.0, 0.0], [len(arm) for arm in tables.LEUKAEMIA])
    latents = {"beta": advi.real(2), "shape": advi.positive()}
    data = {"week": week, "seen": seen, "maintained": maintained}
    return Problem("leukaemia", advi.Model(log_joint, latents), data, "Miller (1981)")


SHARED = ()
OWN = (puromycin, oxygen, pearson, leukaemia)
