"""A hierarchy, a Gaussian process and a mixture.

References
----------
Rubin (1981), Estimation in Parallel Randomized Experiments, J. Educational Statistics 6.
Stan Development Team, ``stat_comp_benchmarks``: gp_regr and low_dim_gauss_mix.
Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 2.2.
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

import advi
from models import eight_schools
from models.posteriordb.definition import Arrays, Draws, Problem, Raw


def eight_schools_noncentered(raw: Raw) -> Problem:
    """Eight schools: the model of `models.eight_schools`, here with posteriordb's data."""
    data = {"y": raw["y"], "sigma": raw["sigma"]}
    return Problem(eight_schools.model(), data, eight_schools_parameters)


def eight_schools_parameters(z: Draws) -> Draws:
    """Return the parameters that have reference draws: effects, their mean and their spread."""
    return {"theta": eight_schools.effects(z), "mu": z["mu"], "tau": z["tau"]}


def gp_regr(raw: Raw) -> Problem:
    """Gaussian process regression with a squared-exponential covariance."""
    latents = {"rho": advi.positive(), "alpha": advi.positive(), "sigma": advi.positive()}
    return Problem(advi.Model(gp_regr_log_joint, latents), {"x": raw["x"], "y": raw["y"]})


def gp_regr_log_joint(z: Draws, d: Arrays) -> Array:
    """Return the log-joint, nats; ``sigma`` is the variance of the noise, not its sd."""
    prior = (
        dist.Gamma(25, 4).log_prob(z["rho"])
        + dist.HalfNormal(2).log_prob(z["alpha"])
        + dist.HalfNormal(1).log_prob(z["sigma"])
    )
    distance = (d["x"][:, None] - d["x"]) / z["rho"]
    cov = z["alpha"] ** 2 * jnp.exp(-0.5 * distance**2) + z["sigma"] * jnp.eye(len(d["x"]))
    process = dist.MultivariateNormal(jnp.zeros(len(d["x"])), scale_tril=jnp.linalg.cholesky(cov))
    return prior + process.log_prob(d["y"])


def low_dim_gauss_mix(raw: Raw) -> Problem:
    """Mixture of two normals on the line, told apart by the order of their means."""
    latents = {"mu": advi.ordered(2), "sigma": advi.positive(2), "theta": advi.unit_interval()}
    return Problem(advi.Model(low_dim_gauss_mix_log_joint, latents), {"y": raw["y"]})


def low_dim_gauss_mix_log_joint(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint, the component of every row summed out, nats."""
    prior = (
        dist.Normal(0, 2).log_prob(z["mu"]).sum()
        + dist.HalfNormal(2).log_prob(z["sigma"]).sum()
        + dist.Beta(5, 5).log_prob(z["theta"])
    )
    log_weight = jnp.log(jnp.stack([z["theta"], 1 - z["theta"]]))
    parts = log_weight + dist.Normal(z["mu"], z["sigma"]).log_prob(d["y"][:, None])
    return advi.Terms(prior, jnp.logaddexp(parts[:, 0], parts[:, 1]))
