"""Tracing: the log-joint runs once in Python, and what its trace tells about it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

import advi
from advi.data.spec import prepare
from advi.model.trace import require_all_used, trace
from tests.compiling import compiled

LATENTS = {"mu": advi.real(), "s": {"tau": advi.positive(3)}, "b": (advi.real(2), advi.real())}


def traced(log_joint, latents, data=None, float_dtype="float32"):
    model = advi.Model(log_joint, latents)
    data, spec = prepare(data, float_dtype)
    return model, data, trace(model, spec)


def everything(z, d):
    r = d["y"] - z["mu"]
    return -jnp.sum(r**2) - jnp.sum(z["s"]["tau"]) + z["b"][0] @ z["b"][0] * z["b"][1]


@pytest.mark.parametrize("float_dtype", ["float32", "float64"])
def test_a_trace_is_the_log_joint(float_dtype):
    with jax.enable_x64(float_dtype == "float64"):
        data = {"y": np.arange(4.0)}
        model, data, log_joint = traced(everything, LATENTS, data, float_dtype)
        unraveled, _ = jax.jit(model.unravel)(np.linspace(-1, 1, model.size, dtype=float_dtype))
        values = {name: unraveled[name] for name in model.latents}
        terms = log_joint(values, data)
        assert terms.shared.dtype == float_dtype
        assert terms.rows.shape == (0,)
        expected = jax.jit(everything)(model.to_tree(values), data)
        np.testing.assert_allclose(terms.total(), expected, rtol=1e-6)


def test_the_trace_of_terms_knows_its_rows():
    def log_joint(z, d):
        return advi.Terms(-(z["mu"] ** 2), -((d["y"] - z["mu"]) ** 2))

    _, data, traced_ = traced(log_joint, {"mu": advi.real()}, {"y": np.arange(4.0)})
    assert traced_.num_rows == 4
    shared, rows, _ = traced_({"mu": jnp.float32(2.0)}, data)
    assert float(shared) == -4.0
    np.testing.assert_array_equal(rows, [-4.0, -1.0, 0.0, -1.0])
    assert traced(everything, LATENTS, {"y": np.ones(2)})[2].num_rows is None


def test_python_runs_once_for_a_fit_and_its_shapes():
    calls = []

    def log_joint(z, d):
        calls.append(d["y"].shape)
        return -jnp.sum((d["y"] - z["mu"]) ** 2)

    model = advi.Model(log_joint, {"mu": advi.real()})
    one = advi.fit(model, {"y": np.arange(4.0)})
    assert calls == [(4,)]
    two = advi.fit(model, {"y": np.arange(4.0) + 10}, key=3)
    assert calls == [(4,)] * 2
    assert (
        one.posterior.density.log_joint is two.posterior.density.log_joint
    )  # by which programs are found again
    assert float(two.mean()["mu"]) > float(one.mean()["mu"]) + 9  # the data are an argument
    one.sample(3), one.summary(), one.corrected(), one.refine(family="mean_field")
    one.posterior.density.on({"y": np.ones(4)}).value(np.zeros((1, 1)))
    assert calls == [(4,)] * 2
    assert advi.check(model, {"y": np.ones(4)}, x64=True).ok
    assert len(calls) == 3


def test_the_second_fit_compiles_nothing():
    model = advi.Model(
        lambda z, d: -jnp.sum((d - z["mu"]) ** 2) - jnp.sum(z["tau"] ** 2),
        {"mu": advi.real(), "tau": advi.positive(2)},
    )
    first = advi.fit(model, np.arange(6.0))
    first.summary(), first.sample(3)
    with compiled() as events:
        again = advi.fit(model, np.arange(6.0) + 1, key=7)
        again.summary(), again.sample(5)
    assert not events


UNUSED = {
    "all": (lambda z: z["a"] + z["b"] + z["c"], "abc"),
    "one": (lambda z: z["b"] ** 2, "b"),
    "none": (lambda z: jnp.float32(3.0), ""),
    "the value itself": (lambda z: z["c"], "c"),
    "computed and dropped": (lambda z: (jnp.exp(z["a"]) * z["c"], z["b"])[1], "b"),
    "shape only": (lambda z: z["b"] * jnp.ones_like(z["a"]).size, "b"),
    "in a branch": (lambda z: jax.lax.cond(z["a"] > 0, lambda: z["b"], lambda: -z["b"]), "ab"),
    "in a loop": (lambda z: jax.lax.fori_loop(0, 3, lambda i, v: v + z["c"], z["a"]), "ac"),
    "through a chain": (lambda z: jnp.tanh(jnp.where(z["a"] > 0, z["a"], z["c"]) * 2), "ac"),
}


@pytest.mark.parametrize("case", UNUSED)
def test_which_latents_are_used(case):
    function, used = UNUSED[case]
    latents = {name: advi.real() for name in "abc"}
    model, _, log_joint = traced(lambda z, d: function(z), latents)
    assert log_joint.used == set(used)
    unused = [name for name in "abc" if name not in used]
    if not unused:
        require_all_used(model, log_joint)
    else:
        with pytest.raises(ValueError, match="never uses " + ", ".join(map(repr, unused))):
            require_all_used(model, log_joint)


def test_terms_use_what_either_part_uses():
    latents = {name: advi.real() for name in "abc"}
    _, _, log_joint = traced(lambda z, d: advi.Terms(z["a"], z["c"] * d), latents, np.arange(3.0))
    assert log_joint.used == {"a", "c"}


def test_cost_counts_the_elements_of_every_operation():
    def cost(function, *shape):
        return traced(lambda z, d: function(z["x"]), {"x": advi.real(*shape)})[2].cost

    once = cost(lambda x: jnp.exp(x).sum(), 100)
    assert once >= 100
    assert cost(lambda x: jnp.exp(x).sum(), 1000) == pytest.approx(10 * once, rel=0.05)
    assert cost(lambda x: jnp.exp(jnp.exp(x)).sum(), 100) == once + 100

    def loop(length):
        return lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=length)[0].sum()

    short, long = cost(loop(10), 50), cost(loop(20), 50)
    assert long - short == 10 * 50
    jitted = cost(lambda x: jax.jit(lambda v: jnp.exp(v).sum())(x), 100)
    assert jitted == once


@pytest.mark.parametrize("value", [1, np.float64(1.0), np.ones(()), 0.5], ids=repr)
def test_constants_of_any_kind_may_enter(value):
    _, _, log_joint = traced(lambda z, d: -(z["a"] ** 2) * value, {"a": advi.real()})
    assert log_joint.used == {"a"}


def test_a_missing_key_names_latents_and_data_and_keeps_its_cause():
    with pytest.raises(KeyError, match="data: y") as caught:
        traced(lambda z, d: z["muu"], {"mu": advi.real()}, {"y": 1.0})
    assert isinstance(caught.value.__cause__, KeyError)  # whose traceback shows the user's line


def counted(z, d):
    a = z["a"]
    found = jax.lax.fori_loop(0, d["n"], lambda i, x: x * jnp.cos(a).sum(), 1.0)
    return -0.5 * ((a - 1) ** 2).sum() - found**2


def unrolled(z, d):
    a = z["a"]
    return -0.5 * ((a - 1) ** 2).sum() - jnp.cos(a).sum() ** 6


@pytest.fixture(scope="module")
def pair():
    """The log densities of a loop of unknown length, and of the same without a loop."""
    latents = {"a": advi.real(2)}
    return [advi.log_density(advi.Model(f, latents), {"n": 3}) for f in (counted, unrolled)]


def test_a_loop_of_unknown_length_has_derivatives_by_forward_mode(pair):
    x, t = jnp.array([0.3, -0.8]), jnp.array([1.0, 0.5])
    for derivative in (jax.grad, jax.jacfwd):
        looped, plain = (derivative(density)(x) for density in pair)
        np.testing.assert_allclose(looped, plain, rtol=1e-4, atol=1e-5)
    products = [jax.jvp(jax.grad(density), (x,), (t,))[1] for density in pair]
    np.testing.assert_allclose(*products, rtol=1e-4, atol=1e-5)
    points = jnp.stack([x, t, x + t])
    found = [jax.jit(jax.vmap(jax.value_and_grad(density)))(points) for density in pair]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *found)


def test_fits_of_a_loop_of_unknown_length():
    latents, data = {"a": advi.real(2)}, {"n": 3}
    looped, plain = (advi.Model(f, latents) for f in (counted, unrolled))
    settings = {"family": "mean_field", "diagnose": False}
    one, other = (advi.fit(model, data, **settings) for model in (looped, plain))
    np.testing.assert_allclose(one.mean()["a"], other.mean()["a"], rtol=1e-3, atol=1e-3)
    response = [fit.linear_response().sd()["a"] for fit in (one, other)]
    np.testing.assert_allclose(*response, rtol=1e-2)
    assert one._record.global_posterior.density.log_joint.forward == 2


def test_steps_on_rows_of_a_loop_of_unknown_length():
    def of_rows(z, d):
        scale = jax.lax.while_loop(lambda s: s < 2.0, lambda s: s + z["s"], z["s"])
        return advi.Terms(-z["s"] - 0.5 * z["m"] ** 2, -0.5 * ((d - z["m"]) / scale) ** 2)

    model = advi.Model(of_rows, {"m": advi.real(), "s": advi.positive()})
    steps = advi.svi(model, np.ones(6, np.float32), batch_size=3)
    _, info = steps.step(steps.init(0), np.ones(3, np.float32))
    assert bool(info.finite)


@jax.custom_vjp
def one_way(x):
    return x


one_way.defvjp(lambda x: (x, None), lambda _, g: (g,))


def test_a_loop_without_a_gradient_is_named_with_its_bound():
    def open_ended(z, d):
        return -jax.lax.while_loop(lambda x: x < 3, lambda x: x + one_way(z["a"]) ** 2, z["a"])

    many = advi.Model(counted, {"a": advi.real(65)})
    for call in (advi.fit, advi.check):
        with pytest.raises(ValueError, match=r"log_joint has a loop.*65 entries.*'n' in data"):
            call(many, {"n": 3})
    with pytest.raises(ValueError, match=r"log_joint has a loop.*jax\.custom_vjp.*lax\.scan\.$"):
        advi.check(advi.Model(open_ended, {"a": advi.real()}))

    def solved(z, d):  # has a rule for reverse mode
        times = jnp.linspace(0.0, 1.0, 3)
        ends = odeint(lambda y, t, a: -a * y, jnp.ones(1), times, z["a"])
        return -0.5 * z["a"] ** 2 - (ends**2).sum()

    model = advi.Model(solved, {"a": advi.positive()})
    assert not trace(model, prepare(None, "float32")[1]).forward

    def of_data(z, d):  # whose loop no latent goes through
        return -(z["a"] ** 2) + jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, d)

    assert advi.check(advi.Model(of_data, {"a": advi.real()}), 1.0).ok
