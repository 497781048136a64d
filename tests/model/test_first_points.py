"""Entries that nothing depends on, and gradients that are not those of the values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.data.spec import prepare
from advi.model.checks.flat import flat_entries
from advi.model.checks.gradients import mismatches
from advi.model.density import Density

RNG = np.random.default_rng(0)
G = RNG.integers(0, 4, 60)
DATA = {"g": G, "y": (0.3 * G + RNG.standard_normal(60)).astype("f")}
quick = functools.partial(advi.fit, diagnose=False)


def normal(x, loc=0.0, scale=1.0):
    return dist.Normal(loc, scale).log_prob(x).sum()


def rows(z, d, used=slice(None)):
    return dist.Normal(z["b"][used][d["g"]], 1).log_prob(d["y"])


def padded(z, d):
    return normal(z["b"][:4]) + rows(z, d).sum()


def empty_category(z, d):
    return rows(z, d).sum()


def of_one_scale(z, d):
    return dist.HalfNormal(1).log_prob(z["s"][0]) + normal(d["y"], 0, z["s"][0])


def masked(z, d):
    return jnp.where(jnp.arange(6) < 4, dist.Normal(0, 1).log_prob(z["b"]), 0.0).sum()


def ragged(z, d):
    return sum(normal(z["b"][i, : i + 1]) for i in range(3))


# latents, and the entries that the density does not depend on
FLAT = {
    "padding": (padded, {"b": advi.real(6)}, "b[4], b[5]:"),
    "one entry": (padded, {"b": advi.real(5)}, "b[4]:"),
    "a category without data": (empty_category, {"b": advi.real(5)}, "b[4]:"),
    "scales": (of_one_scale, {"s": advi.positive(3)}, "s[1], s[2]:"),
    "softplus": (of_one_scale, {"s": advi.positive(3, transform="softplus")}, "s[1], s[2]:"),
    "a mask": (masked, {"b": advi.real(6)}, "b[4], b[5]:"),
    "ragged": (ragged, {"b": advi.real(3, 3)}, "b[0,1], b[0,2], b[1,2]:"),
}
# what looks like it
NOT_FLAT = {
    "bounded": (lambda z, d: normal(z["p"][0]), {"p": advi.unit_interval(3)}),
    "an estimate": (padded, {"b": advi.real(6)}),
    "jumps": (lambda z, d: normal(jnp.floor(z["b"])), {"b": advi.real(2)}),
    "far": (lambda z, d: -jnp.maximum(jnp.abs(z["b"]) - 9, 0).sum(), {"b": advi.real(2)}),
    "a wide prior": (lambda z, d: normal(z["b"], 0, 1e6), {"b": advi.real(2)}),
    "dead units": (
        lambda z, d: normal(jax.nn.relu(z["b"] - 7), 1.0) - 1e-6 * (z["b"][0] ** 2),
        {"b": advi.real(3)},
    ),
}


# the others have the same entries by other operations
SLOW = {"one entry", "softplus", "a mask"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in FLAT]
)
def test_flat_entries_are_named_by_fit_and_check(case):
    log_joint, latents, names = FLAT[case]
    model = advi.Model(log_joint, latents)
    with pytest.raises(ValueError, match="never depends on " + names.replace("[", r"\[")):
        advi.fit(model, DATA)
    [problem] = advi.check(model, DATA).problems
    assert f"never depends on {names}" in problem
    assert "prior" in problem


@pytest.mark.parametrize("case", NOT_FLAT)
def test_entries_that_matter_are_not_called_flat(case):
    log_joint, latents = NOT_FLAT[case]
    model, (data, spec) = advi.Model(log_joint, latents), prepare(DATA, "float32")
    points = frozenset("b") if case == "an estimate" else frozenset()
    density = Density(model, data, spec, points)
    X = RNG.uniform(-2, 2, (32, model.size))
    assert not len(flat_entries(density, X, *density.value_and_grad(X)))


def test_a_flat_estimate_does_no_harm():
    fit = quick(advi.Model(padded, {"b": advi.real(6)}), DATA, family=advi.Point())
    assert fit.status == "converged"


def of_rows(z, d):
    return advi.Terms(0.0, rows=rows(z, d))


@pytest.mark.parametrize("optimizer", [None, optax.adam(0.01)], ids=["", "an optimiser"])
def test_flat_entries_are_named_where_steps_are_on_batches(optimizer):
    take = functools.partial(quick, batch_size=32, optimizer=optimizer, max_steps=2)
    with pytest.raises(ValueError, match=r"never depends on b\[4\]:"):
        take(advi.Model(of_rows, {"b": advi.real(5)}), DATA)


def test_a_category_that_few_rows_have_is_not_an_empty_one():
    rare = {"g": np.append(np.tile(G, 80), 4), "y": np.append(np.tile(DATA["y"], 80), 0.0)}
    fit = quick(advi.Model(of_rows, {"b": advi.real(5)}), rare, batch_size=32, max_steps=2)
    assert fit.status == "max_steps"


def test_a_shift_of_all_is_named_by_check():
    def log_joint(z, d):
        prior = dist.HalfNormal(1).log_prob(z["s"])
        return prior + normal(d["y"], z["a"] + z["b"][d["g"]], z["s"])

    latents = {"a": advi.real(), "b": advi.real(4), "s": advi.positive()}
    [problem] = advi.check(advi.Model(log_joint, latents), DATA).problems
    assert "a - b[0] - b[1] - b[2] - b[3]" in problem
    latents = {"a": advi.real(), "b": advi.zero_sum(4), "s": advi.positive()}
    assert advi.check(advi.Model(log_joint, latents), DATA).ok


@jax.custom_vjp
def wrong_square(x):
    return x**2


wrong_square.defvjp(lambda x: (x**2, x), lambda x, g: (g * x,))


def hidden(z, d):
    return normal(z["b"]) + normal(d["y"], jax.lax.stop_gradient(z["b"])[d["g"]])


def hidden_scale(z, d):
    scale = jnp.exp(jax.lax.stop_gradient(z["s"]))
    return normal(z["a"]) + normal(z["s"]) + normal(d["y"], z["a"] + 3, scale)


# what is no function's gradient, and the latent it is of
WRONG = {
    "stop_gradient": (hidden, {"b": advi.real(4)}, "b"),
    "a hidden scale": (hidden_scale, {"a": advi.real(), "s": advi.real()}, "s"),
    "a custom rule": (
        lambda z, d: normal(z["a"]) - wrong_square(z["b"] - 3).sum(),
        {"a": advi.real(2), "b": advi.real(2)},
        "b",
    ),
}


def hinge(z, d):
    x = d["y"][:, None] * jnp.linspace(-1, 1, 3)
    return normal(z["b"]) - 1e3 * jnp.maximum(0, 1 - x @ z["b"]).sum()


def funnel(z, d):
    return normal(z["s"], 0, 3) + normal(z["x"], 0, jnp.exp(z["s"] / 2))


def relu_network(z, d):
    x = d["y"][:, None] * jnp.linspace(-1, 1, 8)
    h = jax.nn.relu(jax.nn.relu(x @ z["w"]) @ z["w"].T)
    return normal(z["w"]) + normal(d["y"], h.sum(1), 0.1)


RIGHT = {
    "relu": (relu_network, {"w": advi.real(8, 8)}),
    "hinge": (hinge, {"b": advi.real(3)}),
    "funnel": (funnel, {"s": advi.real(), "x": advi.real(9)}),
    "abs": (lambda z, d: -jnp.abs(z["b"] - d["y"][0]).sum(), {"b": advi.real(3)}),
    "floor": (lambda z, d: normal(z["b"]) + normal(jnp.floor(3 * z["b"])), {"b": advi.real(3)}),
    "clip": (lambda z, d: normal(z["b"]) + normal(jnp.clip(z["b"], -1, 1)), {"b": advi.real(3)}),
    "far in float32": (lambda z, d: normal(z["b"], 1e8), {"b": advi.real()}),
    "narrow": (lambda z, d: normal(z["b"], 1e3, 1e-3), {"b": advi.real()}),
    "large": (lambda z, d: 1e6 * (1 + normal(z["b"])), {"b": advi.real(3)}),
    "kinked": (lambda z, d: -(jnp.maximum(z["b"], 3 * z["b"] - 1) ** 2), {"b": advi.real()}),
}


@pytest.mark.parametrize(
    "case",
    ["stop_gradient", pytest.param("a hidden scale", marks=pytest.mark.slow), "a custom rule"],
)
def test_a_gradient_that_is_not_of_the_values_is_named(case):
    log_joint, latents, name = WRONG[case]
    model = advi.Model(log_joint, latents)
    [problem] = advi.check(model, DATA).problems
    assert f"along {name} the gradient" in problem
    fit = advi.fit(model, DATA, family="mean_field")
    assert fit.verdict.level == "poor"
    assert f"Along {name} the gradient" in fit.verdict.reasons[0]
    unchecked = quick(model, DATA, family="mean_field").verdict
    assert unchecked.level == "poor"
    assert unchecked.reasons[: len(fit._record.outcome.alarms)] == fit._record.outcome.alarms


@pytest.mark.parametrize(
    ("case", "float_dtype"),
    [
        *((case, "float32") for case in RIGHT),
        pytest.param("relu", "float64", marks=pytest.mark.slow),
        ("floor", "float64"),
    ],
)
def test_kinks_and_rounding_are_no_mismatch(case, float_dtype):
    log_joint, latents = RIGHT[case]
    with jax.enable_x64(float_dtype == "float64"):
        model, (data, spec) = advi.Model(log_joint, latents), prepare(DATA, float_dtype)
        density = Density(model, data, spec)
        for seed in range(4):
            X = np.random.default_rng(seed).uniform(-3, 3, (32, model.size))
            assert not mismatches(density, X, *density.value_and_grad(X))


class Cubic:
    """x -> x^3 + x."""

    event_dim, bijective = 0, True

    def __init__(self, log_det=lambda x: jnp.log(3 * x**2 + 1), inverse=None):
        self.log_det, self._inverse = log_det, inverse

    def unconstrained_shape(self, shape):
        return tuple(shape)

    def forward(self, x):
        return x**3 + x, self.log_det(x)

    def inverse(self, value):
        if self._inverse is not None:
            return self._inverse(value)
        root = jnp.sqrt(value**2 / 4 + 1 / 27)
        return jnp.cbrt(value / 2 + root) + jnp.cbrt(value / 2 - root)


def test_a_transform_with_a_wrong_log_jacobian_or_inverse_is_named():
    def model(transform):
        return advi.Model(lambda z, d: normal(z["x"]), {"x": advi.real(2, transform=transform)})

    assert advi.check(model(Cubic())).ok
    assert quick(model(Cubic())).status == "converged"
    for transform, match in (
        (Cubic(log_det=jnp.zeros_like), "'x': the log-Jacobian of Cubic is 0 at"),
        (Cubic(inverse=lambda v: v), "'x': the inverse of Cubic leads from"),
    ):
        assert match in advi.check(model(transform)).problems[0]
        with pytest.raises(ValueError, match=match):
            advi.fit(model(transform))


class Above(Cubic):
    """Of one latent whose faults lie on one side of zero."""

    def __init__(self, forward, inverse):
        self.forward, self.inverse = forward, inverse


ONE_SIDED = {
    "log-Jacobian above zero": (
        advi.real,
        Above(lambda x: (x + 3 * jnp.maximum(x, 0), 0 * x), lambda v: jnp.where(v > 0, v / 4, v)),
        r"log-Jacobian of Above is 0 at x = (0|1)\.\d+, and its forward map has 1.386 nats there",
    ),
    "log-Jacobian below zero": (
        advi.real,
        Above(
            lambda x: (x + 3 * jnp.minimum(x, 0), 0 * jnp.abs(x)),
            lambda v: jnp.where(v < 0, v / 4, v),
        ),
        r"log-Jacobian of Above is 0 at x = -(0|1)\.\d+, and its forward map has 1.386 nats there",
    ),
    "NaN of the inverse": (
        advi.positive,
        Above(lambda x: (jnp.exp(x), x), lambda v: jnp.nan * v),
        "inverse of Above leads from forward\\(x\\) to nan",
    ),
    "outside of the support": (
        advi.positive,
        Above(lambda x: (x, 0 * x), lambda v: v),
        r"x = -(0|1)\.\d+ to -(0|1)\.\d+, which is outside of the support Positive",
    ),
}


@pytest.mark.parametrize(("latent", "transform", "match"), ONE_SIDED.values(), ids=ONE_SIDED)
def test_a_fault_of_a_scalar_s_transform_is_found_wherever_it_is(latent, transform, match):
    model = advi.Model(lambda z, d: normal(z["x"]), {"x": latent(transform=transform)})
    with pytest.raises(ValueError, match=match):
        advi.fit(model)


@pytest.mark.parametrize(
    ("forward", "inverse", "match"),
    [
        (jnp.exp, jnp.log, r"forward\(x\) of Above returns an array of shape \(2,\) .* log-Jac"),
        (lambda x: (jnp.exp(x), x.sum()), jnp.log, r"returns arrays of shapes \(\(2,\), \(\)\)"),
        (
            lambda x: (jnp.exp(x), x),
            jnp.sum,
            r"inverse\(value\) of Above returns an array of shape",
        ),
    ],
)
def test_shapes_of_a_transform_are_told(forward, inverse, match):
    latent = advi.positive(2, transform=Above(forward, inverse))
    with pytest.raises(ValueError, match=f"^latent 'x': .*{match}"):
        advi.fit(advi.Model(lambda z, d: normal(z["x"]), {"x": latent}))


def test_values_that_are_rounded_are_no_fault_of_a_transform():
    def forward(x):
        return jnp.tanh(10 * x), jnp.log(40.0) - 20 * x - 2 * jax.nn.softplus(-20 * x)

    transform = Above(forward, lambda v: jnp.arctanh(v) / 10)
    model = advi.Model(
        lambda z, d: normal(z["x"]), {"x": advi.interval(-1, 1, transform=transform)}
    )
    assert quick(model).status == "converged"


def test_a_numpyro_model_s_flat_entries_are_named():
    def model(g, y):
        with numpyro.plate("k", 5):
            b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(b[g], 1), obs=y)

    with pytest.raises(ValueError, match=r"never depends on b\[4\]:"):
        advi.fit(advi.from_numpyro(model), DATA)
