"""The plan for many rows: the fit of the plan itself, from a sample and few draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from advi.inference.plan import row_plan
from advi.inference.plan import run as plan_run
from advi.model import row_blocks
from tests.blocks import blocks_of

NUM = 6000
RNG = np.random.default_rng(1)
X = RNG.standard_normal((NUM, 3))
DATA = {
    "x": X,
    "g": np.repeat(np.arange(3), NUM // 3),
    "y": X @ np.array([1.0, -2.0, 0.5]) + RNG.standard_normal(NUM),
}
DATA["g"][100] = 3  # a level with one row
LATENTS = {"w": advi.real(3), "s": advi.positive()}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Count 5,000 rows as many, in blocks of 512."""
    with blocks_of(monkeypatch, 512, least=5000):
        yield


def linear(z, d):
    prior = dist.Normal(0, 10).log_prob(z["w"]).sum() + dist.HalfNormal(5).log_prob(z["s"])
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], z["s"]).log_prob(d["y"]))


def levels(z, d):
    rows = dist.Normal(z["a"][d["g"]] + d["x"] @ z["w"], z["s"]).log_prob(d["y"])
    return advi.Terms(linear(z, d).shared + dist.Normal(0, 10).log_prob(z["a"]).sum(), rows=rows)


def mixture(z, d):
    rows = jax.nn.logsumexp(dist.Normal(z["m"], 0.5).log_prob(d["y"][:, None]), axis=1)
    return advi.Terms(dist.Normal(0, 5).log_prob(z["m"]).sum(), rows=rows)


def fitted(log_joint=linear, latents=LATENTS, data=DATA, **settings):
    return advi.fit(advi.Model(log_joint, latents), data, diagnose=False, **settings)


def by_the_plan(monkeypatch, *args, **settings):
    """Return the fit of the plan on all rows."""
    with monkeypatch.context() as patch:
        patch.setattr(plan_run, "takes_row_plan", lambda density, structure: False)
        return fitted(*args, **settings)


def assert_same(ours, theirs, sds=0.02):
    a, b = ours.posterior.gaussian, theirs.posterior.gaussian
    np.testing.assert_array_less(np.abs(a.loc - b.loc), sds * b.sds)
    np.testing.assert_allclose(a.sds, b.sds, rtol=sds / 2)
    assert abs(ours.elbo.value - theirs.elbo.value) < 4 * np.hypot(ours.elbo.mcse, theirs.elbo.mcse)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_few_gradients_of_all_rows_give_the_same_fit(monkeypatch, family):
    ours, theirs = fitted(family=family), by_the_plan(monkeypatch, family=family)
    assert ours.status == theirs.status == "converged"
    assert ours.diagnostics["num_gradients"] < 200 < theirs.diagnostics["num_gradients"]
    assert_same(ours, theirs)


def test_a_level_with_one_row_is_fitted(monkeypatch):
    latents = LATENTS | {"a": advi.real(4)}
    ours = fitted(levels, latents, family="full_rank")
    assert_same(ours, by_the_plan(monkeypatch, levels, latents, family="full_rank"))
    # almost all of what is known of it is that row
    rest = DATA["y"][100] - X[100] @ np.asarray(ours.mean()["w"])
    assert ours.mean()["a"][3] == pytest.approx(rest, abs=0.05)
    assert ours.sd()["a"][3] == pytest.approx(1.0, rel=0.05)


def test_the_same_key_gives_the_same_bits_and_a_refit_takes_few_gradients():
    first, second = fitted(), fitted()
    np.testing.assert_array_equal(first.mean()["w"], second.mean()["w"])
    again = fitted(init=first)
    assert again.diagnostics["num_gradients"] < 200
    assert_same(again, first)


def test_what_a_sample_does_not_settle_is_for_the_plan(monkeypatch):
    theirs = by_the_plan(monkeypatch)
    monkeypatch.setattr(row_plan, "_on_some", lambda *_: None)
    ours = fitted()
    np.testing.assert_array_equal(ours.mean()["w"], theirs.mean()["w"])


@pytest.mark.slow
def test_several_optima_of_the_sample_are_for_the_plan(monkeypatch):
    latents = {"m": advi.real(2)}
    data = {"y": DATA["y"] + np.where(np.arange(NUM) % 2, 3, -3)}
    ours = fitted(mixture, latents, data, family="mean_field")
    theirs = by_the_plan(monkeypatch, mixture, latents, data, family="mean_field")
    np.testing.assert_array_equal(ours.mean()["m"], theirs.mean()["m"])
    assert ours.diagnostics["num_gradients"] == theirs.diagnostics["num_gradients"]


def test_the_callback_stops_it_with_a_fit():
    seen = []
    fit = fitted(callback=lambda progress: seen.append(progress) or len(seen) == 1)
    assert fit.status == "interrupted"
    assert np.isfinite(fit.elbo.value)
    assert seen[0].num_rows == NUM


def test_an_interrupted_sample_is_a_fit(monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("advi.inference.plan.plan.start_search", interrupted)
    fit = fitted()
    assert fit.status == "interrupted"
    assert np.isfinite(fit.mean()["w"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("key", [0, 1, 2])
def test_a_million_rows(monkeypatch, key):
    monkeypatch.undo()
    row_blocks.row_blocks.cache_clear()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10**6, 10)).astype(np.float32)
    y = rng.random(10**6) < 1 / (1 + np.exp(-x @ rng.standard_normal(10) / 3))

    def logistic(z, d):
        logits = d["x"] @ z["w"]
        rows = d["y"] * logits - jnp.logaddexp(0.0, logits)
        return advi.Terms(dist.Normal(0, 2.5).log_prob(z["w"]).sum(), rows=rows)

    case = logistic, {"w": advi.real(10)}, {"x": x, "y": y.astype(np.float32)}
    ours = fitted(*case, key=key)
    assert ours.diagnostics["num_gradients"] < 200
    assert_same(ours, by_the_plan(monkeypatch, *case, key=key))
