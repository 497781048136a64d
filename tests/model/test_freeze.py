"""What a user's functions read from outside: every fit reads it anew, and keeps what it read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from tests.compiling import compiled

OUTSIDE = {"scale": 1.0}
X = np.zeros(50, np.float32)


class Prior:
    scale = 1.0

    def __call__(self, z, data):
        return -0.5 * jnp.sum((z["m"] / self.scale) ** 2)


PRIOR = Prior()


def of_a_global(z, data):
    return -0.5 * jnp.sum((z["m"] / OUTSIDE["scale"]) ** 2)


def of_an_array(z, data):
    return -0.5 * jnp.sum((X - z["m"]) ** 2)


def in_a_jitted_part(z, data):
    return jax.jit(lambda m: -0.5 * jnp.sum((X - m) ** 2))(z["m"])


def in_a_loop(z, data):
    def body(total, x):
        return total - 0.5 * (x - z["m"]) ** 2 / OUTSIDE["scale"], None

    return jax.lax.scan(body, 0.0, jnp.zeros(5))[0]


@jax.custom_vjp
def halved_square(x):
    return 0.5 * (x / OUTSIDE["scale"]) ** 2


halved_square.defvjp(lambda x: (halved_square(x), x), lambda x, g: (g * x / OUTSIDE["scale"] ** 2,))


def in_a_custom_rule(z, data):
    return -halved_square(z["m"])


def set_scale(value):
    OUTSIDE["scale"] = value


def set_x(value):
    X[:] = value


def set_attribute(value):
    PRIOR.scale = value


@jax.jit
def jitted(x):
    return -0.5 * jnp.sum((x / OUTSIDE["scale"]) ** 2)


def in_a_jitted_function(z, data):
    return jitted(z["m"])


def step(total, x):
    return total - 0.5 * x / OUTSIDE["scale"], None


def in_a_known_body(z, data):
    return jax.lax.scan(step, -0.0, jnp.full(5, z["m"] ** 2))[0]


WIDE = np.zeros(50)  # in float64, which JAX converts, and keeps converted


def of_a_wide_array(m):
    return -0.5 * jnp.sum((WIDE - m) ** 2)


def add_wide(total, m):
    return total + of_a_wide_array(m), None


wide_rule = jax.custom_jvp(of_a_wide_array)
wide_rule.defjvp(lambda at, t: (wide_rule(*at), jnp.sum(jnp.asarray(WIDE) - at[0]) * t[0]))
READERS = {
    "jit": jax.jit(of_a_wide_array),
    "checkpoint": jax.checkpoint(of_a_wide_array),
    "scan": lambda m: jax.lax.scan(add_wide, 0.0, m[None])[0],
    "custom_jvp": wide_rule,
    "cond": lambda m: jax.lax.cond(m < 99, of_a_wide_array, lambda m: -(m**2), m),
}


def set_wide(value):
    WIDE[:] = value


def of_a_reader(reader):
    return lambda z, data: reader(z["m"])


# the function, what changes what it reads, two values of it, and how the density at 1 is then
CASES = {
    "a global": (of_a_global, set_scale, (1.0, 5.0), (-0.5, -0.02)),
    "an array changed in place": (of_an_array, set_x, (0.0, 7.0), (-25.0, -900.0)),
    "an array in a jitted part": (in_a_jitted_part, set_x, (0.0, 7.0), (-25.0, -900.0)),
    "an attribute": (PRIOR, set_attribute, (1.0, 5.0), (-0.5, -0.02)),
    "a global in a loop": (in_a_loop, set_scale, (1.0, 5.0), (-2.5, -0.5)),
    "a global in a jitted function": (in_a_jitted_function, set_scale, (1.0, 5.0), (-0.5, -0.02)),
    "a global in a known body": (in_a_known_body, set_scale, (1.0, 5.0), (-2.5, -0.5)),
    "a global in a custom rule": (in_a_custom_rule, set_scale, (1.0, 5.0), (-0.5, -0.02)),
} | {
    f"a float64 array in a {name}": (of_a_reader(f), set_wide, (0.0, 7.0), (-25.0, -900.0))
    for name, f in READERS.items()
}
# the others pass the same caches of JAX: of functions, of loops and of rules, by other ways
SLOW = {
    "an array in a jitted part",
    "an attribute",
    "a global in a loop",
    "a float64 array in a checkpoint",
    "a float64 array in a cond",
}
ONE = np.ones((1, 1))


quick = functools.partial(advi.fit, diagnose=False)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES]
)
def test_every_fit_reads_anew_and_keeps_what_it_read(case):
    log_joint, change, values, densities = CASES[case]
    model = advi.Model(log_joint, {"m": advi.real()})
    change(values[0])
    first = quick(model)
    change(values[1])
    second = quick(model)
    # the Hessian of the first is compiled only now
    curvature = first.posterior.density.hessian_vector(ONE, ONE)[0, 0]
    np.testing.assert_allclose(first.posterior.density.value(ONE), densities[0], rtol=1e-5)
    np.testing.assert_allclose(second.posterior.density.value(ONE), densities[1], rtol=1e-5)
    assert advi.check(model).ok
    change(values[0])
    with compiled() as events:
        again = quick(model)
        assert again.posterior.density.hessian_vector(ONE, ONE)[0, 0] == curvature
    assert not events
    np.testing.assert_array_equal(
        again.posterior.density.value(ONE), first.posterior.density.value(ONE)
    )
    assert again.elbo == first.elbo


def test_a_function_written_anew_finds_its_programs():
    def model(scale):
        def log_joint(z, data):
            return -0.5 * jnp.sum(jax.nn.softplus(z["m"] / scale) ** 2 + z["m"] ** 2)

        return advi.Model(log_joint, {"m": advi.real(2)})

    first = quick(model(2.0))
    with compiled() as events:
        assert quick(model(2.0)).elbo == first.elbo
    assert not events
    assert quick(model(3.0)).elbo != first.elbo


def test_other_shapes_are_refused_once_the_outside_has_changed():
    def log_joint(z, y):
        return advi.Terms(-0.5 * z["m"] ** 2, rows=-0.5 * ((y - z["m"]) / OUTSIDE["scale"]) ** 2)

    set_scale(1.0)
    fit = quick(advi.Model(log_joint, {"m": advi.real()}), np.arange(5.0))
    set_scale(5.0)
    before = fit.log_likelihood(np.zeros(5))
    with pytest.raises(ValueError, match=r"log_joint reads something from outside.*fit again"):
        fit.log_likelihood(np.zeros(6))
    set_scale(1.0)
    np.testing.assert_allclose(fit.log_likelihood(np.zeros(6))[:, :5], before)


def rows_model():
    def log_joint(z, y):
        return advi.Terms(-0.5 * z["m"] ** 2, rows=-0.5 * (y - z["m"]) ** 2)

    return advi.Model(log_joint, {"m": advi.real()})


def test_an_optimiser_written_in_the_call_finds_its_programs():
    def take(rate):
        return quick(rows_model(), np.arange(8.0), optimizer=optax.adam(rate), max_steps=20)

    first = take(0.01)
    with compiled() as events:
        again = take(0.01)
    assert not events
    np.testing.assert_array_equal(again.elbo_trace, first.elbo_trace)
    assert not np.array_equal(take(0.2).elbo_trace, first.elbo_trace)


def test_a_schedule_is_read_anew():
    optimizer = optax.sgd(lambda step: OUTSIDE["scale"] / (1 + step))
    take = functools.partial(quick, rows_model(), np.arange(8.0), optimizer=optimizer, max_steps=3)
    set_scale(0.0)
    still = take()
    set_scale(0.01)
    moved = take()
    assert still.mean()["m"] == 0
    assert moved.mean()["m"] > 0
    set_scale(0.0)
    with compiled() as events:
        assert take().mean()["m"] == 0
    assert not events


def local_model():
    def log_joint(z, y):
        return advi.Terms(0.0, rows=-0.5 * (y - z["h"]) ** 2, prior=-0.5 * z["h"] ** 2)

    return advi.Model(log_joint, {"h": advi.real(local=True)})


def test_an_encoder_is_read_anew_and_kept():
    def encode(params, y):
        return (params["a"] + OUTSIDE["scale"]) * y[None], jnp.zeros(1)

    y = np.ones(3)
    family = advi.Amortised(encode, {"a": np.zeros(())})
    take = functools.partial(quick, local_model(), y, max_steps=1, optimizer=optax.sgd(0.0))
    set_scale(1.0)
    first = take(family=family)
    set_scale(5.0)
    second = take(init=first, family=first.posterior.guide.blocks[0].family)
    np.testing.assert_allclose(first.mean()["h"], 1, rtol=1e-5)
    np.testing.assert_allclose(second.mean()["h"], 5, rtol=1e-5)
    np.testing.assert_allclose(first.sample(2000, data=y)["h"].mean(), 1, atol=0.1)
    with pytest.raises(ValueError, match="the encoder reads something from outside"):
        first.sample(2, data=np.ones((3,), np.int32))


def test_a_beta_is_read_anew():
    settings = {"family": advi.PerRow(), "optimizer": optax.sgd(0.01), "max_steps": 2}
    take = functools.partial(quick, local_model(), np.arange(3.0), **settings)
    objective = advi.Elbo(beta=lambda step: OUTSIDE["scale"])
    set_scale(1.0)
    first = take(objective=objective).elbo_trace
    set_scale(0.0)
    assert not np.array_equal(take(objective=objective).elbo_trace, first)
    set_scale(1.0)
    with compiled() as events:
        again = take(objective=advi.Elbo(beta=lambda step: OUTSIDE["scale"])).elbo_trace
    assert not events
    np.testing.assert_array_equal(again, first)


class Tempered(advi.Elbo):
    """The evidence lower bound times a factor."""

    def value(self, *args, **kwargs):
        return super().value(*args, **kwargs) * OUTSIDE["scale"]


def test_an_objective_of_one_s_own_is_read_anew():
    settings = {"objective": Tempered(), "optimizer": optax.sgd(0.01), "max_steps": 2}
    take = functools.partial(quick, rows_model(), np.arange(4.0), **settings)
    set_scale(1.0)
    first = take().elbo_trace
    set_scale(2.0)
    np.testing.assert_allclose(take().elbo_trace[0], 2 * first[0], rtol=1e-5)
    set_scale(1.0)
    with compiled() as events:
        np.testing.assert_array_equal(take().elbo_trace, first)
    assert not events


def test_predictions_read_anew():
    fit = quick(rows_model(), np.arange(3.0))

    def function(z, data):
        return z["m"] * 0 + OUTSIDE["scale"]

    for value in (1.0, 5.0):
        set_scale(value)
        assert np.all(fit.predict(function, 4) == value)
    with compiled() as events:
        fit.predict(lambda z, data: z["m"] * 0 + OUTSIDE["scale"], 4)
    assert not events


class Stretched:
    """x -> scale * x, of a scale that may change."""

    event_dim, bijective = 0, True

    def unconstrained_shape(self, shape):
        return tuple(shape)

    def forward(self, x):
        scale = OUTSIDE["scale"]
        return scale * x, jnp.log(jnp.abs(jnp.full_like(x, scale)))

    def inverse(self, value):
        return value / OUTSIDE["scale"]


def test_a_transform_is_read_anew_and_kept():
    model = advi.Model(
        lambda z, data: -0.5 * jnp.sum(z["m"] ** 2), {"m": advi.real(2, transform=Stretched())}
    )
    set_scale(2.0)
    first = quick(model)
    set_scale(5.0)
    second = quick(model)
    for fit, sd in ((first, 0.5), (second, 0.2)):
        np.testing.assert_allclose(fit.posterior.gaussian.sds, sd, rtol=1e-3)
        np.testing.assert_allclose(fit.sd()["m"], 1, rtol=1e-3)
        at_zero = fit.log_prob({"m": np.zeros(2)})
        np.testing.assert_allclose(at_zero, -np.log(2 * np.pi), rtol=1e-3)


def test_a_numpyro_model_is_read_anew():
    def model(y):
        low = numpyro.sample("low", dist.Uniform(0, OUTSIDE["scale"]))
        numpyro.deterministic("twice", low * OUTSIDE["scale"])
        numpyro.sample("y", dist.Normal(low, 1), obs=y)

    model, y = advi.from_numpyro(model), np.full(50, 100.0)
    set_scale(1.0)
    first = quick(model, y)
    set_scale(5.0)
    second = quick(model, y)
    assert 0.9 < first.mean()["low"] <= 1
    assert 4.5 < second.mean()["low"] <= 5
    np.testing.assert_allclose(first.mean()["twice"], first.mean()["low"], rtol=1e-6)
    np.testing.assert_allclose(second.mean()["twice"], 5 * second.mean()["low"], rtol=1e-6)
    set_scale(1.0)
    with compiled() as events:
        assert quick(model, y).elbo == first.elbo
    assert not events
