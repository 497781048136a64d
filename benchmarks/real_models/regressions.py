"""Regressions on scikit-learn's data, and others: shrinkage, separation, factors, mixtures.

References
----------
Efron, Hastie, Johnstone & Tibshirani (2004), Annals of Statistics 32: diabetes.
Gelman, Jakulin, Pittau & Su (2008), Annals of Applied Statistics 2: priors under separation.
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
from benchmarks.real_models.definition import grouped, normal
from models.bundled import datasets
from models.shared_data import scale


def orings() -> Problem:
    """Damage to O-rings by temperature: 23 flights, logistic, weak priors."""

    def log_joint(z: Any, d: Any) -> Array:
        logits = z["alpha"] + z["beta"] * d["x"]
        likelihood = dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        return normal(z["alpha"], 0, 10) + normal(z["beta"], 0, 10) + likelihood

    temperature, y = np.array(tables.ORINGS).T
    model = advi.Model(log_joint, {"alpha": advi.real(), "beta": advi.real()})
    data = {"x": scale(temperature), "y": y}
    return Problem("orings", model, data, "Dalal, Fowlkes & Hoadley (1989)")


def iris_separated() -> Problem:
    """Setosa against the others: complete separation, under a normal prior of sd 5."""

    def log_joint(z: Any, d: Any) -> Array:
        logits = z["alpha"] + d["x"] @ z["beta"]
        likelihood = dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        return normal(z["alpha"], 0, 5) + normal(z["beta"], 0, 5) + likelihood

    x, y = datasets().load_iris(return_X_y=True)
    model = advi.Model(log_joint, {"alpha": advi.real(), "beta": advi.real(4)})
    data = {"x": scale(x), "y": (y == 0).astype(int)}
    return Problem("iris_separated", model, data, "scikit-learn, iris")


def iris_mixture() -> Problem:
    """Petal lengths of 100 irises: two overlapping normals with ordered means."""

    def log_joint(z: Any, d: Any) -> Array:
        log_share = jnp.log(jnp.stack([z["share"], 1 - z["share"]]))
        parts = log_share + dist.Normal(z["mu"], z["sd"]).log_prob(d["y"][:, None])
        return (
            dist.Beta(2, 2).log_prob(z["share"])
            + normal(z["mu"], 5, 2)
            + dist.LogNormal(-1, 0.5).log_prob(z["sd"]).sum()
            + jax.nn.logsumexp(parts, axis=1).sum()
        )

    x, y = datasets().load_iris(return_X_y=True)
    latents = {"share": advi.unit_interval(), "mu": advi.ordered(2), "sd": advi.positive(2)}
    model = advi.Model(log_joint, latents)
    data = {"y": x[y > 0, 2]}
    return Problem("iris_mixture", model, data, "scikit-learn, iris: without setosa")


def iris_factor() -> Problem:
    """One factor of the four measurements of 50 irises versicolor, scores integrated out."""

    def log_joint(z: Any, d: Any) -> Array:
        cov = jnp.outer(z["loading"], z["loading"]) + jnp.diag(z["sd"] ** 2)
        rows = dist.MultivariateNormal(z["mu"], covariance_matrix=cov)
        return (
            normal(z["mu"])
            + dist.HalfNormal(1).log_prob(z["loading"]).sum()
            + dist.HalfNormal(1).log_prob(z["sd"]).sum()
            + rows.log_prob(d["x"]).sum()
        )

    x, y = datasets().load_iris(return_X_y=True)
    latents = {"mu": advi.real(4), "loading": advi.positive(4), "sd": advi.positive(4)}
    data = {"x": scale(x[y == 1])}
    model = advi.Model(log_joint, latents)
    return Problem("iris_factor", model, data, "scikit-learn, iris: versicolor")


def wine() -> Problem:
    """Three cultivars of wine by 13 predictors: multinomial logistic, nearly separated."""

    def log_joint(z: Any, d: Any) -> Array:
        logits = jnp.pad(z["alpha"] + d["x"] @ z["beta"], ((0, 0), (1, 0)))
        return (
            normal(z["alpha"], 0, 2.5)
            + normal(z["beta"], 0, 2.5)
            + dist.CategoricalLogits(logits).log_prob(d["y"]).sum()
        )

    x, y = datasets().load_wine(return_X_y=True)
    model = advi.Model(log_joint, {"alpha": advi.real(2), "beta": advi.real(13, 2)})
    return Problem("wine", model, {"x": scale(x), "y": y}, "scikit-learn, wine")


def breast_cancer() -> Problem:
    """Malignant tumours by 30 collinear predictors: logistic, Student-t priors."""

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.StudentT(5, 0, 1)
        return (
            prior.log_prob(z["alpha"])
            + prior.log_prob(z["beta"]).sum()
            + dist.BernoulliLogits(z["alpha"] + d["x"] @ z["beta"]).log_prob(d["y"]).sum()
        )

    x, y = datasets().load_breast_cancer(return_X_y=True)
    model = advi.Model(log_joint, {"alpha": advi.real(), "beta": advi.real(30)})
    return Problem("breast_cancer", model, {"x": scale(x), "y": y}, "scikit-learn, breast cancer")


def diabetes_shrinkage() -> Problem:
    """Progression of diabetes: ten coefficients with a common, unknown sd; centred."""

    def rest(z: Any, d: Any) -> Array:
        return (
            dist.HalfCauchy(1).log_prob(z["sd"])
            + dist.HalfNormal(1).log_prob(z["sigma"])
            + normal(d["y"], d["x"] @ z["beta"], z["sigma"])
        )

    def spread(z: Any) -> Any:
        return {"beta": (0.0, z["sd"])}

    latents = {"sd": advi.positive(), "sigma": advi.positive(), "beta": advi.real(10)}
    return grouped(
        "diabetes_shrinkage", (rest, spread, latents), _diabetes(), "scikit-learn, diabetes",
        centred=True, sample_centred=True,
    )  # fmt: skip


def _diabetes() -> dict[str, Any]:
    x, y = datasets().load_diabetes(return_X_y=True)
    return {"x": scale(x), "y": scale(y)}


def linnerud() -> Problem:
    """Three exercises of 20 men on three measurements, correlated residuals."""

    def log_joint(z: Any, d: Any) -> Array:
        factor = z["sd"][:, None] * z["corr"]
        residual = dist.MultivariateNormal(d["x"] @ z["beta"], scale_tril=factor)
        return (
            normal(z["beta"])
            + dist.HalfNormal(1).log_prob(z["sd"]).sum()
            + dist.LKJCholesky(3, 1.0).log_prob(z["corr"])
            + residual.log_prob(d["y"]).sum()
        )

    bunch = datasets().load_linnerud()
    latents = {"beta": advi.real(3, 3), "sd": advi.positive(3), "corr": advi.corr_cholesky(3)}
    data = {"x": scale(bunch.target), "y": scale(bunch.data)}
    return Problem("linnerud", advi.Model(log_joint, latents), data, "scikit-learn, linnerud")


SHARED = ()
OWN = (
    orings,
    iris_separated,
    iris_mixture,
    iris_factor,
    wine,
    breast_cancer,
    diabetes_shrinkage,
    linnerud,
)
