"""log_density(): the log density on R^D, against the change of variables by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi

Y = np.linspace(-1, 2, 7).astype("f4")


def log_joint(z, y):
    prior = dist.Normal(0, 2).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["scale"]["s"])
    return advi.Terms(prior, rows=dist.Normal(z["w"].sum(), z["scale"]["s"]).log_prob(y))


LATENTS = {"w": advi.real(2), "scale": {"s": advi.positive()}}
MODEL = advi.Model(log_joint, LATENTS)
LOG_P = advi.log_density(MODEL, Y)
POINTS = jax.random.normal(jax.random.key(0), (5, 3))


def test_it_is_the_log_joint_and_the_log_jacobian():
    @jax.jit
    def by_hand(x):
        jacobian = jax.jacobian(lambda x: jax.flatten_util.ravel_pytree(LOG_P.unravel(x))[0])(x)
        return log_joint(LOG_P.unravel(x), Y).total() + jnp.linalg.slogdet(jacobian)[1]

    for x in POINTS:
        np.testing.assert_allclose(LOG_P(x), by_hand(x), rtol=1e-5)


def test_it_can_be_transformed():
    by_one = [LOG_P(x) for x in POINTS]
    np.testing.assert_allclose(jax.jit(jax.vmap(LOG_P))(POINTS), by_one, rtol=1e-6)
    slopes = jax.jit(jax.vmap(jax.grad(LOG_P)))(POINTS)
    step = 1e-2 * jnp.eye(3)[0]
    rise = (LOG_P(POINTS[0] + step) - LOG_P(POINTS[0] - step)) / 2e-2
    np.testing.assert_allclose(slopes[0, 0], rise, rtol=1e-2)


def test_ravel_is_the_inverse_of_unravel():
    assert (LOG_P.dim, LOG_P.init.shape) == (3, (3,))
    found = jax.jit(jax.vmap(lambda x: LOG_P.ravel(LOG_P.unravel(x))))(POINTS)
    np.testing.assert_allclose(found, POINTS, atol=1e-5)
    assert jnp.isnan(LOG_P.ravel({"w": np.zeros(2), "scale": {"s": -1.0}})).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_points_of_other_floats_are_converted(dtype):
    assert LOG_P(np.zeros(3, jnp.dtype(dtype))) == LOG_P(jnp.zeros(3))


SEVERAL = {"w": np.zeros((4, 2)), "scale": {"s": np.ones(4)}}
WRONG = {
    "too short": (lambda: LOG_P(jnp.zeros(2)), r"got shape \(2,\); expected \(3,\)"),
    "too long": (lambda: LOG_P(jnp.zeros(4)), r"got shape \(4,\)"),
    "several": (lambda: LOG_P(POINTS), r"jax\.vmap"),
    "a number": (lambda: LOG_P(1.0), "expected an array of floats"),
    "integers": (lambda: LOG_P(jnp.arange(3)), "expected an array of floats"),
    "a tree": (lambda: LOG_P(SEVERAL), "expected an array of floats"),
    "several trees": (lambda: LOG_P.ravel(SEVERAL), r"'w': got shape \(4, 2\); expected \(2,\)"),
    "unravel too long": (lambda: LOG_P.unravel(jnp.zeros(4)), r"got shape \(4,\)"),
    "a stream": (lambda: advi.log_density(MODEL, lambda: [Y], num_rows=7), "all rows"),
    "no data": (lambda: advi.log_density(MODEL), "second argument, data"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_says_what_was_expected(case):
    call, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
