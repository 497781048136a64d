"""Simulation-based calibration: right models are called so, planted errors are found."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from advi.diagnostics.uniformity import bands, p_value

N, NUM = 6, 200
X2 = np.zeros(2)


def log_joint(z, y):
    prior = dist.Normal(0, 1).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["s"])
    return prior + dist.Normal(z["mu"], 0.5 + z["s"]).log_prob(y).sum()


MODEL = advi.Model(log_joint, {"mu": advi.real(), "s": advi.positive()})


def simulate(key, prior_sd=1.0):
    drawn = jax.random.normal(key, (N + 2,))
    mu, s = prior_sd * drawn[0], jnp.abs(drawn[1])
    return {"mu": mu, "s": s}, mu + (0.5 + s) * drawn[2:]


def test_a_right_model_is_calibrated():
    found = advi.calibrate(MODEL, jax.jit(simulate), NUM)
    assert found.names == ("mu", "s")
    assert found.ranks.shape == (NUM, 2)
    assert found.failed == ()
    assert found.verdict == {"mu": "calibrated", "s": "calibrated"}
    assert found.ok
    assert "calibrated: all" in repr(found)


def test_a_wrong_prior_is_found():
    found = advi.calibrate(MODEL, jax.jit(lambda key: simulate(key, 3.0)), NUM)
    assert found.verdict["mu"] == "too narrow"
    assert not found.ok
    assert "mu: too narrow" in repr(found)


@pytest.mark.slow
def test_plain_ranks_are_those_of_the_approximation():
    """Of a mean field with strong correlations the sds are too small."""

    def correlated(z, y):
        prior = dist.Normal(0, 1).log_prob(z["a"]) + dist.Normal(0, 1).log_prob(z["b"])
        return prior + dist.Normal(z["a"] + z["b"], 0.3).log_prob(y).sum()

    def of_key(key):
        a, b, *noise = jax.random.normal(key, (5,))
        return {"a": a, "b": b}, a + b + 0.3 * jnp.stack(noise)

    model = advi.Model(correlated, {"a": advi.real(), "b": advi.real()})
    options = {"family": "mean_field", "n": 500}
    plain = advi.calibrate(model, jax.jit(of_key), corrected=False, **options)
    assert plain.verdict == {"a": "too narrow", "b": "too narrow"}
    assert advi.calibrate(model, jax.jit(of_key), **options).ok


def test_bands_hold_uniform_values_as_often_as_they_say():
    rng = np.random.default_rng(1)
    p = np.array([p_value(rng.random(200)) for _ in range(200)])
    assert abs(np.mean(p < 0.1) - 0.1) < 3 * np.sqrt(0.09 / 200)
    assert p_value(rng.beta(0.5, 0.5, 200)) < 1e-3
    band = bands(200, 0.9)
    inside = [
        np.all((f >= band.lower) & (f <= band.upper))
        for f in (np.mean(rng.random(200)[:, None] <= band.at, axis=0) for _ in range(200))
    ]
    assert abs(np.mean(inside) - 0.9) < 3 * np.sqrt(0.09 / 200)


def ragged(key):
    return {"mu": 0.0}, np.zeros(N + jax.random.randint(key, (), 0, 2))


def of_turns(key):
    return {"s" if jax.random.bernoulli(key) else "mu": 0.5}, np.zeros(N)


@pytest.mark.parametrize(
    ("error", "message", "wrong"),
    [
        (TypeError, "a pair of latents", lambda key: {"mu": 0.0}),
        (ValueError, "unknown latent 'nu'", lambda key: ({"nu": 0.0}, np.zeros(N))),
        (ValueError, "data set 0 latent .mu. has shape", lambda key: ({"mu": X2}, np.zeros(N))),
        (ValueError, "data set 0 the data leaf", lambda key: ({"mu": 0.0}, np.full(N, np.nan))),
        (ValueError, "'mu' is not finite", lambda key: ({"mu": np.inf}, np.zeros(N))),
        (ValueError, "simulate: in data set 0 there are no latents", lambda key: ({}, np.zeros(N))),
        (ValueError, "simulate: data set number .* has data float64.[67].", ragged),
        (ValueError, "simulate: in data set .* the latents are (s|mu), in data set 0", of_turns),
    ],
)  # fmt: skip
def test_wrong_simulations(error, message, wrong):
    with pytest.raises(error, match=message):
        advi.calibrate(MODEL, wrong, 20)


def test_the_plot_has_two_panels_for_each_coordinate():
    pytest.importorskip("matplotlib", reason='needs pip install -e ".[plots]"')
    from matplotlib import pyplot

    ranks = np.random.default_rng(0).random((100, 3))
    found = advi.Calibration(("a", "b", "c"), ranks)
    assert found.plot().shape == (2, 3)
    assert [panel.get_title() for panel in found.plot(["c"])[0]] == ["c"]
    with pytest.raises(ValueError, match="unknown coordinate 'd'"):
        found.plot("d")
    pyplot.close("all")
