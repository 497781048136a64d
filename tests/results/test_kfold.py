"""Cross-validation by folds, against closed forms."""

import numpy as np
import numpyro.distributions as dist
import pytest

import advi

N = 12
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 2))
Y = X @ np.array([1.0, -0.5]) + RNG.standard_normal(N)


def log_joint(z, d):
    prior = dist.Normal(0, 2).log_prob(z["w"]).sum()
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], 1.0).log_prob(d["y"]))


def exact(fold):
    """Log predictive density of each row, given those of other folds."""
    found = np.zeros(N)
    for i in range(N):
        kept = fold != fold[i]
        cov = np.linalg.inv(X[kept].T @ X[kept] + np.eye(2) / 4)
        mean, sd = X[i] @ cov @ (X[kept].T @ Y[kept]), np.sqrt(1 + X[i] @ cov @ X[i])
        found[i] = -0.5 * ((Y[i] - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    return found


@pytest.fixture(scope="module")
def fit():
    model = advi.Model(log_joint, {"w": advi.real(2)})
    return advi.fit(model, {"x": X, "y": Y}, family="full_rank", diagnose=False)


def test_every_row_by_itself_is_exact(fit):
    found = fit.kfold(N)
    np.testing.assert_allclose(found.pointwise, exact(np.arange(N)), atol=0.01)
    assert found.num_folds == N
    assert "12-fold cross-validation of 12 rows" in repr(found)
    assert abs(found.p_loo - fit.loo().p_loo) < 0.15
    assert "elpd" in str(advi.compare({"folds": found, "loo": fit.loo()}))


def test_folds_by_group(fit):
    group = np.repeat(["a", "b", "c"], 4)
    np.testing.assert_allclose(fit.kfold(group).pointwise, exact(group), atol=0.01)


@pytest.mark.parametrize(
    ("k", "message"),
    [(1, "integer >= 2"), (13, "at most 12"), (np.zeros(12), "one fold"), ([0, 1], "the 12 rows")],
)
def test_wrong_folds(fit, k, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit.kfold(k)


def test_a_scalar_log_joint_has_no_rows():
    scalar = advi.Model(lambda z, d: log_joint(z, d).total(), {"w": advi.real(2)})
    plain = advi.fit(scalar, {"x": X, "y": Y}, family="mean_field", diagnose=False)
    with pytest.raises(ValueError, match="returned a scalar"):
        plain.kfold(3)
