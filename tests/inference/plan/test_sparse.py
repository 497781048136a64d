"""Gaussians with a sparse precision: exact where the posterior is one, and as good as full rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm, poisson

import advi
from advi.diagnostics import compare_moments
from tests import crossed

STUDENTS, LECTURERS = 40, 12
DATA = crossed.simulate(STUDENTS, LECTURERS, 200)
CROSSED = crossed.model(STUDENTS, LECTURERS)


@functools.cache
def of_crossed():
    return advi.fit(CROSSED, DATA, family="sparse", x64=True)


@functools.cache
def exact():
    return crossed.exact(DATA, STUDENTS, LECTURERS)


def test_a_gaussian_posterior_is_found_exactly():
    fit, (mean, cov, evidence) = of_crossed(), exact()
    assert fit.status == "converged"
    assert fit.verdict == "good"
    assert fit.elbo.value == pytest.approx(evidence, abs=1e-6)
    loc, scale = fit.posterior.gaussian
    np.testing.assert_allclose(loc, mean, atol=1e-6)
    np.testing.assert_allclose(scale.sds, np.sqrt(np.diag(cov)), rtol=1e-6)
    np.testing.assert_allclose(scale.tril() @ scale.tril().T, cov, atol=1e-8)
    np.testing.assert_allclose(fit.mean()["lecturer"], mean[-LECTURERS:], atol=1e-6)


def test_draws_and_log_q_are_those_of_the_gaussian():
    fit, (mean, cov, _) = of_crossed(), exact()
    with jax.enable_x64(True):
        z = fit.sample(3)
        x = np.concatenate([z["mu"][:, None], z["student"], z["lecturer"]], axis=1)
        away = x - mean
        expected = -0.5 * (
            np.einsum("ni,ij,nj->n", away, np.linalg.inv(cov), away)
            + np.linalg.slogdet(2 * np.pi * cov)[1]
        )
        np.testing.assert_allclose(fit.log_prob(z), expected, atol=1e-4)
        traced = jax.jit(lambda key: fit.sample(2000, key=key))(jax.random.key(0))
        mu = np.asarray(traced["mu"])
    np.testing.assert_allclose(mu.mean(), mean[0], atol=4 * np.sqrt(cov[0, 0] / 2000))
    np.testing.assert_allclose(mu.std(), np.sqrt(cov[0, 0]), rtol=0.06)


def test_its_draws_have_derivatives():
    """As chains in the coordinates of its noise take them."""
    fit, (_, cov, _) = of_crossed(), exact()
    guide, params = fit.posterior.guide, fit.posterior.params
    with jax.enable_x64(True):
        of_latents = jax.jacrev(lambda e: guide.draw(params, e))(jnp.ones(len(cov)))
    L = np.concatenate([np.atleast_2d(of_latents[name]) for name in CROSSED.latents])
    np.testing.assert_allclose(L @ L.T, cov, atol=1e-9)


@pytest.mark.slow
def test_nuts_goes_on_from_it():
    fit, (mean, cov, _) = of_crossed(), exact()
    sampled = fit.nuts(num_samples=500, num_warmup=100)
    sd = np.sqrt(cov[0, 0])
    assert float(sampled.mean()["mu"]) == pytest.approx(mean[0], abs=0.2 * sd)
    assert float(sampled.sd()["mu"]) == pytest.approx(sd, rel=0.15)


def test_it_is_kept_in_a_file(tmp_path):
    fit = of_crossed()
    fit.save(tmp_path / "fit.advi")
    loaded = advi.load(tmp_path / "fit.advi")
    for name, value in fit.sample(5).items():
        np.testing.assert_array_equal(loaded.sample(5)[name], value)
    assert loaded.elbo == fit.elbo
    assert "sparse" in repr(loaded)


def counts(z, d):
    effect = z["effect"]
    log_p = norm.logpdf(z["mu"], 0, 2) + norm.logpdf(z["log_sd"], -1, 0.5)
    log_p += norm.logpdf(effect, 0, jnp.exp(z["log_sd"])).sum()
    return log_p + poisson.logpmf(d["n"], jnp.exp(z["mu"] + effect[d["group"]])).sum()


COUNTS = advi.Model(counts, {"mu": advi.real(), "log_sd": advi.real(), "effect": advi.real(60)})
GROUP = np.repeat(np.arange(60), 3)
RATES = np.exp(0.5 + 0.4 * np.random.default_rng(4).standard_normal(60))
COUNTED = {"group": GROUP, "n": np.random.default_rng(5).poisson(RATES[GROUP]).astype(float)}


def test_it_is_as_good_as_full_rank():
    """The optimum of full rank has the precision of a mean Hessian, which is sparse."""
    sparse = advi.fit(COUNTS, COUNTED, family="sparse", diagnose=False)
    full = advi.fit(COUNTS, COUNTED, family="full_rank", diagnose=False)
    assert sparse.status == "converged"
    assert sparse.elbo.value == pytest.approx(full.elbo.value, abs=0.05)
    for name in COUNTS.latents:
        np.testing.assert_allclose(sparse.sd()[name], full.sd()[name], rtol=0.1)
        away = (sparse.mean()[name] - full.mean()[name]) / full.sd()[name]
        np.testing.assert_allclose(away, 0, atol=0.1)


def test_the_same_key_gives_the_same_bits_and_ctrl_c_what_there_is():
    first, second = (
        advi.fit(COUNTS, COUNTED, family="sparse", diagnose=False, key=7) for _ in range(2)
    )
    assert first.elbo == second.elbo
    seen = []

    def stop(progress):
        seen.append(progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    cut = advi.fit(COUNTS, COUNTED, family="sparse", diagnose=False, callback=stop)
    assert cut.status == "interrupted"
    assert np.isfinite(cut.sample(3)["mu"]).all()
    stopped = advi.fit(COUNTS, COUNTED, family="sparse", diagnose=False, max_steps=4)
    assert stopped.status == "max_steps"
    on = advi.fit(COUNTS, COUNTED, family="sparse", diagnose=False, init=stopped)
    assert on.elbo.value == pytest.approx(first.elbo.value, abs=0.05)


def two_parameter_items(z, d):
    logits = z["slope"] * (z["person"][:, None] - z["item"])
    return (
        -z["spread"]
        + norm.logpdf(z["log_slope"], 0, z["spread"]).sum()
        + norm.logpdf(z["item"], 0, 2).sum()
        + norm.logpdf(z["person"]).sum()
        + jax.nn.log_sigmoid(jnp.where(d["y"] == 1, logits, -logits)).sum()
    )


def test_steps_go_on_where_the_curvature_misleads():
    """Products of latents: far from the optimum no Newton step raises the ELBO, but one by the
    present scale does."""
    rng = np.random.default_rng(5)
    person, item = rng.standard_normal(120), rng.standard_normal(12)
    slope = np.exp(0.3 * rng.standard_normal(12))
    probability = 1 / (1 + np.exp(-slope * (person[:, None] - item)))
    data = {"y": rng.binomial(1, probability).astype(float)}

    def log_joint(z, d):
        return two_parameter_items({**z, "slope": jnp.exp(z["log_slope"])}, d)

    latents = {
        "spread": advi.positive(),
        "log_slope": advi.real(12),
        "item": advi.real(12),
        "person": advi.real(120),
    }
    model = advi.Model(log_joint, latents)
    elbos = [
        advi.fit(model, data, family="sparse", key=key, diagnose=False).elbo.value for key in (0, 3)
    ]
    np.testing.assert_allclose(elbos, -855.1, atol=1.0)  # full rank: -855.10


def test_a_budget_leaves_an_elbo_and_no_false_alarm():
    fit = advi.fit(CROSSED, DATA, family="sparse", max_steps=3)
    assert fit.status == "max_steps"
    assert np.isfinite(fit.elbo.value)
    assert not any("no posterior" in reason for reason in fit.verdict.reasons)


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match="restarts: got 3, and a Gaussian with a sparse precision"):
        advi.fit(CROSSED, DATA, family="sparse", restarts=3)
    with pytest.raises(ValueError, match="SparsePrecision covers all latents together"):
        advi.fit(COUNTS, COUNTED, family={"effect": "sparse"})
    with pytest.raises(ValueError, match="SparsePrecision is fitted by the automatic plan"):
        advi.fit(COUNTS, COUNTED, family="sparse", batch_size=10)


def test_a_density_without_a_maximum_is_said_so(monkeypatch):
    monkeypatch.setattr(compare_moments, "CHAIN_SECONDS", 1.0)
    model = advi.Model(lambda z, _: -(jnp.diff(z["x"]) ** 2).sum(), {"x": advi.real(50)})
    fit = advi.fit(model, family="sparse")
    assert fit.verdict == "poor"


def test_auto_takes_it_for_many_latents_that_meet_in_small_numbers():
    def nested(z, d):
        return norm.logpdf(z["a"], z["mu"], 0.5).sum() + norm.logpdf(d, z["a"]).sum()

    y = np.random.default_rng(6).standard_normal(1100) * np.sqrt(1.25) + 2
    model = advi.Model(nested, {"mu": advi.real(), "a": advi.real(1100)})
    fit = advi.fit(model, y, diagnose=False)
    assert "auto chose sparse precision, 1,101 latents, 2,201 entries" in repr(fit)
    # a flat prior: the mean of 1,100 values of variance 1.25
    assert float(fit.mean()["mu"]) == pytest.approx(y.mean(), abs=1e-3)
    assert float(fit.sd()["mu"]) == pytest.approx(np.sqrt(1.25 / 1100), rel=0.1)
    summed = advi.Model(lambda z, d: norm.logpdf(d, jnp.exp(z["a"].sum())) - z["a"] @ z["a"],
                        {"a": advi.real(1100)})  # fmt: skip
    with pytest.raises(ValueError, match="nearly all coordinates meet"):
        advi.fit(summed, 1.0, family="sparse")
