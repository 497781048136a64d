"""check(): what it finds in good models and in bad ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from benchmarks import improper

LATENTS = {"mu": advi.real(), "tau": advi.positive(3)}
Y = np.arange(5.0)


def log_joint(z, d):
    return -0.5 * z["mu"] ** 2 - jnp.sum(z["tau"]) - jnp.sum((d["y"] - z["mu"]) ** 2)


def checked(log_joint, data=None, latents=LATENTS, **arguments):
    return advi.check(advi.Model(log_joint, latents), data, **arguments)


def test_a_good_model_has_no_problem():
    found = checked(log_joint, {"y": Y})
    assert found.ok
    assert found.problems == ()
    assert found.latents.rows == ("mu", "tau")
    assert found.latents["mu"]["real coordinates"] == 1
    assert found.latents["tau"]["real coordinates"] == 3
    np.testing.assert_array_equal(found.latents["used"], [1, 1])
    assert np.all(np.isfinite(found.latents["largest gradient"]))
    notes = " | ".join(found.notes)
    assert "float32" in notes
    assert "a scalar log-joint: no minibatches" in notes
    assert "finite at 16 of 16 points" in notes
    assert "data y: (5,) float32" in notes
    assert "no problem found" in repr(found)


def test_gradients_are_those_of_the_density():
    """Of -100 x^2 / 2: the largest gradient is 100 times the farthest point, at most 2 away."""
    found = checked(lambda z, d: -50 * z["x"] ** 2, latents={"x": advi.real()})
    assert 100 < found.latents["x"]["largest gradient"] <= 200


def test_every_unused_latent_is_a_problem():
    latents = {"a": advi.real(), "b": advi.real(), "s": {"c": advi.positive()}}
    found = checked(lambda z, d: -(z["a"] ** 2), latents=latents)
    assert not found.ok
    assert len(found.problems) == 2
    assert "never uses 'b'" in found.problems[0]
    assert "never uses 's.c'" in found.problems[1]
    np.testing.assert_array_equal(found.latents["used"], [1, 0, 0])
    assert repr(found).count("problem: ") == 2


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_density_that_is_finite_nowhere_is_a_problem(value):
    found = checked(lambda z, d: log_joint(z, d) + value, {"y": Y})
    assert not found.ok
    assert any("finite at none of the points" in problem for problem in found.problems)


def test_a_gradient_that_is_not_finite_is_a_problem_of_its_latent():
    """The square root of zero: a finite value with an infinite slope, behind a where."""
    found = checked(lambda z, d: -(z["mu"] ** 2) - jnp.sum(z["tau"]) + 0 * jnp.sqrt(0 * z["mu"]))
    assert [p for p in found.problems if "gradient of 'mu'" in p]
    assert not [p for p in found.problems if "'tau'" in p]


def test_nan_in_the_data_is_noted_with_leaf_and_row():
    y = np.where(np.arange(5) == 3, np.nan, Y)
    found = checked(log_joint, {"y": y})
    assert not found.ok
    assert any("'y', row 3 is NaN" in note for note in found.notes)


def test_nan_that_is_masked_is_no_problem():
    def masked(z, d):
        return log_joint(z, {"y": jnp.where(jnp.isnan(d["y"]), 0.0, d["y"])})

    found = checked(masked, {"y": np.where(np.arange(5) == 3, np.nan, Y)})
    assert found.ok
    assert any("'y', row 3" in note and "finite all the same" in note for note in found.notes)


def test_rows_are_counted():
    found = checked(
        lambda z, d: advi.Terms(-jnp.sum(z["tau"]), -((d["y"] - z["mu"]) ** 2)), {"y": Y}
    )
    assert found.ok
    assert "5 rows: minibatches are possible" in found.notes[0]


def test_double_precision_is_that_of_the_check_alone():
    found = checked(log_joint, {"y": Y}, x64=True)
    assert "float64" in found.notes[0]
    assert "data y: (5,) float64" in found.notes
    assert not jax.config.jax_enable_x64


def test_the_points_follow_the_key():
    def largest(key):
        return checked(log_joint, {"y": Y}, key=key).latents["largest gradient"]

    np.testing.assert_array_equal(largest(3), largest(3))
    assert np.any(largest(3) != largest(4))


def test_a_latent_without_coordinates_does_no_harm():
    latents = {"a": advi.real(), "b": advi.real(0)}
    found = checked(lambda z, d: -(z["a"] ** 2) - jnp.sum(z["b"] ** 2), latents=latents)
    assert found.ok
    assert found.latents["b"]["largest gradient"] == 0


@pytest.mark.parametrize("name", ["loss: squares", "sign of an exponential prior", "log sigmoid"])
def test_a_log_density_that_does_not_fall_far_out_is_found(name):
    log_joint, latents = improper.DENSITIES[name]
    problems = advi.check(advi.Model(log_joint, latents), improper.data()).problems
    assert any("goes on rising as" in p or "does not fall as" in p for p in problems)


def test_of_a_stream_the_first_batch_is_examined():
    x = np.random.default_rng(0).standard_normal(60)

    def rows(z, d):
        return advi.Terms(-0.5 * z["w"] ** 2, -0.5 * (d["y"] - z["w"] * d["x"]) ** 2)

    def epoch():
        for start in range(0, 60, 20):
            yield {"x": x[start : start + 20], "y": x[start : start + 20]}

    model = advi.Model(rows, {"w": advi.real()})
    found = advi.check(model, epoch, num_rows=60)
    assert found.ok
    assert "of a stream the first batch alone was examined" in found.notes
    assert "data x: (20,) float32" in found.notes
    with pytest.raises(ValueError, match="num_rows: got None"):
        advi.check(model, epoch)
    unused = advi.Model(rows, {"w": advi.real(), "v": advi.real()})
    assert advi.check(unused, epoch, num_rows=60).problems[0].startswith("log_joint never uses 'v'")


def test_a_scale_that_is_declared_real_is_named():
    def two_scales(z, d):
        y = jnp.array([0.3, -0.5, 1.2])
        rows = -0.5 * ((y - z["mu"]) / z["noise"]) ** 2 - jnp.log(z["noise"])
        return rows.sum() - 0.5 * z["mu"] ** 2 - z["noise"] + jnp.log(z["tau"]) - z["tau"]

    real = {"mu": advi.real(), "noise": advi.real(), "tau": advi.real()}
    named = [p for p in advi.check(advi.Model(two_scales, real)).problems if "finite only" in p]
    assert len(named) == 2
    assert "where noise > 0; if that is its support, declare it as advi.positive()" in named[0]
    assert "where tau > 0" in named[1]
    right = {"mu": advi.real(), "noise": advi.positive(), "tau": advi.positive()}
    assert advi.check(advi.Model(two_scales, right)).ok
    below = advi.Model(lambda z, d: jnp.log(-z["a"]) + 3 * z["a"], {"a": advi.real()})
    assert (
        "where a < 0; if that is its support, declare it as advi.less_than(0)"
        in (advi.check(below).problems[0])
    )
