"""A fit runs on the host: in threads, and not inside of JAX's transformations."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi

Y = np.arange(4.0)
MODEL = advi.Model(lambda z, y: -0.5 * jnp.sum((y - z["m"]) ** 2), {"m": advi.real()})
quick = functools.partial(advi.fit, diagnose=False, progress=False)


def mean_of(y):
    return quick(MODEL, y).mean()["m"]


def mean_around(center):
    model = advi.Model(lambda z, d: -0.5 * (z["m"] - center) ** 2, {"m": advi.real()})
    return quick(model).mean()["m"]


def numpyro_mean(y):
    def model():
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    return quick(advi.from_numpyro(model)).mean()["m"]


INSIDE = {
    "jit": lambda: jax.jit(mean_of)(Y),
    "jit of something else": lambda: jax.jit(lambda s: s * mean_of(Y))(1.0),
    "grad": lambda: jax.grad(lambda y: mean_of(y))(Y),
    "vmap": lambda: jax.vmap(mean_of)(np.ones((3, 4))),
    "grad of what the model closes over": lambda: jax.grad(mean_around)(1.0),
    "vmap of what the model closes over": lambda: jax.vmap(mean_around)(np.ones(3)),
    "a NumPyro model": lambda: jax.grad(lambda y: numpyro_mean(y))(1.0),
    "a start": lambda: jax.grad(lambda s: quick(MODEL, Y, init={"m": s}).mean()["m"])(1.0),
    "check": lambda: jax.jit(lambda y: advi.check(MODEL, y).ok)(Y),
}


@pytest.mark.parametrize("case", INSIDE)
def test_a_fit_inside_a_transformation_says_so(case):
    with pytest.raises(TypeError, match="advi runs this on the host: call it outside jit"):
        INSIDE[case]()


def of_sites(number):
    def model(y):
        x = 0.0
        for i in range(4):
            time.sleep(0.002)  # so that other threads come in between
            x += numpyro.sample(f"m{number}_{i}", dist.Normal(0, 1))
        numpyro.deterministic(f"sum{number}", x)
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    return model


def test_numpyro_models_are_fitted_in_threads():
    def names(number):
        fit = quick(advi.from_numpyro(of_sites(number)), np.full(3, float(number)))
        return number, set(fit.posterior.model.latents), float(fit.mean()[f"sum{number}"])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(names, [0, 1, 2] * 3))
    for number, latents, mean in found:
        assert latents == {f"m{number}_{i}" for i in range(4)}
        # four normals, and three observations of their sum
        assert mean == pytest.approx(number * 3 / (3 + 1 / 4), abs=1e-3)
