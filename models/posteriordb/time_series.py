"""Time series: autoregression, GARCH, a hidden Markov model and an ODE.

References
----------
Stan Development Team, ``stat_comp_benchmarks``: arK and garch.
Bollerslev (1986), Generalized Autoregressive Conditional Heteroskedasticity, J. Econometrics 31.
Ali (2019), Tagging Basketball Events with HMM in Stan, Stan case studies: hmm_drive_0.
Rabiner (1989), A Tutorial on Hidden Markov Models, Proc. IEEE 77: the forward algorithm.
Carpenter (2018), Predator-Prey Population Dynamics: the Lotka-Volterra Model in Stan, Stan case
studies; counts of pelts in Howard (2009), Modeling Basics, after Hewitt (1921).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from models.posteriordb.definition import Arrays, Draws, Problem, Raw

STEPS_A_YEAR = 8  # of Runge-Kutta; near the posterior 64 steps change the log density by < 1e-3


def ark(raw: Raw) -> Problem:
    """Autoregression of order K: a regression on the K values before."""
    y, order = raw["y"], int(raw["K"])
    lags = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)
    latents = {"alpha": advi.real(), "beta": advi.real(order), "sigma": advi.positive()}
    return Problem(advi.Model(ark_log_joint, latents), {"lags": lags, "y": y[order:]})


def ark_log_joint(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint, conditional on the first K values, nats."""
    prior = (
        dist.Normal(0, 10).log_prob(z["alpha"])
        + dist.Normal(0, 10).log_prob(z["beta"]).sum()
        + dist.HalfCauchy(2.5).log_prob(z["sigma"])
    )
    location = z["alpha"] + jnp.dot(d["lags"], z["beta"])
    return advi.Terms(prior, dist.Normal(location, z["sigma"]).log_prob(d["y"]))


def garch11(raw: Raw) -> Problem:
    """GARCH(1, 1): the variance follows the last squared error and the last variance."""
    latents = {
        "mu": advi.real(),
        "alpha0": advi.positive(),
        "alpha1": advi.unit_interval(),
        "beta1_share": advi.unit_interval(),  # of the interval (0, 1 - alpha1)
    }
    data = {"y": raw["y"], "sigma1": raw["sigma1"]}
    return Problem(advi.Model(garch11_log_joint, latents), data, garch11_parameters)


def garch11_parameters(z: Draws) -> Draws:
    """Return the parameters, ``beta1`` as the variance's recursion has it."""
    return {
        "mu": z["mu"],
        "alpha0": z["alpha0"],
        "alpha1": z["alpha1"],
        "beta1": (1 - z["alpha1"]) * z["beta1_share"],
    }


def garch11_log_joint(z: Draws, d: Arrays) -> Array:
    """Return the log-joint under flat priors; the first standard deviation is given, nats."""
    p = garch11_parameters(z)
    shocks = p["alpha0"] + p["alpha1"] * (d["y"][:-1] - p["mu"]) ** 2
    first = jnp.square(d["sigma1"])

    def advance(variance: Array, shock: Array) -> tuple[Array, Array]:
        variance = shock + p["beta1"] * variance
        return variance, variance

    later = jax.lax.scan(advance, first, shocks)[1]
    sd = jnp.sqrt(jnp.concatenate([first[None], later]))
    # beta1 is flat on (0, 1 - alpha1): the density of its share takes that width
    return dist.Normal(p["mu"], sd).log_prob(d["y"]).sum() + jnp.log1p(-z["alpha1"])


def hmm_drive_0(raw: Raw) -> Problem:
    """Hidden Markov model of a player's drive to the basket, two exponential emissions."""
    latents = {
        "theta1": advi.simplex(2),
        "theta2": advi.simplex(2),
        "phi": advi.positive_ordered(2),
        "lambda": advi.positive_ordered(2),
    }
    data = {name: raw[name] for name in ("u", "v", "alpha")}
    return Problem(advi.Model(hmm_drive_0_log_joint, latents), data)


def hmm_drive_0_log_joint(z: Draws, d: Arrays) -> Array:
    """Return the log-joint, the states summed out by the forward algorithm, nats."""
    theta = jnp.stack([z["theta1"], z["theta2"]])  # row: from this state
    prior = dist.Dirichlet(d["alpha"]).log_prob(theta).sum()
    for rate in (z["phi"], z["lambda"]):
        prior += dist.Normal(jnp.array([0.0, 3.0]), 1).log_prob(rate).sum()
    emission = dist.Exponential(z["phi"]).log_prob(d["u"][:, None])
    emission += dist.Exponential(z["lambda"]).log_prob(d["v"][:, None])

    def advance(log_alpha: Array, log_emission: Array) -> tuple[Array, None]:
        log_alpha = jax.nn.logsumexp(log_alpha[:, None] + jnp.log(theta), axis=0)
        return log_alpha + log_emission, None

    # the first state has no distribution of its own in this model
    last = jax.lax.scan(advance, emission[0], emission[1:])[0]
    return prior + jax.nn.logsumexp(last)


def lotka_volterra(raw: Raw) -> Problem:
    """Hares and lynxes: predator-prey dynamics with log-normal errors."""
    latents = {"theta": advi.positive(4), "z_init": advi.positive(2), "sigma": advi.positive(2)}
    data = {
        "y": np.concatenate([raw["y_init"][None], raw["y"]]),  # (1 + N, 2), prey and predator
        "ts": np.concatenate([[0.0], raw["ts"]]),
    }
    return Problem(advi.Model(lotka_volterra_log_joint, latents), data)


def lotka_volterra_log_joint(z: Draws, d: Arrays) -> Array:
    """Return the log-joint, nats."""
    prior = (
        dist.Normal(jnp.array([1, 0.05, 1, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]))
        .log_prob(z["theta"])
        .sum()
        + dist.LogNormal(np.log(10), 1).log_prob(z["z_init"]).sum()
        + dist.LogNormal(-1, 1).log_prob(z["sigma"]).sum()
    )
    log_sizes = log_populations(z["theta"], z["z_init"], d["ts"])
    return prior + dist.LogNormal(log_sizes, z["sigma"]).log_prob(d["y"]).sum()


def log_populations(theta: Array, first: Array, times: Any, steps: int = STEPS_A_YEAR) -> Array:
    """Integrate the Lotka-Volterra equations by fourth-order Runge-Kutta.

    The logs of the populations are what is integrated: they stay finite and positive, and need
    far fewer steps than the populations themselves.

    Parameters
    ----------
    theta
        (4,) growth of the prey, predation, death of the predator, its growth by predation.
    first
        (2,) populations of prey and predator at the first time.
    times
        (1 + N,) increasing times.
    steps
        Runge-Kutta steps from one time to the next.

    Returns
    -------
    Array
        (1 + N, 2) logs of the populations at every time.
    """

    def slope(log_z: Array) -> Array:
        prey, predator = jnp.exp(log_z)
        return jnp.stack([theta[0] - theta[1] * predator, theta[3] * prey - theta[2]])

    def advance(log_z: Array, h: Array) -> tuple[Array, Array]:
        k1 = slope(log_z)
        k2 = slope(log_z + h / 2 * k1)
        k3 = slope(log_z + h / 2 * k2)
        k4 = slope(log_z + h * k3)
        log_z = log_z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return log_z, log_z

    log_first = jnp.log(first)
    path = jax.lax.scan(advance, log_first, jnp.repeat(jnp.diff(times) / steps, steps))[1]
    return jnp.concatenate([log_first[None], path[steps - 1 :: steps]])
