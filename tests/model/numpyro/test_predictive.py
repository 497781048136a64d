"""Posterior and prior predictive draws of a NumPyro model's observed sites."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import Predictive

import advi

N = 40
RNG = np.random.default_rng(1)
X = RNG.standard_normal(N)
Y = 2 * X + RNG.standard_normal(N)


def line(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1))
    mean = numpyro.deterministic("mean", w * x)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)


@functools.cache
def fit():
    return advi.fit(advi.from_numpyro(line), {"x": X, "y": Y}, diagnose=False)


VARIANCE = 1 / (1 + X @ X)  # of w, whose mean is that times x'y


def test_new_data_at_the_draws_of_the_posterior():
    found = fit().predictive(4000, key=3)
    assert {name: values.shape for name, values in found.items()} == {
        "mean": (4000, N),
        "y": (4000, N),
    }
    mean, sd = VARIANCE * X @ Y * X, np.sqrt(1 + VARIANCE * X**2)
    np.testing.assert_allclose(found["y"].mean(0), mean, atol=5 / np.sqrt(4000) * sd.max())
    np.testing.assert_allclose(found["y"].std(0), sd, rtol=0.06)
    w = np.asarray(fit().sample(4000, key=3)["w"])
    np.testing.assert_allclose(found["mean"], w[:, None] * X, rtol=1e-4, atol=1e-5)
    again = fit().predictive(4000, key=3)
    np.testing.assert_array_equal(again["y"], found["y"])
    assert not np.array_equal(fit().predictive(4000, key=4)["y"], found["y"])


def test_at_other_rows_with_and_without_values():
    rows = {"x": np.array([1.0, -3.0])}
    found = fit().predictive(2000, rows)
    assert found["y"].shape == (2000, 2)
    np.testing.assert_array_equal(
        fit().predictive(2000, {**rows, "y": np.zeros(2)})["y"], found["y"]
    )
    draws = fit().sample(2000)
    theirs = Predictive(line, {"w": draws["w"]})(jax.random.key(0), rows["x"])["y"]
    np.testing.assert_allclose(found["y"].mean(0), np.mean(theirs, 0), atol=0.15)
    np.testing.assert_allclose(found["y"].std(0), np.std(theirs, 0), rtol=0.1)


def test_new_rows_of_a_float64_fit_keep_their_digits():
    made = advi.fit(advi.from_numpyro(line), {"x": X, "y": Y}, x64=True, diagnose=False)
    rows = np.array([1.0, 1.0 + 1e-12])
    first, second = made.predictive(10, {"x": rows})["mean"].T
    np.testing.assert_allclose(second / first - 1, 1e-12, rtol=1e-3)


def test_from_the_prior_with_the_latents():
    found = fit().predictive(4000, prior=True)
    assert sorted(found) == ["mean", "w", "y"]
    assert found["w"].std() == pytest.approx(1, rel=0.06)
    np.testing.assert_allclose(found["mean"], found["w"][:, None] * X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["y"].std(0), np.sqrt(1 + X**2), rtol=0.08)


def bounded(y=None):
    """A latent whose support depends on another, a factor, a parameter, and a mask."""
    top = numpyro.sample("top", dist.HalfNormal(3))
    low = numpyro.sample("low", dist.Uniform(0, top))
    shift = numpyro.param("shift", 0.5)
    numpyro.factor("weight", -low)
    with numpyro.plate("rows", 4), handlers.mask(mask=jnp.arange(4) < 3):
        numpyro.sample("y", dist.Normal(low + shift, 0.1), obs=y)


def test_dependent_supports_factors_parameters_and_masks():
    made = advi.fit(advi.from_numpyro(bounded), {"y": np.full(4, 2.0)}, diagnose=False)
    found = made.predictive(500)
    assert found["y"].shape == (500, 4)
    assert "weight" not in found
    assert "low" not in found
    assert abs(found["y"].mean() - 2) < 0.05  # the masked value is drawn, too
    prior = made.predictive(500, prior=True)
    assert np.all((prior["low"] >= 0) & (prior["low"] <= prior["top"]))
    noise = prior["y"] - prior["low"][:, None] - float(made.mean()["shift"])
    assert noise.std() == pytest.approx(0.1, rel=0.1)


def of_rows(x, y=None):
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("rows", len(x)):
        h = numpyro.sample("h", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x + h, s), obs=y)


def test_latents_of_rows_are_those_of_the_fit():
    made = advi.fit(advi.from_numpyro(of_rows), {"x": X, "y": X + 3}, diagnose=False)
    found = made.predictive(1000)
    h = np.asarray(made.mean()["h"])
    np.testing.assert_allclose(found["y"].mean(0), X + h, atol=0.2)
    assert made.predictive(100, prior=True)["h"].shape == (100, N)


def test_with_numbers_that_decide_about_shapes_and_a_batch_of_a_plate():
    def model(x, k, n, y=None):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(k), 1).to_event(1))
        with numpyro.plate("rows", n, subsample_size=len(x)):
            numpyro.sample("y", dist.Normal(w.sum() * x, 1), obs=y)

    data = {"x": X, "k": 2, "y": Y}
    made = advi.fit(advi.from_numpyro(model, n=N), data, diagnose=False)
    assert made.predictive(10, {"x": X[:5], "k": 2})["y"].shape == (10, 5)
    with pytest.raises(ValueError, match="'k': got 3, but 2 in the fit"):
        made.predictive(10, {"x": X[:5], "k": 3})


def test_new_data_may_be_passed_in_another_way_and_decide_about_further_steps():
    def model(table, x, steps, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.deterministic("ahead", w * jnp.arange(steps))
        with numpyro.plate("rows", N, subsample_size=x.shape[0]):
            numpyro.sample("y", dist.Normal(w * x + table.sum(), 1), obs=y)

    table = np.zeros(3)
    made = advi.fit(advi.from_numpyro(model), (table, X, 2, Y), diagnose=False)
    found = made.predictive(10, {"table": table, "x": X[:5], "steps": 4})
    assert found["y"].shape == (10, 5)
    assert found["ahead"].shape == (10, 4)
    assert made.predictive(10)["ahead"].shape == (10, 2)


def test_what_cannot_be_drawn():
    own = advi.fit(advi.Model(lambda z, d: -0.5 * z["x"] ** 2, {"x": advi.real()}), diagnose=False)
    with pytest.raises(TypeError, match=r"predictive: .*Write fit\.predict\(fn"):
        own.predictive(10)
    with pytest.raises(TypeError, match=r"no argument 'z'.*Leave out columns"):
        fit().predictive(10, {"x": X, "z": X})
    with pytest.raises(TypeError, match="prior: got 1"):
        fit().predictive(10, prior=1)

    def flat(y=None):
        m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    improper = advi.fit(advi.from_numpyro(flat), {"y": 1.0}, diagnose=False)
    assert improper.predictive(10)["y"].shape == (10,)
    with pytest.raises(TypeError, match="flat has a site 'm' that cannot be drawn from"):
        improper.predictive(10, prior=True)


def test_functions_of_new_data_have_no_deterministic_site_of_the_old():
    def model(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1))
        mean = numpyro.deterministic("mean", w * x)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    made = advi.fit(advi.from_numpyro(model), (X, 2 * X), diagnose=False)
    assert made.predict(lambda z, d: z["mean"], 10).shape == (10, len(X))
    with pytest.raises(ValueError, match=r"z has no 'mean'.*fit\.predictive\(n, data\)\['mean'\]"):
        made.predict(lambda z, d: z["mean"], 10, (np.zeros_like(X),))
    np.testing.assert_array_equal(made.predictive(10, (np.zeros_like(X),))["mean"], 0)
