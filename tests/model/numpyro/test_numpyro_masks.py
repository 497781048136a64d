"""Masked latents of NumPyro models: missing outcomes, missing covariates, and padding."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import advi

RNG = np.random.default_rng(0)
N = 30
X = RNG.standard_normal(N).astype("float32")
Y = (1 + X + 0.5 * RNG.standard_normal(N)).astype("float32")
SEEN = np.arange(N) % 3 != 0
MASKS = {"some": SEEN, "all": np.ones(N, bool), "none": np.zeros(N, bool)}


def fitted(model, data, **settings):
    return advi.fit(advi.from_numpyro(model), data, **{"diagnose": False, **settings})


@functools.cache
def regression_fits():
    """By mean fields: with outcomes that are missing, and without their rows."""
    data = {"x": X, "y": np.where(SEEN, Y, np.nan), "seen": SEEN}
    return (
        fitted(regression, data, family="mean_field"),
        fitted(regression, {"x": X[SEEN], "y": Y[SEEN]}, family="mean_field"),
    )


def regression(x, y, seen=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(a + x, s), obs=y, obs_mask=seen)


def gamma(x, y, seen=None):
    a, s = numpyro.sample("a", dist.HalfNormal(3)), numpyro.sample("s", dist.HalfNormal(3))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Gamma(a, s), obs=jnp.exp(y), obs_mask=seen)


def vectors(x, y, seen=None):
    a = numpyro.sample("a", dist.Normal(0, 3).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("rows", len(x)):
        both = dist.MultivariateNormal(a, scale_tril=s * jnp.array([[1.0, 0.0], [1.0, 0.5]]))
        numpyro.sample("y", both, obs=jnp.stack([x, y], -1), obs_mask=seen)


def events(x, y, seen=None):
    a = numpyro.sample("a", dist.Normal(0, 3).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("rows", len(x)):
        both = dist.Normal(a, s * jnp.array([1.0, 0.5])).to_event(1)
        numpyro.sample("y", both, obs=jnp.stack([x, y], -1), obs_mask=seen)


def nothing_observed():
    numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("s", dist.HalfNormal(2))


def check_same(fit, expected):
    """The same posterior, up to the rounding of a fit's last steps."""
    assert fit.elbo.value == pytest.approx(expected.elbo.value, abs=1e-3)
    for name, mean in expected.mean().items():
        np.testing.assert_allclose(fit.mean()[name], mean, atol=1e-3)
        np.testing.assert_allclose(fit.sd()[name], expected.sd()[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "mask"),
    [
        (regression, "some"),
        pytest.param(regression, "all", marks=pytest.mark.slow),  # short: bound as one boolean
        (regression, "none"),
        pytest.param(gamma, "some", marks=pytest.mark.slow),  # short: x of test_numpyro_local
        pytest.param(vectors, "some", marks=pytest.mark.slow),
        (events, "some"),
    ],
)
def test_missing_outcomes_are_as_if_left_out(model, mask):
    seen = MASKS[mask]
    y = np.where(seen, Y, np.nan)
    if (model, mask) == (regression, "some"):
        fit, expected = regression_fits()
    else:
        fit = fitted(model, {"x": X, "y": y, "seen": seen}, family="mean_field")
        other, data = (model, {"x": X[seen], "y": Y[seen]})
        if mask == "none":
            other, data = nothing_observed, None
        expected = fitted(other, data, family="mean_field")
    assert list(fit.posterior.model.latents) == ["a", "s"]
    check_same(fit, expected)
    shown = fit.sample(20)["y"]
    both = np.stack([X, Y], -1)
    of_data = {regression: Y, gamma: np.exp(Y), vectors: both, events: both}[model]
    np.testing.assert_allclose(shown[:, seen], np.broadcast_to(of_data[seen], shown[:, seen].shape))
    assert np.all(np.isfinite(shown))
    assert np.all(np.std(shown, 0)[~seen] > 0.1)


def test_a_mask_that_is_bound_as_one_boolean():
    model = advi.from_numpyro(regression, seen=True)
    data = {"x": X[SEEN], "y": Y[SEEN]}
    fit = advi.fit(model, data, family="mean_field", diagnose=False)
    check_same(fit, regression_fits()[1])


def test_missing_outcomes_in_batches_and_streams():
    data = {"x": X, "y": np.where(SEEN, Y, np.nan), "seen": SEEN}
    expected = regression_fits()[1]
    stream = [{k: v[i::3] for k, v in data.items()} for i in range(3)]
    for batches in (
        fitted(regression, data, batch_size=10, max_steps=1000),
        fitted(regression, stream, num_rows=N, max_steps=1000),
    ):
        difference = batches.elbo.value - expected.elbo.value
        assert abs(difference) < 0.1 + 3 * batches.elbo.mcse
        for name, sd in expected.sd().items():
            assert abs(batches.mean()[name] - expected.mean()[name]) < 0.1 * sd
            np.testing.assert_allclose(batches.sd()[name], sd, rtol=0.1)


def test_missing_outcomes_are_predicted():
    """They are drawn anew for every draw of the latents, and every place."""
    fit = regression_fits()[0]
    draws = fit.sample(4000)
    noise = (draws["y"] - draws["a"][:, None] - X)[:, ~SEEN] / draws["s"][:, None]
    # 10 columns of 4,000 standard normals: 4 standard errors
    np.testing.assert_allclose(noise.mean(0), 0, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(noise.std(0), 1, atol=4 / np.sqrt(8000))
    correlations = np.corrcoef(noise, rowvar=False) - np.eye(10)
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)
    np.testing.assert_array_equal(draws["y"], fit.sample(4000)["y"])
    assert np.abs(draws["y"][:, 0] - fit.sample(4000, key=1)["y"][:, 0]).min() > 0


def test_predictions_of_a_fit_whose_latents_are_all_estimated():
    data = {"x": X, "y": Y, "seen": SEEN}
    fit = fitted(regression, data, family={"a": advi.Point(), "s": advi.Point()})
    np.testing.assert_allclose(np.std(fit.sample(500)["y"][:, 0]), fit.mean()["s"], rtol=0.15)


def test_missing_outcomes_inside_a_scan():
    def level(y, seen):
        drift = numpyro.sample("drift", dist.HalfNormal(1))

        def step(last, now):
            here = numpyro.sample("here", dist.Normal(last, drift))
            numpyro.sample("y", dist.Normal(here, 0.5), obs=now[0], obs_mask=now[1])
            return here, None

        scan(step, 0.0, (y, seen))

    fit = fitted(level, {"y": Y[:6], "seen": SEEN[:6]}, family="mean_field")
    assert list(fit.posterior.model.latents) == ["drift", "here"]
    draws = fit.sample(2000)
    noise = (draws["y"] - draws["here"])[:, ~SEEN[:6]]
    np.testing.assert_allclose(noise.std(0), 0.5, rtol=0.1)
    assert abs(np.corrcoef(noise, rowvar=False)[0, 1]) < 0.1


def covariates(x, y, seen=None):
    """What is missing is used: a latent of its own."""
    a = numpyro.sample("a", dist.Normal(0, 3))
    with numpyro.plate("rows", len(y)):
        x = numpyro.sample("x", dist.Normal(a, 1), obs=x, obs_mask=seen)
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


def covariates_in_closed_form():
    """Posterior mean and sd of a, log evidence: x seen has sd 1 about a, y elsewhere sqrt(1.25)."""
    value, variance = np.where(SEEN, X, Y).astype(float), np.where(SEEN, 1, 1.25)
    precision = 1 / 9 + np.sum(1 / variance)
    mean = np.sum(value / variance) / precision
    log_evidence = np.sum(dist.Normal(X, 0.5).log_prob(Y)[SEEN]) - 0.5 * (
        np.sum(np.log(2 * np.pi * variance) + (value - mean) ** 2 / variance)
        + mean**2 / 9
        + np.log(9 * precision)
    )
    return mean, precision**-0.5, float(log_evidence)


def test_missing_covariates():
    mean, sd, log_evidence = covariates_in_closed_form()
    fit = fitted(covariates, {"x": np.where(SEEN, X, np.nan), "y": Y, "seen": SEEN})
    assert fit.elbo.value == pytest.approx(log_evidence, abs=1e-3)
    np.testing.assert_allclose(fit.mean()["a"], mean, atol=1e-3)
    np.testing.assert_allclose(fit.sd()["a"], sd, rtol=1e-3)
    of_x = fit.mean()["a"] + (Y - fit.mean()["a"]) * 0.8
    np.testing.assert_allclose(fit.mean()["x"][~SEEN], of_x[~SEEN], atol=1e-2)
    np.testing.assert_allclose(fit.mean()["x"][SEEN], X[SEEN], atol=1e-6)


def ragged(y, counted):
    """Groups of different sizes, padded to one."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    groups = numpyro.plate("groups", y.shape[0], dim=-2)
    with groups, numpyro.plate("members", y.shape[1], dim=-1), handlers.mask(mask=counted):
        h = numpyro.sample("h", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(h, 1), obs=y)


def ragged_in_events(y, counted):
    """The same, by masks of distributions, inside an event, and by a product."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    prior = dist.Normal(mu, 1).expand(y.shape).mask(counted).to_event(2)
    h = numpyro.sample("h", prior)
    difference = jnp.where(counted, y, 0) - h * counted
    numpyro.factor("y", dist.Normal(0, 1).log_prob(difference).sum())
    numpyro.factor("of padding", 0.5 * np.log(2 * np.pi) * jnp.sum(~counted))


@pytest.mark.parametrize("model", [ragged, ragged_in_events])
def test_padding(model):
    """The evidence is that of the entries that count: y has variance 2 about mu."""
    y, counted = Y[:12].reshape(4, 3), SEEN[:12].reshape(4, 3)
    values = y[counted].astype(float)
    covariance = 2 * np.eye(len(values)) + 1
    log_evidence = -0.5 * (
        values @ np.linalg.solve(covariance, values) + np.linalg.slogdet(2 * np.pi * covariance)[1]
    )
    fit = fitted(model, {"y": y, "counted": counted})
    assert fit.elbo.value == pytest.approx(log_evidence, abs=1e-3)
    h = fit.sample(4000)["h"][:, ~counted]
    np.testing.assert_allclose(h.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(h.std(0), 1, atol=0.1)


def test_padding_of_bounded_latents():
    def model(counted):
        shape = counted.shape[0]
        with numpyro.plate("rows", shape), handlers.mask(mask=counted):
            numpyro.sample("p", dist.Dirichlet(20 * jnp.ones(3)))
            numpyro.sample("g", dist.Gamma(20.0, 1.0))
            angle = numpyro.sample("direction", dist.ProjectedNormal(jnp.zeros(2)))
            numpyro.factor("none", 0 * jnp.sum(angle, -1))

    fit = fitted(model, {"counted": np.array([True, False])})
    # two proper entries, whose Gaussians lose little, and two that are exact
    assert abs(fit.elbo.value) < 0.05


def test_a_flat_prior_is_no_padding():
    """A mask that takes a prior away where the likelihood stays leaves a flat one."""

    def model(y, informed):
        with numpyro.plate("rows", len(y)):
            with handlers.mask(mask=informed):
                h = numpyro.sample("h", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(h, 1), obs=y)

    fit = fitted(model, {"y": Y[:6], "informed": SEEN[:6]})
    np.testing.assert_allclose(fit.mean()["h"], np.where(SEEN, Y / 2, Y)[:6], atol=1e-3)
    np.testing.assert_allclose(fit.sd()["h"], np.where(SEEN, np.sqrt(0.5), 1)[:6], rtol=1e-3)


def test_missing_discrete_outcomes_are_refused():
    def model(y, seen):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(p), obs=y, obs_mask=seen)

    words = r"'y_unobserved', which obs_mask makes .* discrete \(Bernoulli\w*\).*handlers.mask"
    with pytest.raises(TypeError, match=words):
        fitted(model, {"y": Y > 0, "seen": SEEN})


def test_a_mask_of_entries_of_events_is_refused():
    with pytest.raises(TypeError, match=r"'y' with an obs_mask of shape \(30, 3\)"):
        fitted(vectors, {"x": X, "y": Y, "seen": np.ones((N, 3), bool)})
