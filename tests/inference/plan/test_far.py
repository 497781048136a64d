"""Nothing looks far out on a density with a loop that runs until something has converged."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax.experimental.ode import odeint

import advi
from advi.model.density import Density

T = np.linspace(0, 4, 5).astype(np.float32)
Y = np.exp(-0.7 * T) + np.float32(0.05) * np.array([0, 1, -1, 1, -1], np.float32)


@pytest.fixture
def farthest(monkeypatch):
    """The largest coordinates that a density was evaluated at."""
    seen, evaluate = [], Density._evaluate

    def spy(self, quantity, *arrays, **settings):
        seen.append(np.abs(arrays[0]).max())
        return evaluate(self, quantity, *arrays, **settings)

    monkeypatch.setattr(Density, "_evaluate", spy)
    return seen


def decay(z, d):
    s = odeint(lambda x, t: -z["k"] * x, jnp.float32(1.0), d["t"])
    prior = dist.LogNormal(0, 1).log_prob(z["k"]) + dist.HalfNormal(1).log_prob(z["s"])
    return prior + dist.Normal(s, z["s"]).log_prob(d["y"]).sum()


@pytest.mark.slow  # short: test_no_look_goes_far, of a loop that is quick to compile
def test_an_equation_is_not_solved_where_it_is_stiff(farthest):
    def guarded(z, d):  # where a solver would not return
        return decay(z | {"k": jnp.minimum(z["k"], jnp.exp(8.0))}, d)

    model = advi.Model(guarded, {"k": advi.positive(), "s": advi.positive()})
    advi.fit(model, {"t": T, "y": Y}, diagnose=False, max_steps=20)
    assert max(farthest) < 10  # where climbs lead
    fit = advi.fit(model, {"t": T, "y": Y}, diagnose=False)
    assert fit.status == "converged"
    assert abs(fit.mean()["k"] - 0.7) < 0.1
    assert max(farthest) < 20


def looped(z, d):
    """A log density whose loop always ends."""
    return -(z["a"] ** 2) / 2 + jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, d["x"])


@pytest.mark.parametrize("used", [True, False])
def test_no_look_goes_far(farthest, used):
    model = advi.Model(
        lambda z, d: looped(z, d) + (0 * z["b"] if not used else -(z["b"] ** 2)),
        {"a": advi.real(), "b": advi.real()},
    )
    data = {"x": np.float32(0)}
    advi.fit(model, data, optimizer=optax.adam(1e-3), max_steps=2, diagnose=False)
    if used:
        advi.check(model, data)
        advi.fit(model, data)
    else:
        advi.fit(model, data, max_steps=10, diagnose=False)
    assert max(farthest) < 8


def test_the_last_search_for_a_finite_value_stays_near(farthest):
    model = advi.Model(lambda z, d: looped(z, d) + jnp.nan, {"a": advi.real()})
    for how in ({}, {"optimizer": optax.adam(1e-3), "max_steps": 2}):
        with pytest.raises(ValueError, match="up to 6 from the start"):
            advi.fit(model, {"x": np.float32(0)}, **how)
    assert max(farthest) <= 6
