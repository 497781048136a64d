"""Linear regression of diabetes progression, with a conjugate prior and so an exact answer.

Given the noise variance s2 the intercept and the slopes are normal, with prior sds in units of
the noise sd: ``w_k ~ N(0, s2 * scale_k^2)``, ``s2 ~ InverseGamma(shape, rate)``. The posterior is
then normal-inverse-gamma, the coefficients' marginal a multivariate t, and so is the predictive.

References
----------
Efron, Hastie, Johnstone & Tibshirani (2004), Least Angle Regression, Annals of Statistics 32: data.
Bishop (2006), Pattern Recognition and Machine Learning, section 3.3 and exercise 3.12: posterior.
"""

from math import lgamma
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpy.typing import NDArray

import advi
from models import bundled

INTERCEPT_SCALE, SLOPE_SCALE = 10.0, 1.0  # prior sds in units of the noise sd
SHAPE, RATE = 1.0, 2500.0  # of the noise variance: an sd in the tens, on a response of 25 to 346
Rows = dict[str, NDArray[Any]]


class Posterior(NamedTuple):
    """Exact posterior: given s2, N(mean, s2 * V); and s2 ~ InverseGamma(shape, rate)."""

    mean: NDArray[np.float64]  # (1 + P,) intercept first
    V: NDArray[np.float64]  # (1 + P, 1 + P)
    shape: float
    rate: float
    log_evidence: float  # nats

    def cov(self) -> NDArray[np.float64]:
        """Return the marginal covariance of the coefficients, (1 + P, 1 + P)."""
        return self.rate / (self.shape - 1) * self.V

    def log_predictive(self, d: Rows) -> NDArray[np.float64]:
        """Return the log predictive density of every row (N,), nats: a Student t."""
        X = design(d)
        scale = np.sqrt(self.rate / self.shape * (1 + np.sum((X @ self.V) * X, axis=1)))
        predictive = dist.StudentT(2 * self.shape, X @ self.mean, scale)
        return np.asarray(predictive.log_prob(d["y"]))


def data() -> bundled.Split:
    """Return the diabetes data, a fifth of the rows held out; `y` is the progression score."""
    load = bundled.datasets().load_diabetes
    return bundled.split(load(scaled=False), "diabetes (Efron et al. 2004)")


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats, one row a patient."""
    sd = jnp.sqrt(z["variance"])
    prior = (
        dist.InverseGamma(SHAPE, RATE).log_prob(z["variance"])
        + dist.Normal(0, INTERCEPT_SCALE * sd).log_prob(z["intercept"])
        + dist.Normal(0, SLOPE_SCALE * sd).log_prob(z["slopes"]).sum()
    )
    location = z["intercept"] + d["x"] @ z["slopes"]
    return advi.Terms(prior, rows=dist.Normal(location, sd).log_prob(d["y"]))


def model(num_predictors: int = 10) -> advi.Model:
    """Return the model: the intercept, the slopes and the noise variance."""
    latents = {
        "intercept": advi.real(),
        "slopes": advi.real(num_predictors),
        "variance": advi.positive(),
    }
    return advi.Model(log_joint, latents)


def design(d: Rows) -> NDArray[np.float64]:
    """Return the predictors with a column of ones in front, (N, 1 + P)."""
    return np.column_stack([np.ones(len(d["x"])), d["x"]])


def exact(d: Rows) -> Posterior:
    """Return the exact posterior."""
    X, y = design(d), d["y"]
    precision = np.full(X.shape[1], SLOPE_SCALE**-2)
    precision[0] = INTERCEPT_SCALE**-2
    V = np.linalg.inv(X.T @ X + np.diag(precision)).astype(np.float64)
    mean = V @ X.T @ y
    shape = SHAPE + 0.5 * len(y)
    rate = float(RATE + 0.5 * (y @ y - mean @ X.T @ y))
    log_evidence = (
        0.5 * (np.linalg.slogdet(V)[1] + np.log(precision).sum() - len(y) * np.log(2 * np.pi))
        + (SHAPE * np.log(RATE) - lgamma(SHAPE))
        - (shape * np.log(rate) - lgamma(shape))
    )
    return Posterior(mean, V, shape, rate, float(log_evidence))


def predict(fit: advi.Fit, d: Rows, draws: int = 4000) -> tuple[NDArray, NDArray]:
    """Return the posterior mean of the response and the log predictive density, both (N,)."""
    z = fit.sample(draws)
    locations = z["intercept"][:, None] + z["slopes"] @ d["x"].T
    log_lik = dist.Normal(locations, jnp.sqrt(z["variance"])[:, None]).log_prob(d["y"])
    return np.asarray(locations.mean(0)), np.asarray(logsumexp(log_lik, axis=0) - np.log(draws))


def least_squares(train: Rows, test: Rows) -> tuple[NDArray, NDArray]:
    """Return predictions and log predictive densities, both (N,), of ordinary least squares."""
    X = design(train)
    w = np.linalg.lstsq(X, train["y"], rcond=None)[0]
    residual = train["y"] - X @ w
    sd = np.sqrt(residual @ residual / (X.shape[0] - X.shape[1]))
    predicted = design(test) @ w
    return predicted, np.asarray(dist.Normal(predicted, sd).log_prob(test["y"]))


def main() -> None:
    """Fit the model; print it beside the exact posterior and ordinary least squares."""
    d = data()
    print(f"data: {d.description}\n")
    fit = advi.fit(model(d.train["x"].shape[1]), d.train)
    print(f"{fit}\n")
    truth = exact(d.train)
    truth_sd = np.sqrt(np.diag(truth.cov()))
    print(f"exact log evidence: {truth.log_evidence:.4f} nats, which the ELBO cannot exceed\n")
    mean, sd = fit.mean(), fit.sd()
    print("coefficient    mean      sd   exact mean      sd")
    for k, name in enumerate(("intercept", *d.names)):
        m, s = (t["slopes"][k - 1] if k else t["intercept"] for t in (mean, sd))
        print(f"{name:<10} {m:8.2f} {s:7.2f} {truth.mean[k]:12.2f} {truth_sd[k]:7.2f}")

    scores = {
        "this fit": predict(fit, d.test),
        "exact posterior": (design(d.test) @ truth.mean, truth.log_predictive(d.test)),
        "least squares": least_squares(d.train, d.test),
    }
    print("\nheld out                RMSE   mean log predictive density, nats")
    for name, (predicted, log_density) in scores.items():
        rmse = np.sqrt(np.mean((d.test["y"] - predicted) ** 2))
        print(f"{name:<20} {rmse:7.2f} {log_density.mean():10.4f}")


if __name__ == "__main__":
    main()
