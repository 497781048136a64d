"""Functions of posterior draws: predict(), log_likelihood() and loo()."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from advi.core.draw_set import WeightedDraws
from advi.posterior import predict
from advi.variational.gaussian import Gaussian
from tests import targets
from tests.compiling import compiled

TARGET = targets.conjugate_normal(n=60)
Y = TARGET.data["y"]


@pytest.fixture(scope="module")
def fit():
    return advi.fit(TARGET.model, TARGET.data, diagnose=False)


def test_predict_is_the_function_of_every_draw(fit):
    x = np.arange(7.0, dtype=np.float32)
    out = fit.predict(lambda z, d: {"line": z["x"][0] * d, "mean": z["x"]}, 50, x, key=3)
    draws = np.asarray(fit.sample(50, key=3)["x"])
    np.testing.assert_allclose(out["line"], draws * x, rtol=1e-6)
    np.testing.assert_array_equal(out["mean"], draws)


def test_predict_takes_the_data_of_the_fit_and_rows_of_any_number(fit):
    def standardised(z, d):
        return d["y"] - z["x"][0]

    assert fit.predict(standardised, 3).shape == (3, 60)
    assert fit.predict(standardised, 3, {"y": np.ones(11)}).shape == (3, 11)


def test_predict_compiles_once_whatever_the_number_of_draws(fit):
    calls = []

    def counted(z, d):
        calls.append(1)
        return z["x"] + d["y"].sum()

    first = fit.predict(counted, 300, {"y": Y})
    with compiled() as events:
        outs = [first, *(fit.predict(counted, n, {"y": Y + 1}) for n in (280, 300))]
    assert not events
    assert len(calls) == 3  # once at every call: what it reads from outside may have changed
    assert [len(out) for out in outs] == [300, 280, 300]


def test_draws_are_mapped_in_chunks_that_change_nothing(fit, monkeypatch):
    def noisy(z, d, key):
        return z["x"] + jax.random.normal(key, (4,))

    whole = fit.predict(noisy, 37)
    monkeypatch.setattr(predict, "MAX_DRAWS", 4)
    # sums of two numbers near 2, which may nearly cancel
    np.testing.assert_allclose(fit.predict(noisy, 37), whole, rtol=1e-6, atol=1e-6)


def test_every_draw_has_a_key_of_its_own(fit):
    def noise(z, d, key):
        return jax.random.normal(key)

    out = fit.predict(noise, 4000, key=1)
    # 24 bits of each: two of 4,000 agree by chance, not more
    assert len(set(out.tolist())) > 3990
    assert abs(out.std() - 1) < 5 / np.sqrt(2 * 4000)
    np.testing.assert_array_equal(fit.predict(noise, 4000, key=1), out)
    assert np.all(fit.predict(noise, 10, key=2) != out[:10])


def test_a_wide_function_is_mapped_one_draw_at_a_time(fit):
    wide = 2**23

    def sums(z, d):
        return (z["x"][0] + jnp.arange(wide)).sum()

    assert fit.predict(sums, 3).shape == (3,)
    treedef = jax.tree.structure({"x": 0})
    spec, data = fit.posterior.density.spec, fit.posterior.density.data
    program = predict._program(sums, False, treedef, ((1,),), spec, data, 4, False)
    assert program.num == 1


@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        ("x", TypeError, "expected a function fn"),
        (lambda z: z, TypeError, "or fn"),
        (lambda z, d, key, more: z, TypeError, "expected a function fn"),
    ],
)
def test_what_is_no_such_function_is_refused(fit, fn, error, words):
    with pytest.raises(error, match=words):
        fit.predict(fn, 3)
    with pytest.raises(ValueError, match=r"n: got 0 .*; expected an integer >= 1"):
        fit.predict(lambda z, d: z["x"], 0)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "fn returned None"),
        ({}, r"fn returned \{\}"),
        ("a", "fn returned: got 'a'"),
        (jax.random.key(0), "fn returned a random key"),
        (np.ma.array([1.0, 2.0], mask=[True, False]), "fn returned: got 1 masked entry"),
    ],
)
def test_what_a_function_may_not_return(fit, returned, words):
    with pytest.raises(TypeError, match=f"{words}.*expected"):
        fit.predict(lambda z, d: returned, 3)


def test_an_error_in_the_function_says_what_it_was_called_with(fit):
    with pytest.raises(KeyError) as caught:
        fit.predict(lambda z, d: d["yy"], 3)
    note = "advi called fn with z of shapes {'x': (1,)} and data of shapes {'y': (60,)}."
    assert note in caught.value.__notes__


def test_double_precision_is_kept():
    fit = advi.fit(TARGET.model, TARGET.data, x64=True, diagnose=False)
    assert fit.predict(lambda z, d: z["x"] + d["y"][0], 3).dtype == np.float64
    assert fit.log_likelihood(n=3).dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_log_likelihood_is_that_of_the_rows(fit):
    new = np.array([0.5, -1.0, 2.0])
    for data, y in ((None, Y), ({"y": new}, new)):
        got = fit.log_likelihood(data, n=20, key=4)
        draws = np.asarray(fit.sample(20, key=4)["x"])
        expected = -0.5 * (y - draws) ** 2 - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_log_likelihood_of_a_minibatch_fit_is_not_scaled(fit):
    small = advi.fit(TARGET.model, TARGET.data, batch_size=6, max_steps=128, diagnose=False)
    draws = np.asarray(small.sample(5)["x"])
    expected = -0.5 * (Y - draws) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(small.log_likelihood(n=5), expected, rtol=1e-5)


def test_a_scalar_log_joint_has_no_rows():
    target = targets.gaussian([0.0], [[1.0]])
    fit = advi.fit(target.model, target.data, diagnose=False)
    for ask in (fit.log_likelihood, fit.loo):
        with pytest.raises(ValueError, match=r"returned a scalar.*advi\.Terms"):
            ask()


def left_out(y):
    """The exact log predictive density of each row given the others."""
    variance = 1 / (len(y) - 1 + 1 / 100)
    mean = variance * (y.sum() - y)
    return -0.5 * np.log(2 * np.pi * (1 + variance)) - 0.5 * (y - mean) ** 2 / (1 + variance)


def test_loo_is_the_exact_one(fit):
    found = fit.loo(n=4000)
    exact = left_out(Y)
    # a draw's log-likelihood has an sd of about |y - mean| / sqrt(60), of 4,000 draws
    assert np.all(np.abs(found.pointwise - exact) < 5 * (0.1 + np.abs(Y - Y.mean())) / 7 / 60)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.1)
    assert found.se == pytest.approx(np.sqrt(60 * exact.var(ddof=1)), rel=0.02)
    # of one mean: about the variance of the rows about it, in units of theirs
    assert found.p_loo == pytest.approx(Y.var(), rel=0.15)
    assert len(found.bad) == 0
    assert "below 0.70 in all rows" in repr(found)


def with_posterior(fit, **changes):
    posterior = dataclasses.replace(fit.posterior, **changes)
    return advi.Fit(dataclasses.replace(fit._record, posterior=posterior))


def at(fit, gaussian):
    return with_posterior(fit, params=fit.posterior.guide.params_of(gaussian, np.float32))


def test_loo_corrects_for_an_approximation_that_is_off(fit):
    """A q of 1.3 times the sd and a mean half an sd away gives the same leave-one-out density."""
    loc, scale = fit.posterior.gaussian
    off = at(fit, Gaussian(loc + 0.5 * scale.sds, scale.shrunk(1.3)))
    found = off.loo(n=4000)
    assert found.elpd == pytest.approx(left_out(Y).sum(), abs=0.1)
    naive = off.log_likelihood(n=4000).astype(float)
    uncorrected = -np.log(np.mean(np.exp(-naive), axis=0)).sum()
    assert abs(uncorrected - left_out(Y).sum()) > 3 * abs(found.elpd - left_out(Y).sum())


def test_loo_of_corrected_draws_needs_no_ratio_of_densities(fit):
    X = fit.posterior.gaussian.points(np.random.default_rng(0).standard_normal((5000, 1)))
    weighted = WeightedDraws(X, np.full(len(X), 1 / len(X)))
    corrected = with_posterior(fit, weighted=weighted)
    assert corrected.loo(n=4000).elpd == pytest.approx(left_out(Y).sum(), abs=0.1)


def test_loo_of_given_data(fit):
    assert fit.loo({"y": Y}).elpd == fit.loo().elpd


def test_a_row_that_pulls_the_fit_has_a_bad_khat():
    y = np.append(np.zeros(2), 40.0)
    fit = advi.fit(TARGET.model, {"y": y}, diagnose=False)
    found = fit.loo()
    assert 2 in found.bad
    assert "there the density is too high, as a rule" in repr(found)


def test_loo_says_that_the_fit_is_at_fault_and_not_the_rows(fit):
    """A q of a third of the sd: weights that are bad before any row is left out."""
    loc, scale = fit.posterior.gaussian
    narrow = at(fit, Gaussian(loc, scale.shrunk(1 / 3)))
    found = narrow.loo()
    assert len(found.bad) == 60
    assert found.fit_at_fault
    text = repr(found)
    assert "in 60 of 60 rows" in text
    assert "the approximation is at fault, not the rows" in text
    assert "Next: use fit.corrected().loo()" in text
    corrected = narrow.corrected().loo()
    assert corrected.corrected
    assert not corrected.fit_at_fault
    assert len(corrected.bad) == 0
    assert "from 1000 corrected draws" in repr(corrected)
    assert corrected.elpd == pytest.approx(left_out(Y).sum(), abs=0.2)


def test_rows_that_are_at_fault_are_not_put_down_to_the_fit(fit):
    y = np.append(np.zeros(2), 40.0)
    found = advi.fit(TARGET.model, {"y": y}, diagnose=False).loo()
    assert not found.fit_at_fault
    assert found.khat_fit < 0.5


@pytest.mark.parametrize("n", [0, 99, 1e3, "a"])
def test_loo_needs_draws_with_a_tail(fit, n):
    with pytest.raises(ValueError, match=r"n: got .*; expected an integer >= 100"):
        fit.loo(n=n)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_not_blamed_for_the_tail_of_a_good_fit(seed):
    """A Gaussian for a noise scale has a k-hat below the limit, but in a third of the rows not."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, 2))
    data = {"x": x, "y": x @ np.array([1.0, -2.0]) + rng.standard_normal(100)}

    def regression(z, d):
        prior = dist.Normal(0, 3).log_prob(z["w"]).sum() + dist.HalfNormal(2).log_prob(z["noise"])
        return advi.Terms(prior, dist.Normal(d["x"] @ z["w"], z["noise"]).log_prob(d["y"]))

    model = advi.Model(regression, {"w": advi.real(2), "noise": advi.positive()})
    fit = advi.fit(model, data)
    loo = fit.loo()
    assert len(loo.bad)
    assert loo.fit_at_fault
    assert not len(fit.corrected().loo().bad)
    data["y"][3] = 25.0  # and this row is
    better = advi.fit(model, data).corrected().loo()
    assert list(better.bad) == [3]
    assert not better.fit_at_fault
    assert "in 1 row, most in 3" in repr(better)
