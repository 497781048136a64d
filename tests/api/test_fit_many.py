"""Many fits of one shape by one compiled program."""

import copy
import pickle

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi
from advi.core import interrupts
from advi.diagnostics.examine import examined
from advi.inference.many import run as many_run

NUM, ROWS = 5, 12
RNG = np.random.default_rng(0)
X = RNG.standard_normal((NUM, ROWS, 2))
Y = X @ np.array([1.0, -0.5]) + RNG.standard_normal((NUM, ROWS))
SETS = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]


def regression(z, d):
    prior = dist.Normal(0, 2).log_prob(z["w"]).sum()
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], 1.0).log_prob(d["y"]))


MODEL = advi.Model(regression, {"w": advi.real(2)})


def exact(x, y, weights=None):
    """Posterior mean and covariance of `regression`."""
    weights = np.ones(len(y)) if weights is None else weights
    cov = np.linalg.inv((x.T * weights) @ x + np.eye(2) / 4)
    return cov @ (x.T @ (weights * y)), cov


@pytest.fixture(scope="module")
def fits():
    return advi.fit_many(MODEL, SETS)


def test_fits_are_exact_where_posteriors_are_gaussian(fits):
    for number, (x, y) in enumerate(zip(X, Y, strict=True)):
        mean, cov = exact(x, y)
        np.testing.assert_allclose(fits.mean()["w"][number], mean, atol=2e-3)
        np.testing.assert_allclose(fits.sd()["w"][number], np.sqrt(np.diag(cov)), rtol=5e-3)
        np.testing.assert_allclose(fits[number].cov(), cov, atol=2e-3)


def test_each_is_an_ordinary_fit(fits):
    assert len(fits) == NUM
    assert fits.converged.all()
    assert fits.refitted == ()
    assert fits.verdicts == ("good",) * NUM
    alone = advi.fit(MODEL, SETS[2], family="full_rank", diagnose=False)
    last = fits[-3]
    assert last.status == "converged"
    assert last.sample(3)["w"].shape == (3, 2)
    np.testing.assert_allclose(last.mean()["w"], alone.mean()["w"], atol=2e-3)
    assert abs(last.elbo.value - alone.elbo.value) < 0.02
    assert abs(fits.elbo[2] - alone.elbo.value) < 0.02
    assert last.loo().pointwise.shape == (ROWS,)
    assert [fit.elbo.value for fit in fits[1:3]] == fits.elbo[1:3].tolist()
    assert "5 of full_rank" in repr(fits)
    assert "5 good" in repr(fits)


def check_pickle(fits):
    """Check that fits that were pickled once and again are the same."""
    read = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(fits))))
    assert len(read) == len(fits)
    assert repr(read) == repr(fits)
    assert (read.status, read.verdicts, read.refitted) == (
        fits.status,
        fits.verdicts,
        fits.refitted,
    )
    np.testing.assert_array_equal(read.elbo, fits.elbo)
    for ours, theirs in ((read.mean(), fits.mean()), (read.sd(), fits.sd())):
        np.testing.assert_array_equal(ours["w"], theirs["w"])
        assert ours["w"].dtype == theirs["w"].dtype
    for ours, theirs in zip(read, fits, strict=True):
        np.testing.assert_array_equal(ours.mean()["w"], theirs.mean()["w"])


def test_fits_are_pickled_and_copied(fits):
    check_pickle(fits)
    assert copy.deepcopy(fits) is copy.copy(fits) is fits


def test_a_leading_axis_is_a_list(fits):
    stacked = advi.fit_many(MODEL, {"x": X, "y": Y}, diagnose=False)
    np.testing.assert_array_equal(stacked.mean()["w"], fits.mean()["w"])


@pytest.mark.slow
def test_the_last_call_is_padded(fits, monkeypatch):
    monkeypatch.setattr(many_run, "CHUNK", 2)
    done = advi.fit_many(MODEL, SETS, diagnose=False)
    np.testing.assert_allclose(done.mean()["w"], fits.mean()["w"], atol=1e-5)


def test_weights_count_rows(fits):
    weights = RNG.integers(0, 3, (3, ROWS)).astype(float)
    weights[0] = 1
    done = advi.fit_many(MODEL, SETS[1], weights=weights)
    for number, w in enumerate(weights):
        mean, cov = exact(X[1], Y[1], w)
        np.testing.assert_allclose(done.mean()["w"][number], mean, atol=3e-3)
        np.testing.assert_allclose(done.sd()["w"][number], np.sqrt(np.diag(cov)), rtol=5e-3)
    assert done.verdicts == ("good",) * 3
    # of the weighted posterior too
    np.testing.assert_allclose(done[2].corrected().mean()["w"], exact(X[1], Y[1], weights[2])[0],
                               atol=0.03)  # fmt: skip


@pytest.mark.slow
def test_keys_restart():
    keys = [3, jax.random.key(4)]
    done = advi.fit_many(MODEL, SETS[0], keys=keys, diagnose=False)
    assert len(done) == 2
    np.testing.assert_allclose(done.mean()["w"], [exact(X[0], Y[0])[0]] * 2, atol=2e-3)
    again = advi.fit_many(MODEL, SETS[0], key=3, weights=np.ones((1, ROWS)), diagnose=False)
    np.testing.assert_allclose(again.mean()["w"][0], done.mean()["w"][0], atol=1e-5)


@pytest.mark.slow
def test_mean_field_and_points():
    def log_joint(z, y):
        return (
            dist.Normal(0, 5).log_prob(z["mu"])
            + dist.HalfNormal(3).log_prob(z["s"])
            + dist.Normal(z["mu"], z["s"]).log_prob(y).sum()
        )

    model = advi.Model(log_joint, {"mu": advi.real(), "s": advi.positive()})
    y = RNG.normal(1, 2, (4, 30))
    for family in ("mean_field", {"mu": "mean_field", "s": advi.Point()}):
        done = advi.fit_many(model, y, family=family, diagnose=False)
        for number in range(4):
            alone = advi.fit(model, y[number], family=family, diagnose=False)
            mean, sd = done[number].mean(), done[number].sd()
            assert abs(mean["mu"] - alone.mean()["mu"]) < 0.03
            assert abs(mean["s"] - alone.mean()["s"]) < 0.03
            np.testing.assert_allclose(sd["mu"], alone.sd()["mu"], rtol=0.03)
        assert (done.sd()["s"] == 0).all() == isinstance(family, dict)


@pytest.mark.slow
def test_families_without_a_program_are_fitted_one_by_one():
    done = advi.fit_many(MODEL, SETS[:2], family="low_rank", diagnose=False)
    assert done.refitted == (0, 1)
    np.testing.assert_allclose(done.mean()["w"][1], exact(X[1], Y[1])[0], atol=3e-3)


def test_what_has_not_ended_is_fitted_again(monkeypatch):
    from advi.inference.many import program

    monkeypatch.setattr(program, "MAX_EVALS", 1)
    program.program.cache_clear()
    try:
        kept = advi.fit_many(MODEL, SETS[:2], refit=False, diagnose=False)
        assert kept.status == ("max_steps", "max_steps")
        assert kept.refitted == ()
        again = advi.fit_many(MODEL, SETS[:2], diagnose=False)
    finally:
        program.program.cache_clear()
    assert again.refitted == (0, 1)
    assert again.converged.all()
    np.testing.assert_allclose(again.mean()["w"][1], exact(X[1], Y[1])[0], atol=3e-3)


def test_a_data_set_without_a_posterior_loses_no_other():
    bad = [SETS[0], {"x": X[1], "y": np.full(ROWS, np.nan)}, SETS[2]]
    done = advi.fit_many(MODEL, bad)
    assert done.status[1] == "diverged"
    assert "NaN" in done[1].status.message
    assert done.verdicts[0] == done.verdicts[2] == "good"
    assert done.verdicts[1] == "poor"
    mean, sd = done.mean()["w"], done.sd()["w"]
    assert np.isnan(mean[1]).all()
    assert np.isnan(sd[1]).all()
    np.testing.assert_allclose(done.summary()["mean"], mean[[0, 2]].mean(0), rtol=1e-6)
    assert "summary: of 2 fits, without 1 interrupted or diverged" in repr(done)
    check_pickle(done)


def test_ctrl_c_keeps_those_that_have_ended(monkeypatch):
    monkeypatch.setattr(many_run, "CHUNK", 2)
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(interrupts, "check", check)
    done = advi.fit_many(MODEL, SETS, diagnose=False)
    assert done.status == ("converged",) * 4 + ("interrupted",)
    assert np.isfinite(done.mean()["w"][:4]).all()
    assert np.isnan(done.mean()["w"][4]).all()
    np.testing.assert_allclose(done.summary()["mean"], done.mean()["w"][:4].mean(0), rtol=1e-6)
    assert "summary: of 4 fits, without 1 interrupted or diverged" in repr(done)
    check_pickle(done)


def test_a_summary_of_no_posterior_is_nan():
    done = advi.fit_many(MODEL, {"x": X, "y": np.full((NUM, ROWS), np.nan)}, diagnose=False)
    assert np.isnan(done.summary()["mean"]).all()
    assert "summary: of 0 fits, without 5 interrupted or diverged" in repr(done)


def test_numpyro_models_and_double_precision():
    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    done = advi.fit_many(advi.from_numpyro(model), SETS, x64=True, diagnose=False)
    np.testing.assert_allclose(done.mean()["w"][3], exact(X[3], Y[3])[0], atol=1e-4)
    assert done.mean()["w"].dtype == np.float64


def test_the_same_key_has_the_same_bits(fits):
    again = advi.fit_many(MODEL, SETS, diagnose=False)
    np.testing.assert_array_equal(again.mean()["w"], fits.mean()["w"])
    other = advi.fit_many(MODEL, SETS, key=1, diagnose=False)
    assert (other[0].elbo.value != fits[0].elbo.value) or (other.elbo != fits.elbo).any()


SHORT = {"x": X[1][:11], "y": Y[1][:11]}
ROWLESS = advi.Model(lambda z, y: regression(z, y).total(), {"w": advi.real(2)})


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "number 1 has x float32.11, 2., y", lambda: [SETS[0], SHORT]),
        (ValueError, "number 1 has y float32", lambda: [SETS[0], {"y": Y[1]}]),
        (ValueError, "an empty list", lambda: []),
        (ValueError, "one leading axis", lambda: {"x": X, "y": Y[:3]}),
        (TypeError, "read only once", lambda: iter(SETS)),
    ],
)  # fmt: skip
def test_wrong_data_sets(error, message, call):
    with pytest.raises(error, match=message):
        advi.fit_many(MODEL, call())


def test_a_fit_is_no_start_of_many(fits):
    with pytest.raises(TypeError, match=r"^init: got a Fit; expected a dict from [^\n]*\.$"):
        advi.fit_many(MODEL, SETS, init=fits[0])


def test_a_tuple_is_one_pytree(fits):
    pairs = advi.Model(lambda z, d: regression(z, {"x": d[0], "y": d[1]}), {"w": advi.real(2)})
    done = advi.fit_many(pairs, (X, Y), diagnose=False)
    np.testing.assert_allclose(done.mean()["w"], fits.mean()["w"], atol=1e-5)
    with pytest.raises(TypeError) as caught:
        advi.fit_many(MODEL, tuple(SETS))
    assert "Give several data sets as a list" in caught.value.__notes__[-1]


@pytest.mark.parametrize(
    ("message", "model", "options"),
    [
        (r"expected \(n, 12\)", MODEL, {"weights": np.ones((2, 11))}),
        ("number 1 are negative", MODEL, {"weights": np.array([np.ones(12), -np.ones(12)])}),
        ("returned a scalar", ROWLESS, {"weights": np.ones((2, 12))}),
        ("weights and keys", MODEL, {"weights": np.ones((2, 12)), "keys": [0, 1]}),
        ("keys: got none", MODEL, {"keys": []}),
    ],
)
def test_wrong_weights_and_keys(message, model, options):
    with pytest.raises(ValueError, match=message):
        advi.fit_many(model, SETS[0], **options)


def test_wrong_index(fits):
    with pytest.raises(IndexError, match="one of 5 fits"):
        fits[5]
    with pytest.raises(TypeError, match="expected an integer"):
        fits["a"]


def test_a_density_without_a_posterior_is_not_called_good():
    """A linear log density has even weights wherever its Gaussian is."""
    linear = advi.Model(lambda z, y: z["m"] + 0.0 * y.sum(), {"m": advi.real()})
    loss = advi.Model(lambda z, y: 0.5 * ((y - z["m"]) ** 2).sum(), {"m": advi.real()})
    for model in (linear, loss):
        assert advi.fit_many(model, Y[:2]).verdicts == ("poor", "poor")


def scales(z, d):
    """The scale of normal rows: the fewer, the more skewed is its posterior."""
    return -z["s"] + dist.Normal(0, z["s"]).log_prob(d).sum()


@pytest.mark.parametrize(("rows", "asked"), [(100, 0), (3, 2)])
def test_verdicts_are_by_the_programs_importance_sampling_where_it_suffices(
    monkeypatch, rows, asked
):
    alone = []
    monkeypatch.setattr(
        "advi.api.fit_many.examined", lambda record: alone.append(1) or examined(record)
    )
    model = advi.Model(scales, {"s": advi.positive()})
    data = np.random.default_rng(1).standard_normal((2, rows))
    fits = advi.fit_many(model, data)
    assert len(alone) == asked
    one = advi.fit(model, data[0], family="full_rank")
    known, own = (fit.diagnostics["mean_shift"]["s"] for fit in (fits[0], one))
    assert abs(known - own) < 0.05


def test_one_fit_by_the_compiled_plan_has_the_bits_of_many(fits):
    one = advi.fit(MODEL, SETS[0], family="full_rank", compile=True)
    assert one.status == "converged"
    assert one.verdict.level == "good"
    np.testing.assert_array_equal(one.posterior.gaussian.loc, fits[0].posterior.gaussian.loc)
    again = advi.fit(MODEL, SETS[0], compile=True, diagnose=False, init=one)
    np.testing.assert_allclose(again.mean()["w"], one.mean()["w"], atol=2e-3)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("compile: got 1 .*expected True or False", {"compile": 1}),
        ("leave out `restarts`", {"restarts": 2}),
        ("leave out `restarts` and `max_steps`", {"max_steps": 20}),
        ("callback: the compiled plan calls none", {"callback": print}),
        ("compile: steps of an optimiser", {"batch_size": 4}),
        ("compile: got .*low.*rank.*Leave compile out", {"family": "low_rank"}),
    ],
)
def test_what_the_compiled_plan_refuses(message, options):
    with pytest.raises((TypeError, ValueError), match=message):
        advi.fit(MODEL, SETS[0], **{"compile": True, **options})


def test_weights_of_rows_stay_in_what_is_made_of_a_fit():
    """Without weight the posterior is the prior, whatever goes on from the fit."""
    weighted = advi.fit_many(MODEL, SETS[0], weights=np.zeros((2, ROWS)), diagnose=False)[0]
    chains = weighted.nuts(num_samples=300, num_warmup=200)
    for found in (weighted, weighted.refine("mean_field"), chains):
        np.testing.assert_allclose(found.sd()["w"], 2, rtol=0.15)
    assert weighted.diagnostics["num_gradients"] > 100
    for alone in (weighted.loo, lambda: weighted.kfold(3)):
        with pytest.raises(ValueError, match="the rows of this fit have weights"):
            alone()


def test_models_without_data_compile():
    model = advi.Model(lambda z, _: -(z["a"] ** 2), {"a": advi.real()})
    fit = advi.fit(model, compile=True, diagnose=False)
    np.testing.assert_allclose(fit.sd()["a"], np.sqrt(0.5), rtol=1e-3)
