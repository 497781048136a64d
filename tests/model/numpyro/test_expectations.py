"""What the test suites of NumPyro, PyMC, Stan and AdvancedVI expect of variational inference.

The tests are our own. Each expectation has one, here or where it stands for other reasons:

======================================================= ===========================================
NumPyro: test_autoguide, test_svi, test_constraints
======================================================= ===========================================
beta_bernoulli, quantiles, predictive of samples        test_beta_bernoulli
logistic_regression, whole and in batches               test_logistic_regression
uniform_normal, dynamic_supports                        test_dynamic_supports
params with constraints, beside latents of the rows     test_parameters_by_maximum_likelihood
improper prior, not identified                          test_an_improper_posterior_is_no_crash
improper prior of a scale, identified                   test_an_improper_prior_of_a_scale
deterministic and param, predictive of another length   test_a_deterministic_site_and_a_parameter
discrete_helpful_error, svi_discrete_latent             test_numpyro_refusals (masked_discrete)
latent on the sphere                                    test_a_latent_on_the_sphere
subsample, scaled by N / B                              test_calling_styles (a_batch_by_itself)
subsample_model_with_deterministic                      test_calling_styles (without_data)
subsampling of autodais, 10 rows of a plate of 20       test_rows_of_a_subsample
subsample_guide: indices substituted, a scan inside     test_indices_that_are_substituted
local latents in a subsampled plate without data        test_latents_of_a_subsample_without_data
autoguide_with_delta_site                               test_numpyro_refusals (one_possible_value)
plate_inconsistent                                      test_numpyro_refusals (two_sizes)
elbo_dynamic_support                                    test_numpyro_refusals (do_not_declare),
                                                        test_a_density_that_is_not_finite
init_to_value                                           test_a_start_at_given_values
normal-normal, gamma-exponential exact                  test_conjugate_models
every constraint with biject_to                         tests/transforms (test_round_trip)
run_with_small_num_steps, stable_run                    test_one_step, test_bad_input (nan_in_a_row)
mutable_state                                           test_numpyro (mutable)
======================================================= ===========================================

======================================================= ===========================================
PyMC: tests/variational
======================================================= ===========================================
fit_oo, fit_data: full, minibatches, a stream           test_calling_styles (batches_of_a_plate)
elbo: the exact value of a conjugate model              test_conjugate_models
total_size, scale_cost_to_minibatch                     test_calling_styles (batches_of_a_plate)
fit_with_nans, a rate that is NaN                       test_a_rate_that_is_not_a_number
fit_start: a start without steps                        test_a_start_at_given_values
fit_fn_text: unknown method, wrong type                 test_an_unknown_family
seeding                                                 test_plan (same_key_same_bits)
posterior predictive of 5 new rows after minibatches    test_predictive (at_other_rows)
callbacks stop                                          test_plan (budget_interrupt_and_callback)
replacements, sample_node                               tests/posterior/test_predict
coordinates and dims                                    tests/results/test_arviz
======================================================= ===========================================

======================================================= ===========================================
AdvancedVI, Stan
======================================================= ===========================================
normal and lognormal, full rank and mean field          test_normal_and_lognormal
Rosenbrock by a factor: no error                        test_rosenbrock
flat improper density                                   test_an_improper_posterior_is_no_crash
======================================================= ===========================================
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer import Predictive
from numpyro.infer.reparam import TransformReparam
from scipy import stats

import advi

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def fitted(model, data=None, **settings):
    return advi.fit(advi.from_numpyro(model), data, diagnose=False, **settings)


def test_beta_bernoulli():
    flips = RNG.binomial(1, [0.8, 0.2], (100, 2))

    def model(y=None, num=100):
        f = numpyro.sample("beta", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
        with numpyro.plate("N", num if y is None else len(y)):
            numpyro.sample("obs", dist.Bernoulli(f).to_event(1), obs=y)

    fit = fitted(model, (flips,))
    exact = (1 + flips.sum(0)) / 102
    np.testing.assert_allclose(fit.mean()["beta"], exact, atol=2e-3)
    assert fit.quantile([0.2, 0.5])["beta"].shape == (2, 2)
    drawn = Predictive(model, fit.sample(1000))(KEY)["obs"]
    assert drawn.shape == (1000, 100, 2)
    np.testing.assert_allclose(drawn.mean((0, 1)), exact, atol=0.02)
    np.testing.assert_allclose(fit.predictive(1000)["obs"].mean((0, 1)), exact, atol=0.02)


@pytest.mark.slow
def test_logistic_regression():
    true, x = np.array([1.0, 2.0, 3.0]), RNG.standard_normal((2000, 3))
    y = RNG.random(2000) < 1 / (1 + np.exp(-x @ true))

    def model(x, y, n):
        coefs = numpyro.sample("coefs", dist.Normal(jnp.zeros(3), jnp.ones(3)).to_event(1))
        with numpyro.plate("N", n, subsample_size=100):
            of_rows = numpyro.subsample(x, event_dim=1)
            values = numpyro.subsample(y, event_dim=0)
            numpyro.sample("obs", dist.Bernoulli(logits=of_rows @ coefs), obs=values)

    whole = fitted(model, (x, y, 2000)).mean()["coefs"]
    batches = fitted(model, (x, y, 2000), batch_size=100, max_steps=2000).mean()["coefs"]
    np.testing.assert_allclose(whole, true, rtol=0.1)
    np.testing.assert_allclose(batches, whole, rtol=0.02)


def product(y):
    alpha = numpyro.sample("alpha", dist.Exponential(1.0))
    loc = numpyro.deterministic("loc", numpyro.sample("u", dist.Uniform(0, 1)) * alpha)
    numpyro.sample("obs", dist.Normal(loc, 0.1), obs=y)


def dependent(y):
    alpha = numpyro.sample("alpha", dist.Exponential(1.0))
    loc = numpyro.sample("loc", dist.Uniform(0, alpha))
    numpyro.sample("obs", dist.Normal(loc, 0.1), obs=y)


@handlers.reparam(config={"loc": TransformReparam()})
def reparametrised(y):
    alpha = numpyro.sample("alpha", dist.Exponential(1.0))
    scaled = transforms.AffineTransform(0, alpha)
    loc = numpyro.sample("loc", dist.TransformedDistribution(dist.Uniform(0, 1), scaled))
    numpyro.sample("obs", dist.Normal(loc, 0.1), obs=y)


def test_dynamic_supports():
    y = np.full(20, 0.3)
    fits = [fitted(model, (y,)) for model in (product, dependent, reparametrised)]
    elbos = [fit.elbo.value for fit in fits]
    np.testing.assert_allclose(elbos, elbos[0], atol=1e-3)
    for fit in fits:
        np.testing.assert_allclose(fit.mean()["loc"], 0.3, rtol=0.05)


def test_parameters_by_maximum_likelihood():
    y = RNG.normal(3.0, 1.5, 50)

    def model(y):
        loc = numpyro.param("loc", 1.0, constraint=constraints.greater_than(-1.0))
        sd = numpyro.param("sd", 1.0, constraint=constraints.softplus_positive)
        with numpyro.plate("rows", len(y)):
            x = numpyro.sample("x", dist.Normal(loc, sd))
            numpyro.sample("obs", dist.Normal(x, 0.5), obs=y)

    found = fitted(model, (y,)).mean()
    np.testing.assert_allclose(found["loc"], y.mean(), atol=1e-3)
    np.testing.assert_allclose(found["sd"], math.sqrt(y.var() - 0.25), atol=1e-3)
    assert found["x"].shape == (50,)


def flat():
    numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(0, 1))


def ridge(y):
    improper = dist.ImproperUniform(constraints.real, (), ())
    total = numpyro.sample("lambda1", improper) + numpyro.sample("lambda2", improper)
    numpyro.sample("obs", dist.Normal(total, 1.0), obs=y)


def test_an_improper_posterior_is_no_crash():
    with pytest.raises(ValueError, match="x: the posterior of that entry is improper"):
        fitted(flat)
    program, data = advi.from_numpyro(ridge), (np.ones(10),)
    fit = advi.fit(program, data, family="full_rank", diagnose=False)
    assert fit.status in ("diverged", "max_steps")
    assert not fit.verdict
    assert "improper" in str(advi.check(program, data))


@pytest.mark.slow
def test_an_improper_prior_of_a_scale():
    y = RNG.standard_normal(100)

    def model(y):
        sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("obs", dist.Normal(0, sigma), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (y,))
    # sigma^2 is inverse gamma with shape (n - 1) / 2
    shape, scale = (len(y) - 1) / 2, y @ y / 2
    exact = math.sqrt(scale) * math.exp(math.lgamma(shape - 0.5) - math.lgamma(shape))
    np.testing.assert_allclose(fit.mean()["sigma"], exact, rtol=2e-3)
    assert fit.verdict


def test_a_deterministic_site_and_a_parameter():
    x, y = np.arange(6.0), np.arange(6.0) * 0.5

    def model(x, y=None):
        slope = numpyro.param("slope", 0.0)
        b = numpyro.sample("b", dist.Normal(0, 1))
        mean = numpyro.deterministic("mean", b + slope * x)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    fit = fitted(model, (x, y))
    draws = fit.sample(20)
    assert draws["mean"].shape == (20, 6)
    new = np.linspace(0, 1, 11)
    found = fit.predictive(20, (new,))
    np.testing.assert_allclose(
        found["mean"], draws["b"][:, None] + draws["slope"][:, None] * new, rtol=1e-5, atol=1e-6
    )
    others = {name: v for name, v in draws.items() if name not in ("mean", "slope")}
    given = handlers.substitute(model, data={"slope": draws["slope"][0]})
    theirs = Predictive(given, others)(KEY, new)
    np.testing.assert_allclose(theirs["mean"], found["mean"], rtol=1e-5, atol=1e-6)


def test_a_latent_on_the_sphere():
    y = np.array([0.0, 0.6, 0.8]) + 0.1 * RNG.standard_normal((30, 3))

    def model(y):
        loc = numpyro.sample("loc", dist.ProjectedNormal(jnp.zeros(3)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(loc, 0.1).to_event(1), obs=y)

    draws = fitted(model, (y,)).sample(100)["loc"]
    np.testing.assert_allclose(np.linalg.norm(draws, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(draws.mean(0), [0.0, 0.6, 0.8], atol=0.05)


# Subsamples.


def test_rows_of_a_subsample():
    y = RNG.standard_normal(10)

    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        with numpyro.plate("rows", 20, subsample_size=10):
            numpyro.sample("y", dist.Normal(loc, 1), obs=numpyro.subsample(y, event_dim=0))

    fit = fitted(model, (y,))  # of 20 rows, as in NumPyro
    np.testing.assert_allclose(fit.mean()["loc"], 2 * y.sum() / 21, atol=1e-4)
    np.testing.assert_allclose(fit.sd()["loc"], 21**-0.5, rtol=1e-3)


def test_indices_that_are_substituted():
    y = RNG.standard_normal((3, 20))  # along the first axis time, along the second the rows

    def model(y, rows, size):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        with handlers.substitute(data={"rows": rows}):
            plate = numpyro.plate("rows", size, subsample_size=len(rows))

        def step(last, y_t):
            with plate:
                state = numpyro.sample("state", dist.Normal(loc, 1))
                numpyro.sample("y", dist.Normal(state, 1), obs=y_t)
            return last, None

        scan(step, 0.0, y)

    rows = np.arange(5, 15)
    fit = fitted(model, (y[:, rows], rows, 20))  # each row counts twice
    assert fit.sample(3)["state"].shape == (3, 3, 10)
    # without the states the observations have the variance two
    np.testing.assert_allclose(fit.mean()["loc"], y[:, rows].sum() / 31, atol=1e-3)
    whole = fitted(model, (y, np.arange(20), 20))
    np.testing.assert_allclose(whole.mean()["loc"], y.sum() / 2 / 31, atol=1e-3)
    np.testing.assert_allclose(whole.sd()["loc"], 31**-0.5, rtol=1e-3)


def test_latents_of_a_subsample_without_data():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 10, subsample_size=5):
            numpyro.sample("x", dist.Normal(mu, 1))

    fit = fitted(model)
    assert fit.sample(3)["x"].shape == (3, 10)
    assert fit.elbo.value == pytest.approx(0, abs=1e-3)


class TooWide(dist.Distribution):
    """The uniform distribution on (0, 3), which declares all real numbers as its support."""

    support = constraints.real

    def log_prob(self, value):
        return jnp.where((value > 0) & (value < 3), -jnp.log(3.0), self.outside)

    def __init__(self, outside):
        self.outside = outside
        super().__init__()


@pytest.mark.parametrize("outside", [pytest.param(-np.inf, marks=pytest.mark.slow), np.nan])
def test_a_density_that_is_not_finite_at_some_draws(outside):
    def model(y):
        x = numpyro.sample("x", TooWide(outside))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (0.1,), family="full_rank")
    assert not fit.verdict
    (said,) = [reason for reason in fit.verdict.reasons if "of the draws of the fit" in reason]
    assert f"as {outside} at x = " in said
    assert "is the support of each latent" in said
    assert "finite only where x > 0" in str(advi.check(advi.from_numpyro(model), (0.1,)))


# Starts, steps and exact values.


def test_a_start_at_given_values():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    model, data = advi.from_numpyro(model), (np.zeros(3),)
    svi = advi.svi(model, data, optimizer=optax.adam(0.1), init={"mu": 17.0})
    fit = svi.result(svi.init(0))
    assert float(fit.mean()["mu"]) == pytest.approx(17.0)


def test_one_step():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = fitted(model, (np.zeros(3),), optimizer=optax.adam(0.1), max_steps=1)
    assert fit.status == "max_steps"
    assert math.isfinite(fit.elbo.value)


def test_a_rate_that_is_not_a_number():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = fitted(model, (np.zeros(3),), optimizer=optax.sgd(float("nan")), max_steps=300)
    assert fit.status == "diverged"
    assert "non-finite ELBO or gradient" in fit.status.message
    assert float(fit.mean()["mu"]) == 0  # where it began


def test_an_unknown_family():
    def model():
        numpyro.sample("mu", dist.Normal(0, 10))

    with pytest.raises(ValueError, match="mean_field"):
        fitted(model, family="advii")
    with pytest.raises(TypeError, match="family"):
        fitted(model, family=10)


def test_conjugate_models():
    y = RNG.normal(1.0, 1.0, 8)

    def normal(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = fitted(normal, (y,))
    precision = 8 + 1 / 4
    np.testing.assert_allclose(fit.mean()["mu"], y.sum() / precision, rtol=1e-5)
    np.testing.assert_allclose(fit.sd()["mu"], precision**-0.5, rtol=1e-5)
    evidence = stats.multivariate_normal(np.zeros(8), np.eye(8) + 4).logpdf(y)
    assert fit.elbo.value == pytest.approx(evidence, abs=1e-4)

    waits = RNG.exponential(2.0, 10)

    def exponential(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Exponential(rate), obs=y)

    fit, shape, rate = fitted(exponential, (waits,)), 12.0, 2 + waits.sum()
    np.testing.assert_allclose(fit.mean()["rate"], shape / rate, rtol=0.01)
    evidence = math.lgamma(shape) - math.lgamma(2.0) + 2 * math.log(2.0) - shape * math.log(rate)
    assert evidence - 0.05 < fit.elbo.value < evidence + 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"family": "full_rank"},
        {"family": "mean_field"},
        pytest.param(
            {
                "optimizer": optax.adam(0.01),
                "max_steps": 3000,
                "objective": advi.Elbo(draws=10),
                "family": "full_rank",
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_normal_and_lognormal(settings):
    def model():
        numpyro.sample("a", dist.LogNormal(0.5, 0.3))
        numpyro.sample("b", dist.Normal(jnp.full(3, 5.0), jnp.array([0.3, 1.0, 2.0])).to_event(1))

    fit = fitted(model, **settings)
    assert fit.elbo.value == pytest.approx(0.0, abs=0.01)
    np.testing.assert_allclose(fit.mean()["b"], 5.0, atol=0.05)
    np.testing.assert_allclose(fit.sd()["b"], [0.3, 1.0, 2.0], rtol=0.05)


@pytest.mark.slow
def test_rosenbrock():
    def model():
        improper = dist.ImproperUniform(constraints.real, (), ())
        x, y = numpyro.sample("x", improper), numpyro.sample("y", improper)
        numpyro.factor("density", -((1 - x) ** 2) - 5 * (y - x**2) ** 2)

    fit = advi.fit(advi.from_numpyro(model), family="full_rank")
    evidence = math.log(math.pi / math.sqrt(5))
    assert evidence - 2 < fit.elbo.value < evidence + 0.05
    assert not fit.verdict
