"""Latents of NumPyro models inside the plate of the rows: one value per row of the data."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density
from scipy.stats import multivariate_normal

import advi
from advi.core.jax_config import precision
from advi.data.spec import prepare
from advi.model.resolve import bind as bind_model
from advi.model.rows import for_rows
from advi.model.trace import trace
from tests.model.numpyro.numpyro_models import Case

RTOL = 1e-12  # double precision, sums of some dozens of terms
RNG = np.random.default_rng(3)
N = 12
Y = RNG.standard_normal(N)
WIDE = RNG.standard_normal((N, 3))
SEEN = Y > -0.5


def columns_inside(y):
    """A plate nested inside that of the rows stands before it in every value."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        a = numpyro.sample("a", dist.Normal(mu, 1))
        with numpyro.plate("columns", y.shape[1]):
            h = numpyro.sample("h", dist.HalfNormal(1))
            numpyro.sample("y", dist.Normal(a, h), obs=y.T)


def columns_outside(y):
    """Other plates before and behind the rows, and event axes behind them."""
    rows = numpyro.plate("rows", len(y), dim=-2)
    with numpyro.plate("columns", y.shape[1], dim=-1) as columns:
        b = numpyro.sample("b", dist.Normal(0, 1))
        with rows:
            p = numpyro.sample("p", dist.Dirichlet(jnp.ones(4)))
            numpyro.sample("y", dist.Normal(b + p[..., 0], 1), obs=y[:, columns])


def bounds(y):
    """Supports with bounds that are the same in every row."""
    top = jnp.arange(1.0, 4.0)
    with numpyro.plate("rows", len(y)):
        h = numpyro.sample("h", dist.Uniform(-top, top).to_event(1))
        t = numpyro.sample("t", dist.TruncatedNormal(0.0, 1.0, low=-1.0))
        numpyro.sample("y", dist.Normal(h, 1 + t[:, None] ** 2).to_event(1), obs=y)


def series(y):
    """A scan over columns with a plate of rows inside."""
    noise = numpyro.sample("noise", dist.HalfNormal(1))

    def step(last, y_t):
        with numpyro.plate("rows", len(y)):
            level = numpyro.sample("level", dist.Normal(last, 1))
            numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, None

    scan(step, jnp.zeros(len(y)), y.T)


def noncentred(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        with handlers.reparam(config={"theta": LocScaleReparam(0)}):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("twice", 2 * theta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def subsampled(seen, table, y, subsample_size=4):
    """A plate of a fixed size that declares a subsample; a data leaf that has no rows."""
    with numpyro.plate("rows", N, subsample_size=subsample_size) as index:
        with handlers.mask(mask=seen[index]), handlers.scale(scale=0.5):
            h = numpyro.sample("h", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(h @ table, 1), obs=y[index])


def missing(seen, x, y):
    """Where `obs_mask` is false the site is a latent, which another one depends on."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        x = numpyro.sample("x", dist.LogNormal(mu, 1), obs=x, obs_mask=seen)
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


CASES = {
    "columns inside": Case(columns_inside, WIDE, kwargs={"rows": "rows"}),
    "columns outside": Case(columns_outside, WIDE),
    "bounds": Case(bounds, {"y": WIDE}),
    "scan": Case(series, WIDE, kwargs={"rows": "rows"}),
    "LocScaleReparam": Case(noncentred, {"sigma": np.exp(Y), "y": Y}),
    "subsample": Case(subsampled, {"seen": SEEN, "table": np.arange(3.0), "y": Y}),
    "obs_mask": Case(missing, {"seen": SEEN, "x": np.exp(Y), "y": Y}),
}
# shapes of the local latents' values for one row
SHAPES = {
    "columns inside": {"a": (), "h": (3,)},
    "columns outside": {"p": (3, 4)},
    "bounds": {"h": (3,), "t": ()},
    "scan": {"level": (3,)},
    "LocScaleReparam": {"theta_decentered": ()},
    "subsample": {"h": (3,)},
    "obs_mask": {"x_unobserved": ()},
}


def bind(case):
    data, spec = prepare(case.data, "float64")
    return bind_model(advi.from_numpyro(case.model, **case.kwargs), data, spec), data, spec


@lru_cache
def terms(model, spec):
    log_joint = trace(model, spec)
    # a dict that comes out of compiled code is sorted by its keys
    return jax.jit(lambda values, data: log_joint({k: values[k] for k in model.latents}, data))


# the others have plates beside that of the rows, supports and reparametrised sites, too
SLOW = {"columns inside", "bounds", "LocScaleReparam"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES]
)
def test_log_joint_is_numpyros_and_batches_add_up(name):
    case = CASES[name]
    with precision("float64"):
        model, data, spec = bind(case)
        assert {k: model.latents[k].shape for k in model.local} == SHAPES[name]
        whole = for_rows(model, spec)
        x = np.random.default_rng(1).uniform(-1, 1, whole.size)
        values = jax.jit(whole.unravel)(x)[0]
        ours = terms(whole, spec)(values, data)
        assert ours.rows.shape == ours.prior.shape == (N,)

        args, kwargs = ((), data) if isinstance(data, dict) else ((data,), {})
        if name == "subsample":  # NumPyro's density of all rows is that without
            kwargs = {**kwargs, "subsample_size": None}
        theirs = jax.jit(lambda z: log_density(case.model, args, kwargs, z)[0])(values)
        # entries that are masked away have a standard normal on the real line
        flat = np.log(values["x_unobserved"][SEEN]) if name == "obs_mask" else np.zeros(0)
        given = np.sum(-0.5 * flat**2 - 0.5 * np.log(2 * np.pi) - flat)
        np.testing.assert_allclose(ours.total(), theirs + given, rtol=RTOL)

        batches = []
        for start in range(0, N, 4):
            part = slice(start, start + 4)
            batch, batch_spec = prepare(
                jax.tree.map(lambda leaf, p=part: leaf[p] if len(leaf) == N else leaf, data),
                "float64",
            )
            axes = dict(model.log_joint.plate.axes)
            of_rows = {
                k: jnp.moveaxis(jnp.moveaxis(v, axes[k], 0)[part], 0, axes[k]) if k in axes else v
                for k, v in values.items()
            }
            batches.append(terms(model.with_rows(4), batch_spec)(of_rows, batch))
        np.testing.assert_allclose(
            np.concatenate([b.per_row for b in batches]), ours.per_row, rtol=RTOL
        )
        for batch in batches:
            np.testing.assert_allclose(batch.shared, ours.shared, rtol=RTOL)


# What cannot be local stays as it is.


def moving(y):
    top = numpyro.sample("top", dist.HalfNormal(3))
    with numpyro.plate("rows", len(y)):
        h = numpyro.sample("h", dist.Uniform(0, top))
        numpyro.sample("y", dist.Normal(h, 1), obs=y)


def bounds_of_rows(y):
    with numpyro.plate("rows", len(y)):
        h = numpyro.sample("h", dist.Uniform(y - 1, y + 1))
        numpyro.sample("y", dist.Normal(h, 1), obs=y)


def parameter_of_rows(y):
    with numpyro.plate("rows", len(y)):
        loc = numpyro.param("loc", jnp.zeros(len(y)), event_dim=0)
        h = numpyro.sample("h", dist.Normal(loc, 1))
        numpyro.sample("y", dist.Normal(h, 1), obs=y)


def sum_outside(y):
    with numpyro.plate("rows", len(y)):
        h = numpyro.sample("h", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(h, 1), obs=y)
    numpyro.factor("sum", -(h.sum() ** 2))


REFUSED = {
    moving: "'h_unconstrained' have .* cannot be local: the support of 'h' depends on another",
    bounds_of_rows: "the support of 'h' differs from row to row",
    parameter_of_rows: "'loc', 'h' have .* rows of the plate 'rows', .*: 'loc' is a parameter",
    sum_outside: "a site outside the plate depends on 'h'",
}


@pytest.mark.parametrize("model", REFUSED)
def test_latents_that_cannot_be_local_need_all_rows(model):
    program, words = advi.from_numpyro(model), REFUSED[model]
    with precision("float64"):
        assert not bind(Case(model, Y))[0].local
    with pytest.raises(ValueError, match=words):
        advi.fit(program, Y, batch_size=4)
    with pytest.raises(ValueError, match=words):
        advi.fit(program, [(Y[:6],), (Y[6:],)], num_rows=12)
    with pytest.raises(ValueError, match=words):
        advi.fit(program, Y, family={"h_unconstrained" if model is moving else "h": advi.PerRow()})
    if model is sum_outside:
        assert advi.fit(program, Y, diagnose=False).mean()["h"].shape == (12,)


def test_a_family_of_rows_needs_a_plate_of_the_rows():
    def no_plate(y):
        h = numpyro.sample("h", dist.Normal(0, 1).expand([N]).to_event(1))
        numpyro.sample("y", dist.Normal(h, 1).to_event(1), obs=y)

    with pytest.raises(ValueError, match=r"no plate .*advi.from_numpyro\(model, rows='NAME'\)"):
        advi.fit(advi.from_numpyro(no_plate), Y, family={"h": advi.PerRow()})
    with pytest.raises(ValueError, match=r"b is not local.*inside the plate of its rows"):
        advi.fit(advi.from_numpyro(columns_outside), WIDE, family={"b": advi.PerRow()})


def test_without_data_there_are_no_rows_to_take():
    with precision("float64"):
        model, _, _ = bind(Case(lambda: bounds(WIDE)))
    assert not model.local
    assert "has all of its data" in model.program.needs_all_rows


# Fits.


@pytest.fixture(scope="module")
def table_fit():
    """A table of the effects, by steps on a third of the rows."""
    data = {"sigma": np.full(N, 0.5), "y": Y}
    steps = {"batch_size": 4, "max_steps": 4000, "diagnose": False}
    return advi.fit(advi.from_numpyro(noncentred), data, **steps)


def test_minibatches_end_where_all_rows_do(table_fit):
    data = {"sigma": np.full(N, 0.5), "y": Y}
    whole = advi.fit(advi.from_numpyro(noncentred), data, family="mean_field", diagnose=False)
    assert table_fit.posterior.guide.tables == ("theta_decentered",)
    assert abs(table_fit.elbo.value - whole.elbo.value) < 0.1 + 3 * table_fit.elbo.mcse
    for name in ("mu", "tau", "theta_decentered"):
        np.testing.assert_allclose(table_fit.mean()[name], whole.mean()[name], atol=0.1)


def test_deterministic_sites_come_out_with_draws(table_fit):
    draws = table_fit.to_dict(5)
    theta = draws["mu"][:, None] + draws["tau"][:, None] * draws["theta_decentered"]
    np.testing.assert_allclose(draws["twice"], 2 * theta, rtol=1e-5)
    assert list(draws) == ["mu", "tau", "theta_decentered", "theta", "twice"]
    posterior = table_fit.to_arviz(5)["posterior"]
    assert posterior["theta_decentered"].dims == ("chain", "draw", "row")
    assert posterior["twice"].shape == (1, 5, N)


K, D, ROWS, NOISE = 2, 5, 400, 0.5


def ppca(x):
    """Principal components with a decoder of parameters: a linear autoencoder."""
    w = numpyro.param("decoder$params", {"w": jnp.asarray(START)})["w"]
    with numpyro.plate("rows", len(x)):
        h = numpyro.sample("h", dist.Normal(0, 1).expand([K]).to_event(1))
        mean = numpyro.deterministic("mean", h @ w.T)
        numpyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)


def ppca_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, K)) @ rng.standard_normal((K, D))
    x = x - x.mean(0) + NOISE * rng.standard_normal((ROWS, D))
    return {"x": x.astype(np.float32)}, rng.standard_normal((D, K)).astype(np.float32)


DATA, START = ppca_data()


def encode(params, row):
    return params["A"] @ row["x"], params["log_sd"]


def log_evidence(w, x):
    return multivariate_normal(np.zeros(D), w @ w.T + NOISE**2 * np.eye(D)).logpdf(x)


@pytest.fixture(scope="module")
def encoder_fit():
    zero = {"A": np.zeros((K, D), np.float32), "log_sd": np.zeros(K, np.float32)}
    return advi.fit(
        advi.from_numpyro(ppca),
        DATA,
        batch_size=100,
        family={"h": advi.Amortised(encode, zero)},
        max_steps=3000,
        diagnose=False,
    )


def test_an_encoder_reaches_the_exact_marginal_likelihood(encoder_fit):
    fit = encoder_fit
    assert fit.posterior.guide.description == "amortised mean_field(h), point(decoder$params)"
    # Tipping & Bishop (1999), eq. 7: the loadings that maximise the likelihood at this noise
    values, vectors = np.linalg.eigh(DATA["x"].T.astype(float) @ DATA["x"] / ROWS)
    best = log_evidence(vectors[:, -K:] * np.sqrt(values[-K:] - NOISE**2), DATA["x"]).mean()
    w = np.asarray(fit.mean()["decoder$params"]["w"], float)
    assert abs(log_evidence(w, DATA["x"]).mean() - best) < 0.01
    assert abs(fit.elbo.value / ROWS - best) < 0.02
    assert fit.posterior.density.log_joint.has_prior  # which `Elbo(beta=...)` tempers


def test_new_rows(encoder_fit):
    new = {"x": DATA["x"][:30] + 0.1}
    w = np.asarray(encoder_fit.mean()["decoder$params"]["w"], float)
    found = encoder_fit.log_marginal(new, draws=200)
    np.testing.assert_allclose(found.rows, log_evidence(w, new["x"]), atol=0.05)
    draws = encoder_fit.sample(2, data=new)
    assert draws["h"].shape == (2, 30, K)
    assert "mean" not in draws  # it belongs to the rows of the fit
    draws = encoder_fit.sample(2)
    np.testing.assert_allclose(draws["mean"], draws["h"] @ w.T, rtol=1e-3, atol=1e-4)


# short: the tests of `Iwae` in tests/posterior, of a log-joint with local latents
@pytest.mark.slow
def test_importance_weights(encoder_fit):
    family = {"h": encoder_fit.posterior.guide.blocks[0].family}
    settings = {"objective": advi.Iwae(5), "init": encoder_fit, "max_steps": 10}
    fit = advi.fit(advi.from_numpyro(ppca), DATA, batch_size=100, family=family, **settings)
    assert fit.elbo.value == pytest.approx(encoder_fit.elbo.value, rel=0.01)
    assert encoder_fit.posterior.density.log_joint.has_prior  # which `Elbo(beta=...)` tempers
