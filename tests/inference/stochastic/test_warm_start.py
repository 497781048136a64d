"""Minibatch fits that start from the plan on some rows, and end where all rows would."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from advi.data.source import InMemory
from advi.data.spec import prepare
from advi.inference.stochastic.control_variate import ControlVariate, controlled
from advi.inference.stochastic.warm_start import NUM_ROWS, can_start, plan_on, toward_all_rows
from advi.inference.stochastic.whitening import whiten
from advi.model.real_density import real_log_density
from advi.model.source_density import SourceDensity
from advi.model.terms import Terms
from advi.model.trace import trace
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian, project
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import TriangularScale
from models import logistic_regression as logistic
from tests.compiling import compiled

MAX_SHIFT, MAX_STRETCH = 0.05, 0.03  # what a minibatch fit is held to, as by benchmarks.rows


def scaled_badly(num_rows, seed=1):
    """Rows of a logistic regression on correlated predictors whose units differ by 10^4."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_rows, 10)) @ (np.eye(10) + rng.standard_normal((10, 10)) / 3).T
    y = rng.random(num_rows) < 1 / (1 + np.exp(0.5 - x @ rng.normal(0, 0.3, 10)))
    scales = np.logspace(-2, 2, 10)[rng.permutation(10)]
    return {"x": (x * scales).astype(np.float32), "y": y.astype(np.float32)}


def wide_prior(z, d):
    prior = dist.Normal(0, 100).log_prob(z["slopes"]).sum() + dist.Normal(0, 9).log_prob(
        z["intercept"]
    )
    logits = z["intercept"] + d["x"] @ z["slopes"]
    return advi.Terms(prior, rows=dist.Bernoulli(logits=logits).log_prob(d["y"]))


def linear(z, d):
    prior = dist.Normal(0, 100).log_prob(z["w"]).sum() + dist.HalfNormal(10).log_prob(z["s"])
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], z["s"]).log_prob(d["y"]))


def linear_rows(num_rows):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((num_rows, 10))
    return {"x": x, "y": x @ rng.standard_normal(10) + 0.7 * rng.standard_normal(num_rows)}


# latents out of the alphabet's order: a tree of JAX sorts them
LINEAR = advi.Model(linear, {"w": advi.real(10), "s": advi.positive()})
CASES = {
    "logistic": (logistic.model(10), lambda n: logistic.data(n, 10).rows),
    "badly scaled": (
        advi.Model(wide_prior, {"slopes": advi.real(10), "intercept": advi.real()}),
        scaled_badly,
    ),
    "noise scale": (LINEAR, linear_rows),
}


@functools.cache
def of_all_rows(family):
    model, rows = CASES["logistic"]
    return advi.fit(model, rows(5_000), family=family, diagnose=False)


def agreement(model, data, family, keys, whole=None):
    """Assert that fits by minibatches settle where the fit of all rows is.

    Each stops by a noisy estimate of its distance: held to the limits is their root mean square.
    """
    settings = {"family": family, "diagnose": False}
    whole = whole or advi.fit(model, data, **settings)
    errors = []
    for key in keys:
        fit = advi.fit(model, data, batch_size=256, key=key, **settings)
        assert fit.status == "converged"
        assert len(fit.elbo_trace) <= 16_384
        errors.append(errors_beside(fit, whole))
    assert np.all(np.sqrt(np.mean(np.square(errors), axis=0)) < (MAX_SHIFT, MAX_STRETCH))


def errors_beside(fit, whole):
    """Return the largest error of a mean in sds, and that of an sd as a fraction."""
    mean, sd, exact, exact_sd = fit.mean(), fit.sd(), whole.mean(), whole.sd()
    shifts = [np.max(np.abs(mean[name] - exact[name]) / exact_sd[name]) for name in exact]
    return max(shifts), max(np.max(np.abs(sd[name] / exact_sd[name] - 1)) for name in exact)


def assert_near(fit, whole):
    assert np.all(np.array(errors_beside(fit, whole)) < (MAX_SHIFT, MAX_STRETCH))


def test_minibatches_end_where_all_rows_do():
    model, rows = CASES["logistic"]
    agreement(model, rows(5_000), "full_rank", keys=(0,), whole=of_all_rows("full_rank"))


@pytest.mark.slow  # short: test_minibatches_end_where_all_rows_do, and streams in test_streams
def test_streams_end_where_all_rows_do(tmp_path):
    """Rows that are read from batches, or from a file, on predictors of any units, in any order."""
    model, rows = CASES["badly scaled"]
    data = rows(5_000)
    order = np.argsort(data["y"])
    data = {name: leaf[order] for name, leaf in data.items()}
    whole = advi.fit(model, data, diagnose=False)
    on_disk = {n: np.memmap(tmp_path / n, x.dtype, "w+", shape=x.shape) for n, x in data.items()}
    for name, leaf in data.items():
        on_disk[name][:] = leaf
    batches = [{n: x[i : i + 300] for n, x in data.items()} for i in range(0, 5_000, 300)]
    settings = {"family": "full_rank", "diagnose": False}
    for fit in (
        advi.fit(model, batches, num_rows=5_000, **settings),
        advi.fit(model, on_disk, batch_size=256, **settings),
    ):
        assert fit.status == "converged"
        assert_near(fit, whole)


@pytest.mark.slow  # short: test_minibatches_end_where_all_rows_do
def test_many_coupled_latents_settle_where_all_rows_do():
    """The steps of 100 x 100 / 2 entries together once were so long that the scale blew up."""
    data = logistic.data(5_000, 100).rows
    agreement(logistic.model(100), data, "full_rank", keys=(0,))


def rare_groups(z, d):
    prior = dist.Normal(0, 5).log_prob(z["m"]) + dist.HalfNormal(2).log_prob(z["t"])
    prior += dist.HalfNormal(2).log_prob(z["s"]) + dist.Normal(0, 1).log_prob(z["a"]).sum()
    means = z["m"] + z["t"] * z["a"][d["group"]]
    return advi.Terms(prior, rows=dist.Normal(means, z["s"]).log_prob(d["y"]))


def summed_groups(z, d):
    """The same density from the number, mean and squared deviations of every group's rows."""
    terms = rare_groups(z, {"group": d["group"], "y": d["mean"]})
    # a row at the mean of its group, so many times, and what the rows differ from it
    return terms.shared + jnp.sum(d["count"] * terms.rows - 0.5 * d["squares"] / z["s"] ** 2)


def sums(group, y):
    count = np.bincount(group, minlength=60)
    mean = np.bincount(group, y, 60) / np.maximum(count, 1)
    squares = np.bincount(group, (y - mean[group]) ** 2, 60)
    return {"group": np.arange(60), "count": count, "mean": mean, "squares": squares}


@pytest.mark.slow  # short: test_minibatches_end_where_all_rows_do
def test_groups_that_some_rows_hardly_show_are_found_on_all_rows():
    """Of half of the groups 2,048 rows have none or one, counted as many times as it stands for."""
    rng = np.random.default_rng(4)
    share = np.arange(1, 61) ** -1.5
    group = rng.choice(60, 20_000, p=share / share.sum()).astype(np.int32)
    data = {"group": group, "y": 1 + rng.normal(0, 0.7, 60)[group] + rng.standard_normal(20_000)}
    latents = {"m": advi.real(), "t": advi.positive(), "s": advi.positive(), "a": advi.real(60)}
    model = advi.Model(rare_groups, latents)
    z = {"m": 0.5, "t": 1.3, "s": 0.8, "a": rng.standard_normal(60)}
    values = jax.jit(lambda z: (rare_groups(z, data).total(), summed_groups(z, sums(**data))))(z)
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-5)
    settings = {"family": "full_rank", "diagnose": False}
    whole = advi.fit(advi.Model(summed_groups, latents), sums(**data), **settings)
    fit = advi.fit(model, data, batch_size=256, max_steps=16_384, **settings)
    for name, sd in whole.sd().items():
        assert np.max(np.abs(fit.mean()[name] - whole.mean()[name]) / sd) < 0.3
        assert np.max(np.abs(fit.sd()[name] / sd - 1)) < 0.12


def test_steps_that_end_far_below_their_start_are_not_taken_for_the_result(monkeypatch):
    """A scale that has blown up may seem to have settled, in units of its own."""
    moved = FullRank.moved
    monkeypatch.setattr(
        FullRank,
        "moved",
        lambda family, center, step: moved(
            family, center, step._replace(raw_tril=50 * step.raw_tril)
        ),
    )
    model, rows = CASES["logistic"]
    data = rows(5_000)
    fit = advi.fit(model, data, family="full_rank", batch_size=100, max_steps=2048, diagnose=False)
    assert fit.status == "diverged"
    assert "led away from where the plan on some rows had ended" in fit.status.message
    whole = of_all_rows("full_rank")
    assert fit.elbo.value == pytest.approx(whole.elbo.value, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
@pytest.mark.parametrize("num_rows", [20_000, 100_000])
@pytest.mark.parametrize("name", CASES)
def test_minibatches_end_where_all_rows_do_whatever_the_predictors(name, num_rows, family):
    model, rows = CASES[name]
    agreement(model, rows(num_rows), family, keys=(0, 1, 2))


def test_it_takes_the_steps_asked_for_and_the_same_ones_again():
    model, rows = CASES["logistic"]
    settings = {"family": "full_rank", "batch_size": 256, "max_steps": 50, "diagnose": False}
    # of as many rows as in test_minibatches_end_where_all_rows_do, which has compiled the steps
    first, second = (advi.fit(model, rows(5_000), key=3, **settings) for _ in range(2))
    assert len(first.elbo_trace) == 50
    assert first.posterior.params[0].loc.tobytes() == second.posterior.params[0].loc.tobytes()


def test_the_start_is_near_the_optimum_of_all_rows():
    data, spec = prepare(linear_rows(20_000), "float32")
    source = InMemory(data, spec, None).batched(trace(LINEAR, spec).num_rows, 256)
    density = SourceDensity(LINEAR, source, frozenset(), 20_000)
    first = Gaussian.diagonal(np.zeros(11), 1.0)
    rng = np.random.default_rng(0)
    some = density.sample(NUM_ROWS, rng)
    start = toward_all_rows(density, some, rng, plan_on(some, rng, first, warm=False)[0])
    whole = advi.fit(LINEAR, data, family="full_rank", diagnose=False).posterior.gaussian
    off = np.abs(start.gaussian.loc - whole.loc) / whole.sds
    assert off.max() < 0.2
    # 2,048 rows tell a variance to 3 %
    np.testing.assert_allclose(start.gaussian.sds, whole.sds, rtol=0.1)


def test_no_start_where_few_rows_are_not_finite():
    """Likely they are not among those of the plan, and yet they are named."""
    rows = linear_rows(20_000)
    rows["y"][::5000] = np.nan
    with pytest.raises(ValueError, match=r"data leaf 'y', row 0 is NaN"):
        advi.fit(LINEAR, rows, batch_size=256, max_steps=10)


def test_what_is_planned():
    estimated = advi.Model(linear, {"w": advi.real(10), "s": advi.positive()})
    assert can_start(resolve_family(LINEAR, "full_rank"))
    assert not can_start(resolve_family(estimated, {"w": "full_rank", "s": advi.Point()}))
    assert not can_start(resolve_family(advi.Model(linear, {"w": advi.real(300)}), "mean_field"))


def test_a_control_variate_changes_no_average_and_takes_the_noise_at_its_place():
    y = np.arange(6, dtype=np.float32) ** 2

    def log_p(batch):
        return lambda real: Terms(-real["x"], -((batch - real["x"]) ** 2) * (1 + real["x"]))

    def total(real, terms, scale=1.0):
        return terms(real).total(scale)

    of_all = jax.jit(jax.value_and_grad(lambda x: total({"x": x[0]}, log_p(y))))
    at = np.float32([0.7])
    model = advi.Model(lambda z, d: z["x"], {"x": advi.real()})
    control = ControlVariate(at, *jax.device_get(of_all(at)))

    @jax.jit
    def by_batches(x):
        batches = [controlled(log_p(part), model, control, 3.0) for part in y.reshape(3, 2)]
        return [total({"x": x}, batch, 3.0) for batch in batches]

    for x in (0.7, -1.3):
        values = jax.device_get(by_batches(np.float32(x)))
        assert np.mean(values) == pytest.approx(float(of_all(np.float32([x]))[0]), rel=1e-5)
        assert (np.ptp(values) < 1e-2) == (x == 0.7)


def test_a_control_variate_finds_latents_out_of_order():
    data, spec = prepare(linear_rows(50), "float32")
    log_p = real_log_density(LINEAR, trace(LINEAR, spec), frozenset())
    x = np.linspace(-1, 1, 11, dtype=np.float32)
    control = ControlVariate(x, np.float32(0), np.zeros(11, np.float32))

    @jax.jit
    def found(x):
        return controlled(lambda real: log_p(real, data), LINEAR, control, 1.0)(LINEAR.split(x))

    # at its point it is the value kept there
    assert float(found(x).total()) == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_a_frame_makes_steps_the_same_whatever_the_units(family):
    """A gradient in other units, and the step that answers it, are those of the same move."""
    import optax

    guide = resolve_family(advi.Model(lambda z, d: z["x"].sum(), {"x": advi.real(2)}), family)
    families = tuple(b.base for b in guide.blocks)
    loc, scale = np.array([1.0, 2.0]), np.array([[2.0, 0.0], [1.0, 0.5]])
    optimizer = whiten(optax.adam(0.1), families)

    def of(params, unit):
        q = families[0].reparameterise(params[0], jnp.array([0.3, -1.0])) / unit
        return (q**2).sum() + q[0] * q[1]

    @jax.jit
    def step(params, unit):
        updates, _ = optimizer.update(jax.grad(of)(params, unit), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    moves = []
    for unit in np.array([[1.0, 1.0], [1.0, 1e3]]):
        q = Gaussian(loc * unit, TriangularScale(scale * unit[:, None]))
        moved = guide.to_gaussian(step(guide.params_of(q, np.float32), unit))
        moves.append((moved.loc / unit, moved.scale.tril() / unit[:, None]))
    for one, other in zip(*moves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_projection_keeps_the_precision_of_coupled_latents():
    latents = {"a": advi.real(2), "b": advi.real(), "c": advi.real()}
    model = advi.Model(lambda z, d: z["a"].sum() + z["b"] + z["c"], latents)
    A = np.random.default_rng(0).standard_normal((4, 4))
    cov = A @ A.T + np.eye(4)
    full = Gaussian(np.zeros(4), TriangularScale(np.linalg.cholesky(cov)))
    guide = resolve_family(model, {"a": "full_rank", ("b", "c"): "mean_field"})
    L = project(full, guide.structure).scale.matrix
    precision = np.linalg.inv(cov)
    np.testing.assert_allclose((L @ L.T)[:2, :2], np.linalg.inv(precision[:2, :2]))
    np.testing.assert_allclose(np.diag(L)[2:], np.diag(precision)[2:] ** -0.5)
    guide = resolve_family(model, "full_rank")
    assert project(full, guide.structure) is full


def test_a_first_fit_on_minibatches_compiles_few_programs():
    """Of rows: a sample, gradients of it and of all; of steps: the first state, and a chunk."""

    def log_joint(z, y):
        return advi.Terms(-0.5 * z["m"] ** 2, rows=-0.5 * jnp.cosh(y - z["m"]))

    y = np.random.default_rng(0).standard_normal(5_000)
    with compiled() as programs:
        fit = advi.fit(
            advi.Model(log_joint, {"m": advi.real()}),
            y,
            batch_size=64,
            max_steps=128,
            diagnose=False,
        )
    assert fit.status == "max_steps"
    assert len(programs) <= 6
