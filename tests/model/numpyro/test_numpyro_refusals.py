"""What NumPyro models are told when they cannot be fitted, and quirks that are taken care of."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions.transforms import AffineTransform, ExpTransform, SigmoidTransform

import advi

Y = np.random.default_rng(0).standard_normal(8).astype("float32")


def hidden(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with handlers.block(hide=["s"]):
        s = numpyro.sample("s", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu, s), obs=y)


def random_numbers(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    noise = dist.Normal(0, 1).sample(numpyro.prng_key(), y.shape)
    numpyro.sample("y", dist.Normal(mu + noise, 1), obs=y)


def random_numbers_in_scan(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))

    def step(last, y_t):
        noise = dist.Normal(0, 1).sample(numpyro.prng_key())
        numpyro.sample("y", dist.Normal(mu + noise, 1), obs=y_t)
        return last, None

    scan(step, 0.0, y)


def forecast(y, future=3):
    """The scan goes on beyond the observations."""
    drift = numpyro.sample("drift", dist.HalfNormal(1))

    def step(last, _):
        now = numpyro.sample("y", dist.Normal(last, drift))
        return now, now

    with handlers.condition(data={"y": y}):
        scan(step, 0.0, jnp.arange(len(y) + future))


def two_sizes(y):
    with numpyro.plate("a", 4):
        numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("a", len(y)):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)


def masked_discrete(y):
    with handlers.mask(mask=y > 0):
        k = numpyro.sample("k", dist.Poisson(3).expand([8]))
    numpyro.sample("y", dist.Normal(k, 1), obs=y)


def delta_in_scan(y):
    def step(last, y_t):
        known = numpyro.sample("known", dist.Delta(last + 1.0))
        numpyro.sample("y", dist.Normal(known, 1), obs=y_t)
        return last, None

    scan(step, numpyro.sample("mu", dist.Normal(0, 1)), y)


def branch_of_a_latent(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    if jnp.exp(mu) > 1:
        mu = 2 * mu
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (branch_of_a_latent, TypeError, "needs the value of a latent .*Expected functions of jax"),
        (hidden, TypeError, r"hidden has a site 's' that gets no value.*handlers.block"),
        (random_numbers, TypeError, "random_numbers draws random numbers outside of its sample"),
        (random_numbers_in_scan, TypeError, "draws random numbers outside of its sample sites"),
        (forecast, TypeError, "scans over 11 steps, but its site 'y' is given values for fewer"),
        (two_sizes, ValueError, "'a' has the size 4 at one place and 8 at another"),
        (masked_discrete, TypeError, r"'k' is discrete \(Poisson\)"),
        (delta_in_scan, TypeError, r"'known' inside a scan .*numpyro.deterministic\('known'"),
    ],
)
def test_models_that_are_refused(model, kind, message):
    for function in (advi.fit, advi.check):
        with pytest.raises(kind, match=message) as caught:
            function(advi.from_numpyro(model), Y)
        assert "log_joint" not in "".join(getattr(caught.value, "__notes__", []))


def test_assertions_that_say_something_stay():
    def twice(y):
        numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("mu", dist.Normal(0, 1))

    with pytest.raises(AssertionError, match="mu"):
        advi.fit(advi.from_numpyro(twice), Y)


def test_a_site_with_one_possible_value_is_a_deterministic_one():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        three = numpyro.sample("three", dist.Delta(3.0))
        with numpyro.plate("rows", len(y)):
            shift = numpyro.sample("shift", dist.Delta(mu + three))
            numpyro.sample("y", dist.Normal(shift, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), Y, diagnose=False)
    assert list(fit.posterior.model.latents) == ["mu"]
    assert fit.posterior.density.log_joint.num_rows == len(Y)
    draws = fit.sample(5)
    np.testing.assert_array_equal(draws["three"], np.full(5, 3.0))
    np.testing.assert_allclose(draws["shift"], np.repeat(draws["mu"][:, None] + 3, 8, 1), rtol=1e-6)
    np.testing.assert_allclose(fit.mean()["mu"], (Y - 3).sum() / 9, atol=1e-3)


@pytest.mark.parametrize(
    ("parts", "low", "high"),
    [
        ([AffineTransform(0.5, 2.0), SigmoidTransform(), AffineTransform(0.0, 3.0)], 0.0, 3.0),
        ([SigmoidTransform(), AffineTransform(1.0, -2.0)], -1.0, 1.0),
        ([ExpTransform(), AffineTransform(1.0, 1.0)], 1.0, np.inf),
    ],
)
def test_supports_that_transforms_do_not_declare(parts, low, high):
    """An affine map of an interval is an interval, though NumPyro calls it the real line."""

    def model():
        numpyro.sample("x", dist.TransformedDistribution(dist.Normal(0, 1), parts))

    fit = advi.fit(advi.from_numpyro(model), diagnose=False)
    assert abs(fit.elbo.value) < 1e-3  # the Gaussian is exact
    x = fit.sample(500)["x"]
    assert low < x.min() < x.max() < high


def test_a_numpyro_user_is_not_told_of_terms():
    def no_plate(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    program = advi.from_numpyro(no_plate)
    fit = advi.fit(program, Y, diagnose=False)
    for call in (
        lambda: advi.fit(program, Y, batch_size=4),
        lambda: fit.loo(),
        lambda: fit.log_likelihood(),
        lambda: advi.fit(program, Y, optimizer=optax.adam(0.1), eval_data=Y),
    ):
        with pytest.raises(ValueError, match=r"rows='NAME'") as caught:
            call()
        assert "Terms" not in str(caught.value)
        assert "log_joint" not in str(caught.value)


def sized(x, y, size):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("data", size, subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)


def grouped(group, y):
    with numpyro.plate("g", int(np.max(group)) + 1):
        a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group], 1), obs=y)


def chosen(by, y):
    with numpyro.plate("g", 2):
        a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[by], 1), obs=y)


def test_shapes_that_contradict_a_plate_are_told_in_its_words():
    with pytest.raises(TypeError, match=r"site 'y'.*inside of plate 'data' of size 5"):
        advi.fit(advi.from_numpyro(sized), (Y, Y, 5))
    bound = advi.from_numpyro(grouped, group=np.array([0, 1] * 4))
    with pytest.raises(TypeError, match=r"plate 'rows' of size 4.*bound stay as they are"):
        advi.fit(bound, {"y": Y}, batch_size=4, max_steps=10)
    with pytest.raises(TypeError, match=r"chosen takes a part of an array by booleans"):
        advi.fit(advi.from_numpyro(chosen), {"by": Y > 0, "y": Y})


def test_data_are_named_by_the_arguments_of_the_model():
    gap = np.where(np.arange(8) == 3, np.nan, Y)
    with pytest.raises(ValueError, match="The data leaf 'y', row 3 is NaN"):
        advi.fit(advi.from_numpyro(sized), (Y, gap, 8))
    with pytest.raises(TypeError, match=r"bind it, advi\.from_numpyro\(model, name=word\)"):
        advi.fit(advi.from_numpyro(sized), (Y, Y, "all"))


def test_a_latent_by_row_times_a_global_one_is_fitted():
    """Which may change signs together, so that its modes are compared."""

    def factor(x):
        w = numpyro.sample("w", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            h = numpyro.sample("h", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(h * w, 0.3), obs=x)

    fit = advi.fit(advi.from_numpyro(factor), Y, family="mean_field", diagnose=False)
    assert fit.status == "converged"
