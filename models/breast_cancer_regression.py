"""Logistic regression of malignant against benign tumours, beside its own ridge estimate.

The slopes are standard normal on standardised predictors, so the maximum of the posterior over
the slopes is scikit-learn's logistic regression with its default penalty, C = 1. The posterior
predictive averages over what 30 collinear predictors leave open; the point estimate does not.

References
----------
Wolberg, Street & Mangasarian (1995), Breast Cancer Wisconsin (Diagnostic), UCI: data.
Gelman et al. (2008), A Weakly Informative Default Prior for Logistic and Other Regression Models,
Annals of Applied Statistics 2: priors on standardised predictors.
"""

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpy.typing import NDArray

import advi
from models import bundled

INTERCEPT_SD, SLOPE_SD = 10.0, 1.0
Rows = dict[str, NDArray[Any]]


def data() -> bundled.Split:
    """Return the breast-cancer data, a fifth of the rows held out; `y` is 1 for benign."""
    load = bundled.datasets().load_breast_cancer
    return bundled.split(load(), "breast cancer (Wolberg et al. 1995), 1 = benign")


def logits(z: Any, x: Any) -> jax.Array:
    """Return the log odds of the rows of `x`, (N,)."""
    return z["intercept"] + x @ z["slopes"]


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats, one row a tumour."""
    prior = (
        dist.Normal(0, INTERCEPT_SD).log_prob(z["intercept"])
        + dist.Normal(0, SLOPE_SD).log_prob(z["slopes"]).sum()
    )
    rows = dist.Bernoulli(logits=logits(z, d["x"])).log_prob(d["y"])  # type: ignore[call-arg]
    return advi.Terms(prior, rows=rows)


def model(num_predictors: int = 30) -> advi.Model:
    """Return the model: the intercept and the slopes."""
    return advi.Model(log_joint, {"intercept": advi.real(), "slopes": advi.real(num_predictors)})


def predict(fit: advi.Fit, x: NDArray, draws: int = 4000) -> NDArray[np.float64]:
    """Return the posterior predictive probability of y = 1 for the rows of `x`, (N,)."""
    per_draw = jax.vmap(lambda z: jax.nn.sigmoid(logits(z, x)))(fit.sample(draws))
    return np.asarray(per_draw.mean(0), np.float64)


def ridge(train: Rows, x: NDArray) -> NDArray[np.float64]:
    """Return scikit-learn's estimate of the same probabilities, with its default penalty."""
    bundled.datasets()
    from sklearn.linear_model import LogisticRegression  # only for the comparison

    estimate = LogisticRegression(max_iter=1000).fit(train["x"], train["y"])
    return estimate.predict_proba(x)[:, 1]


def scores(p: NDArray, y: NDArray) -> tuple[float, float]:
    """Return the accuracy, and the mean log probability of the responses in nats."""
    return float(np.mean((p > 0.5) == y)), float(np.mean(np.log(np.where(y == 1, p, 1 - p))))


def main() -> None:
    """Fit the model; print it and its held-out scores beside the ridge estimate's."""
    d = data()
    print(f"data: {d.description}\n")
    fit = advi.fit(model(d.train["x"].shape[1]), d.train)
    print(f"{fit}\n\nslopes in order: {', '.join(d.names)}")
    base_rate = np.full(len(d.test["y"]), d.train["y"].mean())
    predictions = {
        "this fit, posterior predictive": predict(fit, d.test["x"]),
        "scikit-learn ridge, point estimate": ridge(d.train, d.test["x"]),
        "base rate": base_rate,
    }
    print("\nheld out                             accuracy   mean log score, nats")
    for name, p in predictions.items():
        accuracy, log_score = scores(p, d.test["y"])
        print(f"{name:<36} {accuracy:8.3f} {log_score:12.4f}")


if __name__ == "__main__":
    main()
