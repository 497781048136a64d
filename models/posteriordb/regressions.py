"""Linear regressions with a normal error: ``y_n ~ Normal(x_n' beta, sigma)``.

Stan gives a parameter without a prior a flat one on its constrained scale, so a missing term here
is meant. Where a constraint truncates a prior, the half distribution stands for it: its
normaliser does not depend on the parameters.

References
----------
Gelman & Hill (2006), Data Analysis Using Regression and Multilevel/Hierarchical Models, chapters 3
and 4: the children's scores, the earnings, the mesquite and the NES regressions.
Bales et al. (2019), Selecting the Metric in Hamiltonian Monte Carlo, arXiv:1905.11916: diamonds
and Kilpisjärvi.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import ArrayLike, NDArray

import advi
from models.posteriordb.definition import Arrays, Draws, Problem, Raw


def earn_height(raw: Raw) -> Problem:
    """Earnings by height, flat priors."""
    return linear(flat, design(1, raw["height"]), raw["earn"])


def logearn_height(raw: Raw) -> Problem:
    """Log earnings by height, flat priors."""
    return linear(flat, design(1, raw["height"]), np.log(raw["earn"]))


def kidscore_momhs(raw: Raw) -> Problem:
    """Children's test scores by whether the mother finished high school."""
    return linear(half_cauchy_noise, design(1, raw["mom_hs"]), raw["kid_score"])


def kidscore_interaction(raw: Raw) -> Problem:
    """Children's test scores by mother's high school, her IQ, and both together."""
    school, iq = raw["mom_hs"], raw["mom_iq"]
    return linear(half_cauchy_noise, design(1, school, iq, school * iq), raw["kid_score"])


def logmesquite(raw: Raw) -> Problem:
    """Log weight of mesquite bushes by the logs of their dimensions, flat priors."""
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    X = design(1, *(np.log(raw[name]) for name in sizes), raw["group"])
    return linear(flat, X, np.log(raw["weight"]))


def nes1996(raw: Raw) -> Problem:
    """Party identification of voters in 1996 by ideology and demography, flat priors."""
    ages = [raw["age_discrete"] == group for group in (2, 3, 4)]  # 30-44, 45-64, 65 and older
    X = design(
        1, raw["real_ideo"], raw["race_adj"], *ages, raw["educ1"], raw["gender"], raw["income"]
    )
    return linear(flat, X, raw["partyid7"])


def blr(raw: Raw) -> Problem:
    """Regression without an intercept on simulated data, vague priors."""
    return linear(vague, raw["X"], raw["y"])


def kilpisjarvi(raw: Raw) -> Problem:
    """Summer temperature at Kilpisjärvi by year: year is not centred, so the two are collinear."""
    data = {name: raw[name] for name in ("x", "y", "pmualpha", "psalpha", "pmubeta", "psbeta")}
    latents = {"alpha": advi.real(), "beta": advi.real(), "sigma": advi.positive()}
    return Problem(advi.Model(kilpisjarvi_log_joint, latents), data)


def diamonds(raw: Raw) -> Problem:
    """Log price of diamonds by 24 highly correlated predictors, centred as brms centres them."""
    X = raw["X"][:, 1:]  # its first column is the intercept
    latents = {"b": advi.real(X.shape[1]), "Intercept": advi.real(), "sigma": advi.positive()}
    return Problem(advi.Model(diamonds_log_joint, latents), {"X": X - X.mean(0), "y": raw["Y"]})


def linear(log_joint: Callable[[Draws, Arrays], advi.Terms], X: NDArray, y: NDArray) -> Problem:
    """Return the regression of y (N,) on X (N, P), priors and rows as in `log_joint`."""
    latents = {"beta": advi.real(X.shape[1]), "sigma": advi.positive()}
    return Problem(advi.Model(log_joint, latents), {"X": X, "y": y})


def design(*columns: ArrayLike) -> NDArray[np.float64]:
    """Return the design matrix (N, P) of its columns, numbers repeated over the rows."""
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)


def flat(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint under flat priors, nats."""
    return advi.Terms(0.0, rows(z, d))


def half_cauchy_noise(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint under a flat prior on the coefficients, nats."""
    return advi.Terms(dist.HalfCauchy(2.5).log_prob(z["sigma"]), rows(z, d))


def vague(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint under normal priors of scale 10, nats."""
    prior = dist.Normal(0, 10).log_prob(z["beta"]).sum() + dist.HalfNormal(10).log_prob(z["sigma"])
    return advi.Terms(prior, rows(z, d))


def rows(z: Draws, d: Arrays) -> Array:
    """Return the log-likelihood of every row, (N,) nats."""
    return dist.Normal(jnp.dot(d["X"], z["beta"]), z["sigma"]).log_prob(d["y"])


def kilpisjarvi_log_joint(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint, its priors' scales given with the data, nats."""
    prior = dist.Normal(d["pmualpha"], d["psalpha"]).log_prob(z["alpha"])
    prior += dist.Normal(d["pmubeta"], d["psbeta"]).log_prob(z["beta"])
    location = z["alpha"] + z["beta"] * d["x"]
    return advi.Terms(prior, dist.Normal(location, z["sigma"]).log_prob(d["y"]))


def diamonds_log_joint(z: Draws, d: Arrays) -> advi.Terms:
    """Return the log-joint; the intercept is that of the centred predictors, nats."""
    prior = (
        dist.Normal(0, 1).log_prob(z["b"]).sum()
        + dist.StudentT(3, 8, 10).log_prob(z["Intercept"])
        + dist.StudentT(3, 0, 10).log_prob(z["sigma"])
    )
    location = z["Intercept"] + jnp.dot(d["X"], z["b"])
    return advi.Terms(prior, dist.Normal(location, z["sigma"]).log_prob(d["y"]))
