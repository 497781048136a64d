"""Where a plan begins and how it ends: hidden optima, densities without one, and lost starts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

import advi
from advi.core.jax_config import precision
from advi.data.spec import prepare
from advi.inference.plan.batched_calls import run_batched
from advi.inference.plan.charts import DiagonalChart
from advi.inference.plan.lbfgs import finite_start, minimise
from advi.inference.plan.maximise_elbo import maximise_elbo
from advi.inference.plan.newton import newton
from advi.inference.plan.plan import NotFiniteError, run_plan, start_search
from advi.model.density import Density
from advi.variational.gaussian import Gaussian, Structure
from benchmarks import growth

y = np.random.default_rng(0).normal(1, 1, 50).astype("float32")
X = np.random.default_rng(1).normal(size=(50, 3)).astype("float32")
M = {"m": advi.real()}
MB = {"m": advi.real(), "b": advi.real()}


WITHOUT_MAXIMUM = {
    "a sign forgotten": (lambda z, d: -(norm.logpdf(z["m"]) + norm.logpdf(d, z["m"]).sum()), M),
    "a loss": (lambda z, d: norm.logpdf(z["m"], 0, 10) + 0.5 * ((d - z["m"]) ** 2).sum(), M),
    "least squares": (lambda z, d: 0.5 * jnp.sum((d - X @ z["w"]) ** 2), {"w": advi.real(3)}),
    "linear": (lambda z, d: z["m"], M),
    "half flat": (lambda z, d: -jax.nn.softplus(-z["m"]), M),
    "a proper one dragged along": (lambda z, d: z["m"] + norm.logpdf(z["b"]), MB),
    "a scale that makes data certain": (
        lambda z, d: norm.logpdf(z["m"], 0, 1) + norm.logpdf(d * 0 + z["m"], z["m"], z["s"]).sum(),
        {"m": advi.real(), "s": advi.positive()},
    ),
}


@pytest.mark.parametrize("name", WITHOUT_MAXIMUM)
def test_a_density_without_a_maximum_ends_soon_and_says_so(name):
    log_joint, latents = WITHOUT_MAXIMUM[name]
    model = advi.Model(log_joint, latents)
    for x64 in (False, True) if name in ("linear", "least squares") else (False,):
        fit = advi.fit(model, y, x64=x64, diagnose=False)
        assert fit.status == "diverged"
        assert "no maximum" in fit.status.message
        assert "sign right" in fit.status.message
        assert fit.diagnostics["num_gradients"] < 300_000


def test_a_posterior_narrower_than_floats_is_not_called_converged():
    model = advi.Model(lambda z, d: norm.logpdf(z["m"], 1e8, 1.0), M)
    fit = advi.fit(model, diagnose=False)
    assert fit.status == "diverged"
    for part in ("m is narrower than float32", "8 apart", "Center or scale", "x64=True"):
        assert part in fit.status.message
    fit = advi.fit(model, x64=True, diagnose=False)
    assert fit.status == "converged"
    assert float(fit.mean()["m"]) == pytest.approx(1e8, abs=1e-2)
    # what is far from zero and wide enough is in order
    model = advi.Model(lambda z, d: norm.logpdf(z["m"], 1e6, 1e3), M)
    assert advi.fit(model, diagnose=False).status == "converged"


def test_heights_whose_rounding_is_more_than_nats_leave_a_start():
    model = advi.Model(lambda z, d: norm.logpdf(z["m"], 1e6, 1e-3), M)
    assert advi.fit(model, diagnose=False).status == "diverged"
    fit = advi.fit(model, x64=True, diagnose=False)
    assert fit.status == "converged"
    assert float(fit.mean()["m"]) == pytest.approx(1e6, abs=1e-4)


def masked(z, d):
    rows = jnp.where(d["ok"], norm.logpdf(d["y"], z["w"], z["s"]), 0.0)
    return advi.Terms(norm.logpdf(z["w"]) + norm.logpdf(z["s"]), rows)


def test_a_gradient_that_is_not_finite_is_told_from_a_value():
    model = advi.Model(masked, {"w": advi.real(), "s": advi.positive()})
    ok = np.arange(8) > 1
    data = {"ok": ok, "y": np.where(ok, np.arange(8.0), np.nan)}
    message = "the gradient of the log density is not finite"
    for settings in ({}, {"batch_size": 4}):
        with pytest.raises(ValueError, match=message) as error:
            advi.fit(model, data, **settings)
        for part in ("for w, s", "jnp.where", "'y', row 0 is NaN", "364 random points"):
            assert part in str(error.value)
        assert "remove or mask" not in str(error.value)
    whole = advi.Model(
        lambda z, d: advi.Terms(norm.logpdf(z["w"]), norm.logpdf(jnp.log(d), z["w"])),
        {"w": advi.real()},
    )
    for y, words in (
        ([2.0, 0.0, 1.0], r"rows? that are not finite: \[1\]. The other rows are finite"),
        ([2.0, np.inf, 1.0], r"leaf 'data', row 1 is infinite \(1 infinite"),
    ):
        with pytest.raises(ValueError, match=f"(?i){words}"):
            advi.fit(whole, np.array(y))
    good = {"ok": ok, "y": np.arange(8.0)}
    assert advi.fit(model, good, diagnose=False).status == "converged"
    root = advi.Model(lambda z, d: -0.5 * z["m"] ** 2 + 0 * jnp.sqrt(z["m"] - z["m"]), M)
    with pytest.raises(ValueError, match=r"for m; its value there is 0, .*at zero"):
        advi.fit(root)
    nowhere = advi.Model(lambda z, d: jnp.log(-1 - z["m"] ** 2), M)
    for settings in ({}, {"optimizer": optax.adam(0.1), "max_steps": 5}):
        with pytest.raises(ValueError, match=r"not finite at the start: nan.*364 random points"):
            advi.fit(nowhere, **settings)


def test_a_finite_start_is_found_far_out():
    """Only beyond 15 is there a value: further than the boxes that are climbed from."""
    model = advi.Model(lambda z, d: jnp.where(z["m"] > 15, -0.5 * (z["m"] - 40) ** 2, jnp.nan), M)
    for settings in ({}, {"optimizer": optax.adam(0.1), "max_steps": 2000}):
        fit = advi.fit(model, diagnose=False, **settings)
        assert float(fit.mean()["m"]) == pytest.approx(40, abs=0.5)


def density(model, data=None):
    with precision("float32"):
        moved, spec = prepare(data, "float32")
    return Density(model, moved, spec, by_gradient=True)


def one_dim():
    return Structure(np.ones(1, bool), np.zeros(1, int), np.zeros((1, 0), bool))


def test_candidates_are_tried_and_climbed_from():
    model = advi.Model(lambda z, d: jnp.where(z["m"] > 90, -0.5 * (z["m"] - 99) ** 2, jnp.nan), M)
    first, p = Gaussian.diagonal(np.zeros(1), 1.0), density(model)
    with pytest.raises(NotFiniteError, match="364 random points"):
        run_plan(p, one_dim(), np.random.default_rng(0), first, warm=False)
    given = np.array([[5.0], [101.0]])

    def fitted(candidates):
        rng = np.random.default_rng(0)
        return run_plan(p, one_dim(), rng, first, warm=False, candidates=candidates)

    with pytest.raises(NotFiniteError, match="1 candidates"):
        fitted(lambda: given[:1])
    found = fitted(lambda: given)
    assert found.gaussian.loc[0] == pytest.approx(99, abs=0.1)


def test_scattered_points_have_entries_that_are_alike():
    model = advi.Model(lambda z, d: z["a"].sum() + z["b"], {"a": advi.real(6, 2), "b": advi.real()})
    dim = model.size
    structure = Structure(np.ones(dim, bool), np.arange(dim), np.zeros((dim, 0), bool))
    search = start_search(density(model), structure, np.ones(dim), np.random.default_rng(0))
    points = search._scattered(30, 3.0)
    assert points.shape == (30, dim)
    assert np.all(np.abs(points - 1) <= 3)
    a = points[:, :12].reshape(30, 6, 2)
    rows_alike = np.ptp(a, axis=1).max(1) == 0
    assert rows_alike[1::3].all()
    assert not rows_alike[::3].any()


def test_newton_steps_that_fail_are_shortened():
    """Where a density is straight, the whole step leads far behind its optimum."""

    def evaluate(P):
        return -np.logaddexp(P, -P)[:, 0], -np.tanh(P)

    E, elbos = one_dim().fixed_draws(np.random.default_rng(0), 64), []
    start = Gaussian.diagonal(np.array([50.0]), 0.05)
    stage = newton(start, E, one_dim(), lambda q, elbo: elbos.append(elbo))
    [(q, arrived)] = run_batched([stage], evaluate)
    assert arrived
    assert np.all(np.diff(elbos) > 0)
    assert q.loc[0] == pytest.approx(0, abs=0.5)


def test_newton_steps_without_end_are_ended():
    structure = one_dim()
    E = structure.fixed_draws(np.random.default_rng(0), 8)
    calls = []

    def uphill(P):
        calls.append(len(P))
        return P[:, 0], np.ones_like(P)

    stage = newton(Gaussian.diagonal(np.zeros(1), 1.0), E, structure, lambda q, elbo: None, 25)
    [(q, arrived)] = run_batched([stage], uphill)
    assert not arrived
    assert len(calls) == 25
    assert q.loc[0] > 1e3


def test_a_search_that_begins_where_nothing_is_finite_retreats():
    def objective(points):
        values, gradients = yield np.stack(points)
        return -values, -gradients

    def evaluate(P):
        return np.where(P[:, 0] < 3, -0.5 * P[:, 0] ** 2, np.inf), -P

    def search(retreat, most):
        start = yield from finite_start([np.array([20.0])], objective, retreat, most)
        return (
            yield from minimise(
                start,
                objective,
                retract=lambda x, p: x + p,
                metric=np.ones_like,
                cap=10.0,
                max_evals=50,
                done=lambda m: m.gradient < 1e-8,
                eps=1e-16,
                accepted=lambda k, x, value: None,
            )
        )

    structure, start = one_dim(), Gaussian.diagonal(np.array([20.0]), 1.0)
    chart = DiagonalChart(structure.fixed_draws(np.random.default_rng(0), 8), structure)
    stage = maximise_elbo(start, chart, structure, 1e-16, lambda q, elbo: None)
    searches = [search(lambda x: x / 2, 21), search(lambda x: x, 1), stage]
    [halved], [none], stuck = run_batched(searches, evaluate)
    assert halved.reason == "converged"
    assert halved.point == pytest.approx(0, abs=1e-7)
    assert none is None
    assert stuck.reason == "not finite"
    assert stuck.gradient == np.inf
    assert not np.isfinite(stuck.elbo)


def test_restarts_are_further_attempts_beside_the_first():
    def two(z, d):
        x = z["x"]
        return jnp.logaddexp(-0.5 * jnp.sum((x - 4) ** 2), 0.5 - 0.5 * jnp.sum((x + 5) ** 2))

    model = advi.Model(two, {"x": advi.real(2)})
    one, three = (advi.fit(model, restarts=k, key=3, diagnose=False) for k in (1, 3))
    assert three.elbo.value >= one.elbo.value
    assert len(three._record.outcome.other_modes) >= 2
    # the first attempt is the same: it has won, or is among the others
    ends = [three.elbo.value] + [
        three.elbo.value + r.elbo_difference for r in three._record.outcome.other_modes
    ]
    assert min(abs(end - one.elbo.value) for end in ends) < 1e-9


# The best ELBOs that any of ten keys and a start at the truth have reached
OPTIMA = [
    pytest.param("rats", "mean_field", (0, 1), -608.3, marks=pytest.mark.slow),
    pytest.param("orange_trees", "full_rank", (0, 1), -172.2, marks=pytest.mark.slow),
    ("logistic", "full_rank", (1,), -361.0),
]


@pytest.mark.parametrize(("name", "family", "keys", "best"), OPTIMA)
def test_growth_on_raw_scales_reaches_its_optimum(name, family, keys, best):
    """Climbs from everywhere end on plateaus and ridges, and overflow beside them."""
    problem = growth.PROBLEMS[name]()
    for key in keys:
        record = growth.measure(problem, family, key)
        assert record.status == "converged"
        assert record.elbo > best - growth.SHORT_NATS - 3 * record.mcse
