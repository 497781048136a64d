"""Draws from a NumPyro model's prior, where a fit may begin if zeros will not do."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import advi
from advi.core.jax_config import precision
from advi.data.spec import prepare
from advi.model.resolve import bind as bind_model
from advi.model.rows import for_rows

Y = np.random.default_rng(0).standard_normal(6).astype("float32")


def points(model, data, num=200, first=0.0):
    with precision("float32"):
        data, spec = prepare(data, "float32")
        bound_model = for_rows(bind_model(advi.from_numpyro(model), data, spec), spec)
        assert bound_model.program.starts is not None
        found = bound_model.program.starts(bound_model, data, np.full(bound_model.size, first), num)
    split = {name: found[:, slice(*span)] for name, span in bound_model.spans.items()}
    return found, split


def every_kind(y):
    """A local latent, one whose support moves, one without a prior, a parameter, a scan."""
    scale = numpyro.sample("scale", dist.LogNormal(1.0, 0.5))
    low = numpyro.sample("low", dist.Uniform(0, scale))
    free = numpyro.sample("free", dist.ImproperUniform(constraints.positive, (), ()))
    shift = jnp.asarray(numpyro.param("shift", 0.0))

    def step(last, _):
        return numpyro.sample("walk", dist.Normal(last, 0.1)), None

    scan(step, 3.0, None, length=4)
    with numpyro.plate("rows", len(y)):
        weights = numpyro.sample("weights", dist.Uniform(0, 1).expand([3]).to_event(1))
        mean = low + free + shift + jnp.asarray(weights)[:, 0]
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)


def test_draws_are_those_of_the_prior():
    found, by_name = points(every_kind, Y, first=7.0)
    assert found.shape == (200, 3 + 1 + 4 + 18)
    assert np.all(np.isfinite(found))
    drawn = by_name["scale"][1:]
    np.testing.assert_allclose(drawn.mean(), 1.0, atol=0.15)
    np.testing.assert_allclose(drawn.std(), 0.5, rtol=0.2)
    assert np.all(by_name["shift"] == 7)  # has no prior
    assert np.all(by_name["low_unconstrained"].std(0) > 1)
    walk = by_name["walk"][1:]
    np.testing.assert_allclose(walk.std(0), 0.1 * np.sqrt([1, 2, 3, 4]), rtol=0.3)
    # the medians come first: of 15 draws
    assert abs(by_name["scale"][0] - 1) < 0.5
    assert np.all(np.abs(by_name["walk"][0] - 3) < 0.2)


def test_a_prior_without_a_sampler_gives_none():
    class Nowhere(dist.Normal):
        def sample(self, key, sample_shape=()):
            raise NotImplementedError

    assert points(lambda: numpyro.sample("x", Nowhere(0, 1)), None)[0].shape == (0, 1)


def seasonal(y):
    """Seasons must be of the size of the data, which only their prior knows."""
    season = numpyro.sample("season", dist.Normal(0.5 * y, 0.1 * y))
    ratio = jnp.where(jnp.abs(season) > 25, y / season, jnp.nan)
    numpyro.sample("y", dist.Normal(ratio, 0.1), obs=y / 100)


def test_a_fit_starts_from_the_prior_where_zeros_are_not_finite():
    fit = advi.fit(
        advi.from_numpyro(seasonal), 200 + 10 * np.abs(Y), family="mean_field", diagnose=False
    )
    assert np.isfinite(fit.elbo.value)
    np.testing.assert_allclose(fit.mean()["season"], 100, rtol=0.1)


def test_steps_start_from_the_prior_too():
    y = 200 + 10 * np.abs(Y)
    with pytest.raises(ValueError, match="not finite at the start"):
        advi.fit(advi.Model(*without_prior(y)), y, optimizer=optax.adam(0.1), max_steps=10)
    fit = advi.fit(
        advi.from_numpyro(seasonal), y, optimizer=optax.adam(0.1), max_steps=300, diagnose=False
    )
    np.testing.assert_allclose(fit.mean()["season"], 100, rtol=0.1)


def without_prior(y):
    def log_joint(z, y):
        ratio = jnp.where(jnp.abs(z["season"]) > 25, y / z["season"], jnp.nan)
        return dist.Normal(ratio, 0.1).log_prob(y / 100).sum()

    return log_joint, {"season": advi.real(len(y))}
