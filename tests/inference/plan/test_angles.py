"""Angles: the evidence and the moments wherever the posterior is, one mode and several."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.transforms import Window, log_window
from advi.transforms.windows import log_weight

RNG = np.random.default_rng(0)


def single(z, d):
    return dist.VonMises(d["mean"], d["concentration"]).log_prob(z["x"])


SINGLE = advi.Model(single, {"x": advi.circular()})


def resultant(fit, name="x"):
    """Mean direction and mean resultant length of draws."""
    mean = np.mean(np.exp(1j * np.asarray(fit.sample(20_000)[name], float)), axis=0)
    return np.angle(mean), np.abs(mean)


def bessel_ratio(concentration):
    """I1 / I0, by the trapezoid rule, which is spectral on the circle."""
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    weight = np.exp(concentration * (np.cos(angle) - 1))
    return np.sum(weight * np.cos(angle)) / weight.sum()


def turned(angles, by):
    return np.asarray((angles + by + np.pi) % (2 * np.pi) - np.pi, "float32")


@pytest.mark.parametrize("mean", [0.5, 3.1])
@pytest.mark.parametrize(
    "concentration",
    [0.1, 1.0, 1e4, *(pytest.param(c, marks=pytest.mark.slow) for c in (0.5, 2.0, 5.0, 50.0))],
)
def test_von_mises(concentration, mean):
    """ELBO within 0.02 nats of the evidence, zero; resultant lengths and the verdict are right."""
    fit = advi.fit(SINGLE, {"mean": np.float32(mean), "concentration": np.float32(concentration)})
    assert abs(fit.elbo.value) < 0.02 + 2 * fit.elbo.mcse
    direction, length = resultant(fit)
    # a wrapped normal's length cannot be that of a von Mises of low concentration exactly
    assert length == pytest.approx(
        bessel_ratio(concentration), abs=0.06 if concentration < 1 else 0.02
    )
    if concentration >= 1:
        assert abs(np.angle(np.exp(1j * (direction - mean)))) < 0.05
    assert fit.verdict.level == "good"
    assert not fit._record.outcome.other_modes
    assert fit.status == "converged"


def test_uniform():
    model = advi.Model(lambda z, d: -jnp.log(2 * jnp.pi) + 0 * z["x"], {"x": advi.circular()})
    fit = advi.fit(model)
    assert abs(fit.elbo.value) < 0.02
    assert resultant(fit)[1] < 0.1
    assert fit.verdict.level == "good"


def mean_direction(y):
    mu = numpyro.sample("mu", dist.VonMises(0, 0.1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.VonMises(mu, 5.0), obs=y)


def log_evidence(y):
    grid = np.linspace(-np.pi, np.pi, 20_000, endpoint=False)
    y = y.astype(float)[:, None]
    log_p = 0.1 * np.cos(grid) - np.log(2 * np.pi * np.i0(0.1))
    log_p += np.sum(5 * np.cos(y - grid) - np.log(2 * np.pi * np.i0(5)), axis=0)
    return log_p.max() + np.log(np.sum(np.exp(log_p - log_p.max())) * 2 * np.pi / len(grid))


Y = RNG.vonmises(1.9, 5, 30)


@pytest.mark.parametrize("by", [pytest.param(0.0, marks=pytest.mark.slow), 1.2])
def test_observations_of_a_direction(by):
    """By the plan, by batches, by an optimiser; with the mean next to the cut, too."""
    y = turned(Y, by)
    program, expected = advi.from_numpyro(mean_direction), log_evidence(y)
    direction = np.angle(np.sum(np.exp(1j * y)))
    plan = advi.fit(program, y)
    assert plan.verdict.level == "good"
    assert not plan._record.outcome.other_modes
    steps = {"max_steps": 1000, "diagnose": False}
    batches = advi.fit(program, y, batch_size=10, **steps)
    adam = advi.fit(program, y, optimizer=optax.adam(0.02), **steps)
    for fit, tolerance in ((plan, 1e-3), (batches, 0.02), (adam, 0.05)):
        assert fit.elbo.value == pytest.approx(expected, abs=tolerance)
        # the prior of concentration 0.1 moves the mean by a thousandth
        assert float(fit.mean()["mu"]) == pytest.approx(direction, abs=0.02)
        assert float(fit.sd()["mu"]) == pytest.approx(0.088, rel=0.15)


@pytest.mark.slow  # short: test_observations_of_a_direction, by batches of rows in memory
@pytest.mark.parametrize("by", [0.0, 1.2])
def test_observations_of_a_direction_in_a_stream(by):
    y = turned(Y, by)
    batches = {"data": [y[:15], y[15:]], "num_rows": 30}
    stream = advi.fit(advi.from_numpyro(mean_direction), **batches, max_steps=500, diagnose=False)
    direction = np.angle(np.sum(np.exp(1j * y)))
    assert resultant(stream, "mu")[0] == pytest.approx(direction, abs=0.03)
    assert abs(stream.elbo.value - log_evidence(y)) < 0.1 + 3 * stream.elbo.mcse


def effects(y):
    centre = numpyro.sample("centre", dist.ImproperUniform(dist.constraints.circular, (), ()))
    with numpyro.plate("rows", len(y)):
        phi = numpyro.sample("phi", dist.VonMises(centre, 4.0))
        numpyro.sample("y", dist.VonMises(phi, 3.0), obs=y)


@pytest.mark.slow  # short: test_von_mises on both sides of the cut, and test_angles_of_rows
def test_random_effects_are_the_same_wherever_zero_is():
    """The ELBO and the verdict do not know where the angles are cut."""
    y = RNG.vonmises(RNG.vonmises(0, 4, 20), 3)
    turns = (0.0, 3.1)
    fits = [advi.fit(advi.from_numpyro(effects), turned(y, by)) for by in turns]
    sds = [np.append(fit.sd()["phi"], fit.sd()["centre"]) for fit in fits]
    for fit, sd, by in zip(fits, sds, turns, strict=True):
        assert fit.elbo.value == pytest.approx(fits[0].elbo.value, abs=0.05)
        assert fit.verdict.level == "good"
        np.testing.assert_allclose(sd, sds[0], rtol=0.05)
        np.testing.assert_allclose(
            turned(fit.mean()["phi"] - fits[0].mean()["phi"], -by), 0, atol=0.05
        )


def test_angles_of_rows():
    y = turned(RNG.vonmises(3.0, 3, 24), 0.0)
    whole = advi.fit(advi.from_numpyro(effects), y, family="mean_field", diagnose=False)
    steps = {"family": {"phi": advi.PerRow()}, "max_steps": 1500, "diagnose": False}
    rows = advi.fit(advi.from_numpyro(effects), y, **steps)
    assert rows.elbo.value == pytest.approx(whole.elbo.value, abs=0.15)
    np.testing.assert_allclose(turned(rows.mean()["phi"] - whole.mean()["phi"], 0), 0, atol=0.1)


@pytest.mark.slow  # short: test_angles_of_rows and test_observations_of_a_direction
@pytest.mark.parametrize("concentration", [2.0, 30.0])
def test_two_angles(concentration):
    model = advi.from_numpyro(
        lambda: numpyro.sample(
            "x",
            dist.SineBivariateVonMises(3.0, -1.0, concentration, concentration, correlation=0.5),
        )
    )
    fit = advi.fit(model, diagnose=False)
    assert abs(fit.elbo.value) < 0.04 + 2 * fit.elbo.mcse


def test_two_modes_are_two():
    def log_joint(z, d):
        one, other = (dist.VonMises(at, 10.0).log_prob(z["x"]) for at in (d, d + np.pi))
        return jnp.logaddexp(one, other - 0.3)

    for at in (0.0, 1.6):  # where one mode is half a turn from the start, and where neither is
        fit = advi.fit(
            advi.Model(log_joint, {"x": advi.circular()}), np.float32(at), family="full_rank"
        )
        assert fit.verdict.level == "poor"
        assert "there is more than one mode" in " ".join(fit.verdict.reasons)
        [rival] = fit._record.outcome.other_modes
        assert rival.distance.max() == pytest.approx(np.pi / float(fit.sd()["x"]), rel=0.1)
        assert rival.elbo_difference == pytest.approx(-0.3, abs=0.15)


def test_moments_do_not_know_the_cut():
    fit = advi.fit(SINGLE, {"mean": np.float32(3.1), "concentration": np.float32(50.0)})
    assert float(fit.sd()["x"]) == pytest.approx(50**-0.5, rel=0.02)
    assert float(fit.mean()["x"]) == pytest.approx(3.1, abs=0.01)
    low, high = fit.quantile([0.05, 0.95])["x"]
    assert float(high - low) == pytest.approx(3.29 * 50**-0.5, rel=0.05)
    assert np.all(np.abs(fit.sample(100)["x"]) <= np.pi)


# The weights of the turns


@pytest.mark.parametrize("spread", [1.25, 1.5, 3.0])
def test_weights_of_the_turns_sum_to_one(spread):
    x = np.linspace(-4, 4, 81) + 2 * np.pi * np.arange(-9, 10)[:, None]
    np.testing.assert_allclose(np.exp(log_weight(x, 0.3, spread).value).sum(0), 1, rtol=1e-12)


def test_slopes_and_curvatures_of_weights():
    x = np.linspace(-9, 9, 100)
    with jax.enable_x64(True):
        value = jax.jit(log_window)(x, 0.3)
        slope = jax.jit(jax.vmap(jax.grad(log_window), (0, None)))(x, 0.3)
        curvature = jax.jit(jax.vmap(jax.grad(jax.grad(log_window)), (0, None)))(x, 0.3)
    terms = log_weight(x, 0.3, 1.5)
    np.testing.assert_allclose(terms.value, value, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(terms.slope, slope, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(terms.curvature, curvature, rtol=1e-9, atol=1e-10)


def test_a_window_stays_where_it_suits():
    window = Window.default(np.array([0]))
    assert window.around(np.array([0.05]), np.array([0.3])) is window
    moved = window.around(np.array([2.0]), np.array([0.3]))
    assert moved.center == 2.0
    assert np.all(log_weight(np.linspace(-9, 9, 9), moved.center, moved.lifted().sd).value == 0)


def test_a_density_under_another_window():
    """Value, gradient and Hessian are those of the log density with another weight of turns."""
    fit = advi.fit(SINGLE, {"mean": np.float32(3.1), "concentration": np.float32(5.0)}, x64=True)
    density, step = fit.posterior.density, 1e-5
    assert density.window.center != 0
    X = np.linspace(-6, 6, 9)[:, None]
    log_p = 5 * np.cos(X[:, 0] - np.float32(3.1)) - np.log(2 * np.pi * np.i0(5))
    log_p += density.window.log_weight(X).value
    values, gradients = density.value_and_grad(X)
    np.testing.assert_allclose(values, log_p, rtol=1e-6)
    np.testing.assert_allclose(density.value(X), log_p, rtol=1e-6)
    change = (density.value(X + step) - density.value(X - step)) / (2 * step)
    np.testing.assert_allclose(gradients[:, 0], change, atol=1e-6)
    products = density.hessian_vector(X, 2 * np.ones_like(X))
    change = density.value_and_grad(X + step)[1] - density.value_and_grad(X - step)[1]
    np.testing.assert_allclose(products, change / step, atol=1e-6)
