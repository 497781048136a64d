"""Mixtures of the plan's Gaussians, and label switching."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.inference.plan import mixture_steps

WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def modes(dim, seed):
    """Four unit Gaussians about 4 sqrt(2 dim) apart, and the mean and sds of their mixture."""
    locs = 4 * np.random.default_rng(seed).standard_normal((4, dim))

    def log_joint(z, d):
        each = [dist.Normal(loc, 1.0).log_prob(z["x"]).sum() for loc in locs]
        return jax.nn.logsumexp(jnp.array(each) + np.log(WEIGHTS))

    mean = WEIGHTS @ locs
    return (
        advi.Model(log_joint, {"x": advi.real(dim)}),
        mean,
        np.sqrt(WEIGHTS @ (locs**2 + 1) - mean**2),
    )


def two(z, data):
    """Unit Gaussians at 0 (.6) and 4 (.4) in 4 dimensions: 8 apart."""
    at = [-0.5 * jnp.sum((z["x"] - c) ** 2) for c in (0.0, 4.0)]
    return jnp.logaddexp(jnp.log(0.6) + at[0], jnp.log(0.4) + at[1])


TWO = advi.Model(two, {"x": advi.real(4)})


@pytest.mark.parametrize("key", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dim", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_four_separate_modes_are_held_by_default(dim, key):
    model, mean, sd = modes(dim, seed=1)
    fit = advi.fit(model, key=key)
    assert fit.verdict == "good"
    assert "made by full_rank -> mixture of 4 (+" in repr(fit)
    assert abs(fit.elbo.value) < 1e-4
    np.testing.assert_allclose(fit.mean()["x"], mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(fit.sd()["x"], sd, rtol=0.1)
    np.testing.assert_allclose(np.exp(fit.posterior.params[0].log_weights), WEIGHTS, atol=0.01)


@pytest.mark.parametrize("key", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mixture_by_name_saves_and_loads(key, tmp_path):
    fit = advi.fit(TWO, family="mixture", key=key)
    assert fit.verdict == "good"
    assert fit.elbo.value == pytest.approx(2 * np.log(2 * np.pi), abs=0.02)
    np.testing.assert_allclose(fit.mean()["x"], 1.6, atol=0.1)
    density = np.exp(fit.log_prob({"x": np.array([np.zeros(4), np.full(4, 4.0)])}))
    np.testing.assert_allclose(density * (2 * np.pi) ** 2, [0.6, 0.4], rtol=0.05)
    fit.save(tmp_path / "fit.advi")
    loaded = advi.load(tmp_path / "fit.advi")
    assert repr(loaded) == repr(fit)
    np.testing.assert_array_equal(loaded.sample(5)["x"], fit.sample(5)["x"])


@functools.cache
def of_two():
    """A Gaussian at one mode, which knows the other, and the mixture that it goes on to."""
    one = advi.fit(TWO, family="full_rank")
    return one, one.refine("mixture")


def assert_known(fit):
    assert fit.verdict == "poor"
    assert "there is more than one mode" in " ".join(fit.verdict.reasons)


def assert_both(fit):
    assert fit.verdict == "good"
    np.testing.assert_allclose(fit.mean()["x"], 1.6, atol=0.1)


def test_known_modes_are_not_forgotten(tmp_path):
    """By what goes on from a fit: other families, new fits, files."""
    one, mixture = of_two()
    one.save(tmp_path / "fit.advi")
    assert mixture.verdict == "good"
    assert_known(advi.fit(TWO, init=advi.load(tmp_path / "fit.advi"), family="full_rank"))
    assert_known(mixture.refine("full_rank"))
    assert_both(one.refine("auto"))


@pytest.mark.slow  # short: test_known_modes_are_not_forgotten
def test_known_modes_are_not_forgotten_by_maps_new_fits_and_chains():
    one, mixture = of_two()
    assert_known(one.refine("triangular"))
    assert_known(advi.fit(TWO, init=one, family="full_rank"))
    assert_known(one.nuts(num_samples=100, num_warmup=50))
    assert_both(advi.fit(TWO, init=one))
    assert_both(advi.fit(TWO, init=mixture))


def test_points_at_infinity_are_no_crash():
    """Chains in the noise of a mixture may run away, as in the neck of a funnel."""

    def funnel(z, d):
        scale = jnp.exp(z["v"])
        return dist.Normal(0, 1).log_prob(z["v"]) + dist.Normal(0, scale).log_prob(z["x"]).sum()

    model = advi.Model(funnel, {"v": advi.real(), "x": advi.real(3)})
    assert advi.fit(model, family="mixture").verdict.level in ("poor", "means_only")


def test_two_directions_of_an_angle_are_held():
    def log_joint(z, d):
        one = np.log(0.3) + dist.VonMises(1.0, 20.0).log_prob(z["a"])
        return jnp.logaddexp(one, np.log(0.7) + dist.VonMises(2.8, 50.0).log_prob(z["a"]))

    fit = advi.fit(advi.Model(log_joint, {"a": advi.circular()}))
    assert fit.verdict == "good"
    assert float(fit.mean()["a"]) == pytest.approx(2.26, abs=0.05)


def test_one_component_at_most_leaves_the_other_mode_to_the_verdict():
    fit = advi.fit(TWO, family=advi.Mixture(1))
    assert fit.verdict == "poor"
    assert "there is more than one mode" in " ".join(fit.verdict.reasons)


def test_weights_come_from_importance_draws_where_elbos_mislead(monkeypatch):
    """A skewed mode has a lower ELBO than its mass; EM gives it its weight."""

    def log_joint(z, d):
        skewed = dist.Gamma(0.3, 1.0).log_prob(z["x"])
        return jnp.logaddexp(skewed, dist.Normal(20.0, 0.5).log_prob(z["x"]))

    model = advi.Model(log_joint, {"x": advi.positive()})

    def share(fit):
        return float((fit.sample(20_000)["x"] < 15).mean())

    settings = {"family": "mixture", "key": 2, "diagnose": False}
    improved = advi.fit(model, **settings)
    monkeypatch.setattr(mixture_steps, "MAX_ROUNDS", 0)
    by_elbo = advi.fit(model, **settings)
    assert abs(share(improved) - 0.5) < abs(share(by_elbo) - 0.5) - 0.015


def mixture_model(z, y):
    prior = dist.Normal(0, 5).log_prob(z["mu"]).sum() + dist.LogNormal(0, 1).log_prob(z["s"]).sum()
    each = jnp.log(z["w"]) + dist.Normal(z["mu"], z["s"]).log_prob(y[:, None])
    return prior + jax.nn.logsumexp(each, axis=1).sum()


def test_copies_by_exchange_of_labels_are_told_from_other_modes():
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 40), rng.normal(2, 0.7, 60)])
    latents = {"mu": advi.real(2), "s": advi.positive(2), "w": advi.simplex(2)}
    fit = advi.fit(advi.Model(mixture_model, latents), y)
    assert fit.verdict == "poor"
    assert "the same mode, with the entries of mu, s, w exchanged" in " ".join(fit.verdict.reasons)
    assert "advi.ordered" in fit.verdict.action
    assert fit.posterior.guide.description == "full_rank"
    ordered = latents | {"mu": advi.ordered(2)}
    assert advi.fit(advi.Model(mixture_model, ordered), y).verdict == "good"


def test_steps_and_blocks_refuse_it():
    with pytest.raises(ValueError, match="Mixture is fitted by the automatic plan"):
        advi.fit(TWO, family="mixture", optimizer=optax.adam(1e-2))
    model = advi.Model(
        lambda z, d: -(z["x"] ** 2) - z["y"] ** 2, {"x": advi.real(), "y": advi.real()}
    )
    with pytest.raises(ValueError, match="Mixture covers all latents together"):
        advi.fit(model, family={"x": "mixture", "y": "mean_field"})


def test_an_interrupted_mixture_is_the_plans_gaussian():
    fit = advi.fit(TWO, family="mixture", callback=lambda p: p.stage == "mixture")
    assert fit.status == "interrupted"
    assert len(fit.posterior.params[0].locs) == 1
    assert np.isfinite(fit.mean()["x"]).all()
