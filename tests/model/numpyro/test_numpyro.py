"""NumPyro models: the same density as NumPyro's, their plates as rows, and what is refused."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import flax_module
from numpyro.distributions import constraints
from numpyro.infer.util import log_density, potential_energy
from numpyro.primitives import mutable

import advi
from advi.core.jax_config import precision
from advi.data.spec import prepare
from advi.model.density import Density
from advi.model.resolve import bind as bind_model
from advi.model.rows import for_rows
from advi.model.trace import require_all_used, trace
from advi.variational.resolve_family import resolve_family
from tests.compiling import compiled
from tests.model.numpyro.numpyro_models import (
    CASES,
    NOISE,
    SCHOOLS,
    X,
    Y,
    subsample_statement,
    subsampled,
    tank,
)

RTOL = 1e-12  # double precision, sums of some dozens of terms


def bind(model, data):
    """The model, its data and the data's spec; in double precision."""
    data, spec = prepare(data, "float64")
    return for_rows(bind_model(model, data, spec), spec), data, spec


def random_point(model, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, model.size)


@lru_cache
def terms(model, spec):
    """The log-joint at a point, compiled as a whole: single operations would compile one by one."""
    log_joint = trace(model, spec)
    return jax.jit(lambda data, x: log_joint(model.unravel(x)[0], data))


def arguments(case, data):
    """What NumPyro's own functions are called with."""
    if isinstance(data, dict):
        return case.args, {**case.kwargs, **data}
    given = () if data is None else data if isinstance(data, tuple) else (data,)
    return (*case.args, *given), case.kwargs


def without_subsample(case):
    """NumPyro's density of all rows is that of the model without a subsample."""
    if case.model in (subsampled, subsample_statement):
        return case._replace(kwargs={**case.kwargs, "subsample_size": None})
    return case


SLOW = {  # the others show the same of plates, scans, reparametrisation and distributions
    "eight schools, TransformReparam",
    "eight schools, centredness estimated",
    "logistic",
    "horseshoe",
    "stochastic volatility",
    "Gaussian process",
    "random effects",
    "hidden Markov",
    "capture-recapture",
    "ordinal",
    "Dirichlet-multinomial",
    "zero-inflated",
    "tank",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES]
)
def test_log_joint_is_numpyros(name):
    case = CASES[name]
    with precision("float64"):
        program = advi.from_numpyro(case.model, *case.args, **case.kwargs)
        model, data, spec = bind(program, case.data)
        log_joint = trace(model, spec)
        require_all_used(model, log_joint)
        assert log_joint.num_rows == case.num_rows
        log_p = model.log_joint

        @jax.jit
        def ours_and_theirs(x, data):
            values, _ = model.unravel(x)
            z = model.to_tree(values)
            params = {n: tree.unpack(z[n]) for n, tree in log_p.params}
            args, kwargs = arguments(without_subsample(case), data)
            given = z | model.program.deterministic.function(z, data) | params
            theirs, _ = log_density(case.model, args, kwargs, given)
            # they have no log-Jacobian of a moving support
            return log_joint(values, data).total(), theirs + log_p.run(z, data)[2]

        for seed in range(2):
            ours, theirs = ours_and_theirs(random_point(model, seed), data)
            np.testing.assert_allclose(ours, theirs, rtol=RTOL)


def test_moving_supports_have_numpyros_jacobian():
    case = CASES["moving supports"]
    with precision("float64"):
        model, data, spec = bind(advi.from_numpyro(case.model), case.data)
        assert list(model.latents) == ["top", "low_unconstrained", "above_unconstrained"]
        x = random_point(model)
        # NumPyro's transforms of these supports are the same: exp, logistic and lower + exp
        coordinates = {"top": x[0], "low": x[1], "above": x[2:]}
        energy = jax.jit(lambda u, data: potential_energy(case.model, (data,), {}, u))
        expected = -energy(coordinates, data)
        np.testing.assert_allclose(
            Density(model, data, spec).value(x[None])[0], expected, rtol=RTOL
        )


def test_latents_come_in_the_order_of_the_sites():
    with precision("float64"):
        model, _, _ = bind(advi.from_numpyro(CASES["mixture"].model, 3), CASES["mixture"].data)
    assert list(model.latents) == ["weights", "centres", "scale"]


def test_rows_are_the_log_likelihoods_of_the_rows():
    with precision("float64"):
        data = CASES["two-way"].data
        model, data, spec = bind(advi.from_numpyro(CASES["two-way"].model), data)
        x = random_point(model)
        rows = terms(model, spec)(data, x).rows
    log_sigma, b = x[0], x[1:]
    z = (CASES["two-way"].data["y"] - b) / np.exp(log_sigma)
    expected = (-0.5 * z**2 - log_sigma - 0.5 * np.log(2 * np.pi)).sum(1)
    np.testing.assert_allclose(rows, expected, rtol=RTOL)


def test_a_plate_inside_a_scan_can_be_the_rows():
    def panel(y):
        phi = numpyro.sample("phi", dist.Uniform(-1, 1))

        def step(last, y_t):
            with numpyro.plate("units", len(y_t)):
                numpyro.sample("y", dist.Normal(phi * last, 1), obs=y_t)
            return y_t, None

        scan(step, jnp.zeros(len(y)), y.T)  # data has one row a unit

    with precision("float64"):
        y = NOISE.reshape(3, 10)
        model, data, spec = bind(advi.from_numpyro(panel, rows="units"), y)
        rows = terms(model, spec)(data, np.zeros(1)).rows  # phi = 0
    expected = -0.5 * (y**2 + np.log(2 * np.pi)).sum(1)
    np.testing.assert_allclose(rows, expected, rtol=RTOL)


@pytest.mark.parametrize(
    ("numpyro_model", "kwargs"),
    [
        (CASES["logistic"].model, {}),
        (subsampled, {}),
        (subsampled, {"size": 30, "subsample_size": 5}),  # a size that does not follow the data
        (subsample_statement, {}),
    ],
)
def test_batches_are_unbiased(numpyro_model, kwargs):
    """The batches of a partition average to the whole, whatever subsample the model declares."""
    with precision("float64"):
        whole = {"x": X, "y": (Y > 0).astype(float)}
        model, data, spec = bind(advi.from_numpyro(numpyro_model, **kwargs), whole)
        x = random_point(model)
        expected = terms(model, spec)(data, x).total()
        totals = []
        for start in (0, 10, 20):
            batch, batch_spec = prepare(
                {k: v[start : start + 10] for k, v in whole.items()}, "float64"
            )
            totals.append(terms(model, batch_spec)(batch, x).total(3.0))
    np.testing.assert_allclose(np.mean(totals), expected, rtol=RTOL)


def test_minibatch_fit():
    """It ends at the posterior of all rows, which has a closed form."""
    model = advi.from_numpyro(subsampled, subsample_size=10)
    fit = advi.fit(model, {"x": X, "y": Y}, batch_size=10, max_steps=1500, diagnose=False)
    mean = np.linalg.solve(np.eye(3) + X.T @ X, X.T @ Y)
    np.testing.assert_allclose(fit.mean()["w"], mean, atol=0.05)


def whitened(num_schools, sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", num_schools):
        eta = numpyro.sample("eta", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def schools_fit():
    return advi.fit(advi.from_numpyro(whitened, 8), SCHOOLS, family="full_rank", diagnose=False)


def test_eight_schools_fit_is_that_of_the_plain_model(schools_fit):
    def log_joint(z, d):
        theta = z["mu"] + z["tau"] * z["eta"]
        prior = dist.Normal(0, 5).log_prob(z["mu"]) + dist.HalfCauchy(5).log_prob(z["tau"])
        prior += dist.Normal(0, 1).log_prob(z["eta"]).sum()
        return advi.Terms(prior, rows=dist.Normal(theta, d["sigma"]).log_prob(d["y"]))

    plain = advi.Model(log_joint, {"mu": advi.real(), "tau": advi.positive(), "eta": advi.real(8)})
    expected = advi.fit(plain, SCHOOLS, family="full_rank", diagnose=False)
    assert schools_fit.elbo.value == pytest.approx(expected.elbo.value, abs=1e-3)
    for name, mean in expected.mean().items():
        np.testing.assert_allclose(schools_fit.mean()[name], mean, atol=2e-3)


def test_second_fit_compiles_nothing():
    calls = []

    def counted(num_schools, sigma, y):
        calls.append(None)
        whitened(num_schools, sigma, y)

    program = advi.from_numpyro(counted, 8)
    first = advi.fit(program, SCHOOLS, family="mean_field")
    first.summary()
    before = len(calls)
    with compiled() as events:
        other = SCHOOLS | {"y": SCHOOLS["y"][::-1].copy()}
        advi.fit(advi.from_numpyro(counted, 8), other, family="mean_field").summary()
    assert not events
    # its sites, its log-joint and its deterministic sites: read anew
    assert len(calls) == 2 * before == 6


def test_deterministic_sites_come_out_beside_the_latents(schools_fit):
    fit = schools_fit
    draws = fit.sample(50)
    theta = draws["mu"][:, None] + draws["tau"][:, None] * draws["eta"]
    np.testing.assert_allclose(draws["theta"], theta, rtol=1e-5, atol=1e-5)
    many = fit.posterior.shown_draws.values
    theta = many["mu"][:, None] + many["tau"][:, None] * many["eta"]
    np.testing.assert_allclose(fit.mean()["theta"], theta.mean(0), rtol=1e-4)
    np.testing.assert_allclose(fit.sd()["theta"], theta.std(0), rtol=1e-4)
    np.testing.assert_allclose(fit.quantile(0.5)["theta"], np.median(theta, 0), rtol=1e-4)
    assert fit.summary().rows[-8:] == tuple(f"theta[{i}]" for i in range(8))
    assert fit.posterior.model.size == 10
    assert np.all(np.isfinite(fit.log_prob(draws)))  # what is derived is passed over


def test_deterministic_sites_are_corrected_too():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + jnp.arange(8.0))
        numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), SCHOOLS["y"], diagnose=False)
    assert fit.corrected().mean()["theta"].shape == (8,)


def test_parameters_are_estimated():
    def model(y):
        mu = numpyro.param("mu", lambda key: y.mean() + 1)
        sigma = numpyro.param("sigma", 2.0, constraint=constraints.positive)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    fit = advi.fit(advi.from_numpyro(model), Y, x64=True)
    assert fit.posterior.guide.estimated == {"mu", "sigma"}
    with pytest.raises(ValueError, match="unknown family"):
        advi.fit(advi.from_numpyro(model), Y, family="meanfield")
    assert float(fit.posterior.model.latents["mu"].init) == pytest.approx(Y.mean() + 1)
    np.testing.assert_allclose(fit.mean()["mu"], Y.mean(), rtol=1e-4)
    np.testing.assert_allclose(fit.mean()["sigma"], Y.std(), rtol=1e-4)


def test_parameters_keep_their_family_unless_it_is_named():
    with precision("float64"):
        model, _, _ = bind(advi.from_numpyro(CASES["parameters"].model), CASES["parameters"].data)
    for family in ("auto", "mean_field", {"z": advi.FullRank()}):
        assert resolve_family(model, family).estimated == {"loc", "scale"}
    assert resolve_family(model, {"loc": advi.MeanField()}).estimated == {"scale"}
    with pytest.raises(ValueError, match="unknown family"):
        resolve_family(model, "meanfield")


def test_a_tree_of_parameters_may_have_empty_places():
    def model(x, y):
        layer = numpyro.param("layer$params", {"layer": (jnp.ones(3), None)})["layer"]
        assert layer[1] is None
        numpyro.sample("y", dist.Normal(x @ layer[0], 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (X, Y), diagnose=False)
    assert list(fit.posterior.model.latents) == ["layer$params.layer.0"]
    least_squares = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(fit.mean()["layer$params"]["layer.0"], least_squares, atol=1e-3)


def test_parameters_that_have_priors_in_their_place_are_no_latents():
    def model(x, y):
        numpyro.param("net$params", {"w": jnp.zeros(3)})  # as random modules do
        w = numpyro.sample("net/w", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (X, Y), diagnose=False)
    assert list(fit.posterior.model.latents) == ["net/w"]
    assert not fit.posterior.guide.estimated


def test_flax_networks_are_estimated():
    nn = pytest.importorskip("flax.linen", reason="flax is not installed")

    def model(x, y):
        net = flax_module("net", nn.Dense(1), input_shape=(3,))
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (X, Y), diagnose=False)
    assert set(fit.posterior.model.latents) == {"net$params.kernel", "net$params.bias"}


def test_supports_follow_the_data():
    with precision("float64"):
        program = advi.from_numpyro(tank)
        for highest in (50.0, 250.0):
            model, _, _ = bind(program, np.array([1.0, highest]))
            assert model.latents["total"].bijection.lower == highest


def test_data_reaches_the_model_by_name_by_position_or_bound():
    def model(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)

    ways = [
        (advi.from_numpyro(model), {"x": X, "y": Y}),
        (advi.from_numpyro(model), (X, Y)),
        (advi.from_numpyro(model, X), Y),
        (advi.from_numpyro(model, y=Y), X),
        (advi.from_numpyro(model, X, y=Y), None),
    ]
    with precision("float64"):
        totals = []
        for program, data in ways:
            bound_model, data, spec = bind(program, data)
            assert trace(bound_model, spec).num_rows == 30
            totals.append(float(terms(bound_model, spec)(data, np.ones(3)).total()))
    np.testing.assert_allclose(totals, totals[0], rtol=RTOL)


def test_programs_are_equal_by_what_they_are_made_from():
    assert advi.from_numpyro(tank) == advi.from_numpyro(tank)
    assert advi.from_numpyro(whitened, 8) != advi.from_numpyro(whitened, 8.0)
    assert advi.from_numpyro(tank, rows="rows") != advi.from_numpyro(tank)
    assert advi.from_numpyro(tank, X) == advi.from_numpyro(tank, X)
    assert advi.from_numpyro(tank, X) != advi.from_numpyro(tank, X.copy())


def test_check_examines_numpyro_models():
    checkup = advi.check(advi.from_numpyro(CASES["mask"].model), CASES["mask"].data)
    assert checkup.ok  # values and gradients are finite, NaN in the data or not
    assert list(checkup.model.latents) == ["mu"]


def no_latent(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def discrete(y):
    k = numpyro.sample("k", dist.Poisson(3))
    numpyro.sample("y", dist.Normal(k, 1), obs=y)


def discrete_in_scan(y):
    def step(carry, y_t):
        k = numpyro.sample("state", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(k, 1), obs=y_t)
        return carry, None

    scan(step, 0.0, y)


def moving_in_scan(y):
    def step(last, y_t):
        z = numpyro.sample("z", dist.Uniform(0, last + 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y_t)
        return z, None

    scan(step, numpyro.sample("first", dist.HalfNormal(1)), y)


def running_state(y):
    mutable("averages", {"mean": 0.0})
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=y)


def size_from_values(y):
    with numpyro.plate("groups", int(y.max())):
        numpyro.sample("z", dist.Normal(0, 1))


@pytest.mark.parametrize(
    ("model", "data", "kind", "message"),
    [
        (no_latent, Y, ValueError, "no latent site"),
        (discrete, Y, TypeError, "'k' is discrete .*MixtureSameFamily"),
        (discrete_in_scan, Y, TypeError, "'state' is discrete"),
        (moving_in_scan, Y, TypeError, "'z': its support depends on another latent"),
        (running_state, Y, TypeError, "'averages' holds mutable state"),
        (size_from_values, Y, TypeError, "only the shape is known.*from_numpyro"),
        (tank, {"x": Y}, TypeError, r"tank takes \(serial_numbers\), and has no argument 'x'"),
        (tank, None, TypeError, "missing a required argument: 'serial_numbers'"),
    ],
)
def test_models_that_are_refused(model, data, kind, message):
    for function in (advi.fit, advi.check):
        with pytest.raises(kind, match=message):
            function(advi.from_numpyro(model), data)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"model: got an array .*advi.fit\(advi.from_numpyro"):
        advi.from_numpyro(X)
    with pytest.raises(TypeError, match="rows: got 3"):
        advi.from_numpyro(tank, rows=3)
    with pytest.raises(TypeError, match="'y' was given to from_numpyro already"):
        advi.fit(advi.from_numpyro(whitened, 8, y=Y), SCHOOLS)
    with pytest.raises(ValueError, match="'school'; did you mean 'schools'"):
        advi.fit(advi.from_numpyro(whitened, 8, rows="school"), SCHOOLS)
    with pytest.raises(ValueError, match="10 rows, but no data leaf has that leading axis"):
        advi.fit(advi.from_numpyro(by_column, rows="rows"), NOISE.reshape(3, 10))
    with pytest.raises(TypeError, match=r"expected an advi.Model.*advi.from_numpyro\(model\)"):
        advi.fit(whitened, SCHOOLS)


def by_column(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", y.shape[1]):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_a_plate_that_is_no_leading_axis_gives_a_scalar():
    with precision("float64"):
        model, _, spec = bind(advi.from_numpyro(by_column), NOISE.reshape(3, 10))
        assert trace(model, spec).num_rows is None
