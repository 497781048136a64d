"""Local latents: tables, encoders, minibatches of rows, new rows, importance weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal, norm

import advi
from advi.data.batching import Batching
from advi.data.row_subset import CHUNK_ROWS
from advi.data.spec import prepare
from advi.inference.stochastic import loop
from advi.inference.stochastic.steps import State, Steps
from advi.model.real_density import real_log_density
from advi.model.trace import trace
from advi.variational import draws
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import TriangularScale

N, D, K, NOISE = 400, 5, 2, 0.5


def ppca_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, K)) @ rng.standard_normal((K, D))
    x = x - x.mean(0) + NOISE * rng.standard_normal((N, D))
    return {"x": x.astype(np.float32)}


DATA = ppca_data()


def ppca_solution():
    """Loadings (D, K) that maximise the likelihood at this noise: Tipping & Bishop 1999, eq. 7."""
    values, vectors = np.linalg.eigh(DATA["x"].T.astype(float) @ DATA["x"] / N)
    return vectors[:, -K:] * np.sqrt(values[-K:] - NOISE**2)


LOADINGS = ppca_solution()
# columns of the solution may be turned: then the posterior of a row is correlated
TURNED = LOADINGS @ np.array([[0.8, -0.6], [0.6, 0.8]])


def exact(loadings, x=DATA["x"]):
    """Log p(x) of every row."""
    return multivariate_normal(np.zeros(D), loadings @ loadings.T + NOISE**2 * np.eye(D)).logpdf(x)


def optimal(loadings):
    """The exact posterior's encoder: mean A x, and covariance."""
    precision = loadings.T @ loadings / NOISE**2 + np.eye(K)
    return np.linalg.solve(precision, loadings.T / NOISE**2), np.linalg.inv(precision)


def log_joint(z, d):
    rows = -0.5 * ((d["x"] - z["h"] @ z["w"].T) / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi))
    prior = -0.5 * z["h"] ** 2 - 0.5 * np.log(2 * np.pi)
    return advi.Terms(-0.5e-4 * jnp.sum(z["w"] ** 2), rows=rows.sum(-1), prior=prior.sum(-1))


def ppca(loadings=LOADINGS):
    return advi.Model(
        log_joint, {"h": advi.real(K, local=True), "w": advi.real(D, K, init=loadings)}
    )


def encode(params, row):
    return params["A"] @ row["x"], params["log_sd"]


def encode_full(params, row):
    return params["A"] @ row["x"], params["raw_tril"]


ZERO = {"A": np.zeros((K, D)), "log_sd": np.zeros(K)}
BEST = {"A": optimal(LOADINGS)[0], "log_sd": 0.5 * np.log(np.diag(optimal(LOADINGS)[1]))}
STILL = optax.sgd(0.0)
TRAINING = {
    "optimizer": optax.adam(optax.cosine_decay_schedule(0.03, 2000)),
    "objective": advi.Elbo(draws=2, estimator="stl"),
    "max_steps": 2000,
}


@pytest.fixture(scope="module")
def best_fit():
    """The exact posterior of every row, by an encoder."""
    family = {"h": advi.Amortised(encode, BEST), "w": advi.Point()}
    return advi.fit(ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=1)


# The exact answers of probabilistic PCA.


@pytest.mark.parametrize(
    ("loadings", "local"),
    [
        (LOADINGS, advi.Amortised(encode, ZERO)),
        pytest.param(
            TURNED,
            advi.Amortised(
                encode_full, {"A": np.zeros((K, D)), "raw_tril": np.zeros((K, K))}, advi.FullRank()
            ),
            marks=pytest.mark.slow,  # short: test_a_full_rank_encoder_holds_the_exact_posterior
        ),
        (LOADINGS, advi.PerRow()),
    ],
    ids=["encoder", "full-rank encoder", "table"],
)
def test_the_elbo_reaches_the_exact_marginal_likelihood(loadings, local):
    """From zero, with the loadings moving too: .01 nat a row."""
    fit = advi.fit(
        ppca(loadings), DATA, batch_size=100, family={"h": local, "w": advi.Point()}, **TRAINING
    )
    shared = 0.5e-4 * np.sum(fit.mean()["w"] ** 2)
    best = exact(LOADINGS).mean()
    assert abs(exact(np.asarray(fit.mean()["w"], float)).mean() - best) < 1e-3
    assert abs((fit.elbo.value + shared) / N - best) < 0.01
    assert fit.elbo.mcse / N < 0.005


def test_log_marginal_is_the_exact_one(best_fit):
    """With q the exact posterior every weight is p(x), whatever the draws."""
    found = best_fit.log_marginal(DATA, draws=3)
    np.testing.assert_allclose(found.rows, exact(LOADINGS), atol=1e-3)
    assert found.mean.value == pytest.approx(exact(LOADINGS).mean(), abs=1e-4)
    assert found.mean.mcse == pytest.approx(exact(LOADINGS).std(ddof=1) / np.sqrt(N), rel=1e-3)


def test_importance_bounds_rise_from_the_elbo_to_log_p():
    family = {"h": advi.Amortised(encode, ZERO), "w": advi.Point()}
    fit = advi.fit(ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=1)
    some = {"x": DATA["x"][:30]}
    # the more draws, the fewer keys tell where the mean is
    bounds = [
        np.mean([fit.log_marginal(some, draws=k, key=key).mean.value for key in range(keys)])
        for k, keys in ((1, 8), (10, 8), (100, 8), (20_000, 2))
    ]
    assert np.all(np.diff(bounds) > 0)
    # the ELBO of q = N(0, 1) in closed form
    norms = np.sum(some["x"] ** 2) + 30 * np.sum(LOADINGS**2)
    elbo = -0.5 * norms / 30 / NOISE**2 - D * np.log(NOISE * np.sqrt(2 * np.pi))
    assert bounds[0] == pytest.approx(elbo, abs=1.5)  # 240 draws of sd about 20
    assert bounds[-1] == pytest.approx(exact(LOADINGS, some["x"]).mean(), abs=0.1)


# Objectives.


BATCH = 8


def parts_of(loadings, encoder):
    """Log density and guide of a batch of the model, and its parameters, data and their spec."""
    data, spec = prepare({"x": DATA["x"][:BATCH]}, "float32")
    spec = spec.by_row(BATCH)
    guide = resolve_family(ppca(), {"h": encoder, "w": advi.Point()}).with_rows(BATCH)
    log_p = real_log_density(guide.model, trace(guide.model, spec), guide.estimated)
    loc = np.concatenate([np.zeros(BATCH * K), loadings.ravel()])
    return log_p, guide, guide.params_of(Gaussian.diagonal(loc, 1.0), "float32"), data, spec


@pytest.fixture(scope="module")
def parts():
    return parts_of(LOADINGS, advi.Amortised(encode, ZERO))


def test_a_full_rank_encoder_holds_the_exact_posterior():
    """Then every draw has the log evidence of the rows."""
    mean, cov = optimal(TURNED)
    scale = TriangularScale(np.linalg.cholesky(cov))
    best = {"A": mean, "raw_tril": advi.FullRank().from_gaussian(np.zeros(K), scale).raw_tril}
    encoder = advi.Amortised(encode_full, best, advi.FullRank())
    log_p, guide, params, data, spec = parts_of(TURNED, encoder)
    eps = np.random.default_rng(1).standard_normal((3, guide.noise_dim)).astype(np.float32)

    @jax.jit
    def value(params, data, eps):
        params = guide.at_rows(params, data, spec)
        stl = advi.Elbo(estimator="stl")
        return stl.value(lambda z: log_p(z, data), guide, params, eps[None], 1.0)

    expected = exact(TURNED, DATA["x"][:BATCH]).sum() - 0.5e-4 * np.sum(TURNED**2)
    for one in eps:
        assert float(value(params, data, one)) == pytest.approx(expected, rel=1e-5)


def test_one_importance_draw_is_the_elbo(parts):
    log_p, guide, params, data, spec = parts
    eps = np.random.default_rng(1).standard_normal((3, guide.noise_dim)).astype(np.float32)

    @jax.jit
    def values(params, data, eps):
        params = guide.at_rows(params, data, spec)

        def value(objective, eps):
            return objective.value(lambda z: log_p(z, data), guide, params, eps, 7.0)

        stl = advi.Elbo(estimator="stl")
        return (
            value(advi.Iwae(1), eps[:1]), value(stl, eps[:1]), value(advi.Iwae(3), eps),
            value(stl, eps),
        )  # fmt: skip

    one, of_one, many, of_many = values(params, data, eps)
    assert float(one) == pytest.approx(float(of_one), rel=1e-6)
    assert many > of_many


def no_prior(z, d):
    return log_joint(z, d)._replace(shared=0.0)


def test_weights_take_a_shared_term_that_is_a_python_number():
    model = advi.Model(no_prior, {"h": advi.real(K, local=True), "w": advi.real(D, K)})
    family = {"h": advi.Amortised(encode, BEST), "w": advi.Point()}
    steps = advi.svi(
        model, DATA, batch_size=50, optimizer=STILL, objective=advi.Iwae(1), family=family
    )
    state = jax.eval_shape(steps.init, jax.random.key(0))
    assert jax.eval_shape(steps.step, state, {"x": DATA["x"][:50]})[1].elbo.shape == ()


@pytest.mark.slow  # short: the test before, and test_one_importance_draw_is_the_elbo
def test_a_fit_by_one_importance_draw_is_one_by_the_elbo():
    """Also where the shared term is a Python number."""
    model = advi.Model(no_prior, {"h": advi.real(K, local=True), "w": advi.real(D, K)})
    traces = [
        advi.fit(
            model, DATA, batch_size=50, max_steps=3, optimizer=STILL, objective=objective,
            family={"h": advi.Amortised(encode, BEST), "w": advi.Point()},
        ).elbo_trace
        for objective in (advi.Iwae(1), advi.Elbo(draws=1, estimator="stl"))
    ]  # fmt: skip
    # draws differ: fresh ones for the bound, antithetic ones for the ELBO
    np.testing.assert_allclose(traces[0], traces[1], rtol=0.1)


@pytest.mark.parametrize("estimator", ["entropy", "stl"])
def test_beta_scales_the_divergence_of_local_latents(estimator, parts):
    """In closed form for q = N(0, 1): the divergence is zero at sd one, and known elsewhere."""
    log_p, guide, params, data, spec = parts
    eps = draws.fixed(np.random.default_rng(0), 4 * guide.noise_dim, guide.noise_dim)
    schedule = optax.linear_schedule(0.0, 1.0, 10)

    @jax.jit
    def values(params, data, eps):
        params = guide.at_rows(params, data, spec)
        params = (params[0]._replace(log_sd=params[0].log_sd + 0.5), *params[1:])

        def value(beta, step=0):
            elbo = advi.Elbo(estimator=estimator, beta=beta)
            return elbo.value(lambda z: log_p(z, data), guide, params, eps, 2.0, step)

        return value(0.0), value(0.25), value(1.0), value(schedule, 10)

    none, quarter, whole, scheduled = map(float, values(params, data, eps.astype(np.float32)))
    divergence = 2.0 * BATCH * K * 0.5 * (np.exp(1.0) - 1 - 1.0)
    assert none - whole == pytest.approx(divergence, rel=1e-4)
    assert none - quarter == pytest.approx(0.25 * divergence, rel=1e-3)
    assert scheduled == pytest.approx(whole, rel=1e-6)


# Batches of rows.


def local_scale_model():
    """A positive local latent, whose log-Jacobian belongs to its row."""

    def joint(z, d):
        rows = norm_logpdf(d["y"], z["mu"], z["s"]) - z["s"] - 0.5 * z["t"][:, 0] ** 2
        return advi.Terms(-0.5 * z["mu"] ** 2, rows=rows)

    def norm_logpdf(y, loc, scale):
        return -0.5 * ((y - loc) / scale) ** 2 - jnp.log(scale)

    latents = {"mu": advi.real(), "s": advi.positive(local=True), "t": advi.real(1, local=True)}
    return advi.Model(joint, latents), {"y": np.linspace(-1, 2, 12).astype(np.float32)}


@pytest.fixture(scope="module")
def table_fit():
    """A fit with tables, of data of which only `num_rows` says what is a row."""
    model, data = local_scale_model()
    data["table"] = np.zeros((3, 2), np.float32)
    return advi.fit(model, data, num_rows=12, batch_size=4, max_steps=5), data


def test_the_gradient_of_a_batch_is_unbiased():
    """The batches of an epoch have the gradient of all rows on average, exactly."""
    model, data = local_scale_model()
    data, spec = prepare(data, "float32")
    spec = spec.by_row(12)
    whole = resolve_family(model, "mean_field").with_rows(12)
    rng = np.random.default_rng(2)
    params = whole.params_of(Gaussian.diagonal(rng.standard_normal(25), 0.5), "float32")
    mu_noise, row_noise = np.float32([0.3]), jnp.float32(rng.standard_normal((12, 2)))

    def gradient_of(num):
        guide = whole.with_rows(num)
        log_joint = trace(guide.model, spec.with_length(num))
        log_p = real_log_density(guide.model, log_joint, frozenset())

        def value(params, index):
            batch = spec.gather(data, index)
            eps = [row_noise[index].ravel() if b.local else mu_noise for b in guide.blocks]
            seen = tuple(
                jax.tree.map(lambda leaf: leaf[index], p) if b.local else p
                for b, p in zip(guide.blocks, params, strict=True)
            )
            return advi.Elbo().value(
                lambda z: log_p(z, batch), guide, seen, jnp.concatenate(eps)[None], 12 / num
            )

        return jax.jit(jax.grad(value))

    key = jax.random.key(0)
    index, one, every = jax.jit(Batching(12, 4).index), gradient_of(4), gradient_of(12)
    batches = [one(params, index(key, step)) for step in range(3)]
    mean = jax.tree.map(lambda *leaves: sum(map(np.asarray, leaves)) / 3, *batches)
    for got, want in zip(
        jax.tree.leaves(mean), jax.tree.leaves(every(params, np.arange(12))), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_step_touches_only_the_rows_it_sees(monkeypatch):
    states = []

    def keep(function):
        def kept(steps, *args):
            out = function(steps, *args)
            states.append((out[0] if isinstance(out[0], State) else out, steps))
            return out

        return kept

    monkeypatch.setattr(Steps, "init", keep(Steps.init))
    monkeypatch.setattr(loop, "take_chunk", keep(loop.take_chunk))
    family = {"h": advi.PerRow(), "w": advi.Point()}
    advi.fit(ppca(), DATA, batch_size=100, family=family, **{**TRAINING, "max_steps": 1})
    (before, steps), (after, _) = states
    seen = np.asarray(steps.batching.index(before.key, before.step))
    unseen = np.setdiff1d(np.arange(N), seen)
    tables = 0
    for old, new in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        old, new = np.asarray(old), np.asarray(new)
        if old.shape[:1] == (N,):
            tables += 1
            np.testing.assert_array_equal(new[unseen], old[unseen])
            assert np.all(np.any(new[seen] != old[seen], axis=1))
    assert tables == 6  # loc and log_sd, and both of Adam's moments of each


def test_the_plan_sees_local_latents_as_latents_with_an_axis_of_rows():
    model, data = local_scale_model()
    plain = advi.Model(
        model.log_joint, {"mu": advi.real(), "s": advi.positive(12), "t": advi.real(12, 1)}
    )
    one, other = (
        advi.fit(m, data, family="mean_field", x64=True, diagnose=False) for m in (model, plain)
    )
    # the sums are taken in another order
    assert one.elbo.value == pytest.approx(other.elbo.value, abs=1e-5)
    for name, value in one.mean().items():
        np.testing.assert_allclose(value, other.mean()[name], atol=1e-4)


def test_an_encoder_on_all_rows_until_settled():
    fit = advi.fit(ppca(), DATA, family={"h": advi.Amortised(encode, BEST), "w": advi.Point()})
    assert fit.status == "converged"
    assert abs(fit.elbo.value / N - exact(LOADINGS).mean()) < 0.01


def test_an_inferred_decoder_is_one_family_exchanged(best_fit):
    """Begun at the fit with a point; its posterior is the narrow one of N rows."""
    fit = advi.fit(
        ppca(),
        DATA,
        batch_size=100,
        family={"h": advi.Amortised(encode, BEST), "w": advi.MeanField()},
        init=best_fit,
        optimizer=optax.adam(0.01),
        max_steps=1500,
    )
    assert set(fit.summary().rows) == {f"w[{i},{j}]" for i in range(D) for j in range(K)}
    assert fit.summary("w", top=1).rows == ("w[0,0]",)
    with pytest.raises(ValueError, match="names: 'h' is local or a point"):
        fit.summary(["w", "h"])
    # a regression on latents of unit variance
    np.testing.assert_allclose(fit.sd()["w"], NOISE / np.sqrt(N), rtol=0.15)
    with pytest.raises(ValueError, match="'w' is shared by all rows and has a distribution"):
        fit.log_marginal()


# What a fit gives.


@pytest.fixture(scope="module")
def certain_fit():
    certain = BEST | {"log_sd": np.full(K, -20.0)}
    family = {"h": advi.Amortised(encode, certain), "w": advi.Point()}
    return advi.fit(ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=1)


@pytest.mark.parametrize("rows", [1, 5, CHUNK_ROWS, CHUNK_ROWS + 44])
def test_new_rows_of_any_number(certain_fit, rows):
    draws = certain_fit.sample(2, data={"x": DATA["x"][:rows]})
    assert draws["h"].shape == (2, rows, K)
    assert draws["w"].shape == (2, D, K)
    expected = DATA["x"][:rows] @ BEST["A"].T
    np.testing.assert_allclose(draws["h"], [expected, expected], atol=1e-5)


def test_moments_of_local_latents_are_those_of_every_row(best_fit):
    expected = DATA["x"] @ BEST["A"].T
    sd = np.exp(BEST["log_sd"])
    np.testing.assert_allclose(best_fit.mean()["h"], expected, atol=1e-5)
    np.testing.assert_allclose(best_fit.sd()["h"], np.broadcast_to(sd, (N, K)), rtol=1e-4)
    low, middle = best_fit.quantile([0.1, 0.5])["h"]
    # 256 draws give a quantile to about a tenth of an sd
    np.testing.assert_allclose((low - expected) / sd, norm.ppf(0.1), atol=0.2)
    np.testing.assert_allclose((middle - expected) / sd, 0, atol=0.1)
    assert best_fit.sample(3)["h"].shape == (3, N, K)
    np.testing.assert_array_equal(best_fit.sd()["w"], 0)


def test_what_is_printed_stays_short(best_fit):
    text = repr(best_fit)
    assert "amortised mean_field(h), point(w)" in text
    assert text.endswith("h: 2 per row, 400 rows, amortised\nw: 10 estimated")
    assert best_fit.verdict.level == "not checked"
    assert "advi.amortisation_gap(fit, data)" in best_fit.verdict.action
    assert "<table>" in best_fit._repr_html_()


def test_a_fit_with_a_table_knows_only_its_rows(table_fit):
    fit, data = table_fit
    assert fit.sample(2)["s"].shape == (2, 12)
    assert np.all(fit.sample(2)["s"] > 0)
    assert fit.mean()["t"].shape == (12, 1)
    with pytest.raises(ValueError, match=r"'s'.* table of parameters.*advi.Amortised"):
        fit.sample(1, data=data)
    for refused in (fit.cov, fit.check, fit.corrected, fit.linear_response):
        with pytest.raises(ValueError, match=r"'s', 't' is local.*sample, mean, sd"):
            refused()


def test_the_amortisation_gap():
    """An encoder whose every sd is twice the best loses a known amount; the best loses nothing."""
    wide = BEST | {"log_sd": BEST["log_sd"] + np.log(2.0)}
    for params, lost in ((BEST, 0.0), (wide, K * (0.5 * (4 - 1) - np.log(2.0)))):
        family = {"h": advi.Amortised(encode, params), "w": advi.Point()}
        fit = advi.fit(ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=1)
        report = advi.amortisation_gap(fit, {"x": DATA["x"][:40]})
        assert report.gap.value == pytest.approx(lost, abs=max(0.01, 4 * report.gap.mcse))
        assert len(report.rows) == 40
    assert "amortisation gap: 1." in repr(report)


def test_an_encoder_written_anew_finds_its_program():
    def fit(start):
        family = {"h": advi.Amortised(encode, start), "w": advi.Point()}
        return advi.fit(ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=1)

    fit(ZERO)
    before = loop._chunk_program.cache_info().misses
    other = fit(jax.tree.map(lambda leaf: leaf + 1.0, ZERO))
    assert loop._chunk_program.cache_info().misses == before
    # and starts from its own parameters
    np.testing.assert_allclose(other.mean()["h"], DATA["x"] @ np.ones((D, K)), atol=1e-4)


# Mistakes, in plain words, before anything compiles.


def with_state(params, row):
    return params["A"] @ row["x"], params["log_sd"], {"moving mean": row["x"]}


BAD_FITS = {
    "encoder's shape": (
        {"family": {"h": advi.Amortised(lambda p, r: (r["x"], p["log_sd"]), ZERO)}},
        r"encode returned.*\(5,\).*expected.*loc \(2,\), log_sd \(2,\)",
    ),
    "encoder with state": (
        {"family": {"h": advi.Amortised(with_state, ZERO)}},
        "batch normalisation is not supported",
    ),
    "a row family of a shared latent": (
        {"family": {"w": advi.PerRow()}},
        "PerRow is for local latents, and w is not local",
    ),
    "coupled with a shared latent": (
        {"family": {("h", "w"): advi.FullRank()}},
        "h is local and w is not",
    ),
    "weights with an inferred latent": (
        {"objective": advi.Iwae(5)},
        "'w' is shared by all rows and has a distribution",
    ),
    "a start for an encoder": (
        {"family": {"h": advi.Amortised(encode, ZERO)}, "init": {"h": np.zeros((N, K))}},
        "an encoder computes 'h'",
    ),
    "a line search on some rows": (
        {"optimizer": optax.lbfgs(), "family": {"w": advi.Point()}},
        "searches along lines",
    ),
    "num_rows of nothing": ({"num_rows": 7}, "num_rows: got 7; expected the leading axis"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_mistakes_of_a_fit(case):
    arguments, words = BAD_FITS[case]
    with pytest.raises((ValueError, TypeError), match=words):
        advi.fit(ppca(), DATA, batch_size=50, max_steps=1, **arguments)


BAD_JOINTS = {
    "a scalar": (lambda z, d: log_joint(z, d).total(), "'h' is local.*advi.Terms"),
    "local in shared": (
        lambda z, d: advi.Terms(-jnp.sum(z["h"] ** 2) - jnp.sum(z["w"] ** 2), log_joint(z, d).rows),
        "Terms.shared depends on the local latent 'h'",
    ),
    "rows": (
        lambda z, d: advi.Terms(0.0, (log_joint(z, d).rows[:, None] + z["h"][None, :, 0]).ravel()),
        "Terms.rows has length",
    ),
    "prior": (
        lambda z, d: log_joint(z, d)._replace(prior=z["h"]),
        r"Terms.prior has shape \(400, 2\)",
    ),
}


@pytest.mark.parametrize("case", BAD_JOINTS)
def test_mistakes_of_a_log_joint(case):
    joint, words = BAD_JOINTS[case]
    model = advi.Model(joint, {"h": advi.real(K, local=True), "w": advi.real(D, K)})
    with pytest.raises(ValueError, match=words):
        advi.fit(model, DATA)


def test_rows_are_never_guessed(table_fit):
    fit, data = table_fit
    with pytest.raises(ValueError, match=r"table: 3, y: 12.*num_rows="):
        advi.fit(fit.posterior.model, data)
    with pytest.raises(ValueError, match="do not say how many rows"):
        advi.fit(fit.posterior.model)
    assert fit.sd()["s"].shape == (12,)


def test_beta_needs_the_prior_told_apart():
    model, data = local_scale_model()
    with pytest.raises(ValueError, match=r"prior=log_prior"):
        advi.fit(model, data, batch_size=4, objective=advi.Elbo(beta=0.5), max_steps=1)
    with pytest.raises(ValueError, match="beta: got -1"):
        advi.Elbo(beta=-1)


def test_weights_need_a_local_latent():
    model = advi.Model(lambda z, d: -(z["a"] ** 2), {"a": advi.real()})
    with pytest.raises(ValueError, match="none is local"):
        advi.fit(model, optimizer=optax.adam(0.1), objective=advi.Iwae(5))


def test_new_rows_must_be_like_the_old(best_fit):
    for data, words in (
        ({"y": np.zeros((3, D))}, "unknown leaf 'y'"),
        ({"x": np.zeros((3, D + 1))}, r"got shape \(3, 6\); expected \(n, 5\)"),
        ({"x": np.zeros((0, D))}, "at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            best_fit.sample(1, data=data)


def test_rows_that_are_not_finite_are_named():
    data = {"x": DATA["x"].copy()}
    data["x"][17, 2] = np.nan
    family = {"h": advi.Amortised(encode, ZERO), "w": advi.Point()}
    with pytest.raises(ValueError, match=r"rows \[17\].*'x', row 17 is NaN"):
        advi.fit(ppca(), data, batch_size=400, family=family, max_steps=1)


def test_check_looks_at_local_latents():
    model, data = local_scale_model()
    checkup = advi.check(model, data)
    assert checkup.ok
    assert checkup.latents["s"]["real coordinates"] == 12
    assert isinstance(resolve_family(model, "mean_field"), Guide)


# Rows that are read in batches, held-out rows, predictions.


def test_an_encoder_learns_from_a_stream_as_from_memory():
    family = {"h": advi.Amortised(encode, ZERO), "w": advi.Point()}
    batches = [{"x": part} for part in np.split(DATA["x"], 4)]
    streamed = advi.fit(ppca(), batches, num_rows=N, family=family, **TRAINING)
    in_memory = advi.fit(ppca(), DATA, batch_size=100, family=family, **TRAINING)
    best = N * exact(LOADINGS).mean() - 0.5e-4 * np.sum(LOADINGS**2)
    for fit in (streamed, in_memory):  # half way in the rate's fall: .05 nat a row
        assert abs(fit.elbo.value - best) < 0.05 * N + 2 * fit.elbo.mcse
        assert fit.elbo.mcse < 0.02 * N
    assert "400 rows" in str(streamed)
    assert streamed.sample(2, data={"x": DATA["x"][:7]})["h"].shape == (2, 7, K)
    with pytest.raises(ValueError, match="only some of them"):
        streamed.sample(2)


def test_a_table_cannot_be_streamed_nor_held_out():
    batches = [{"x": part} for part in np.split(DATA["x"], 4)]
    with pytest.raises(ValueError, match=r"'h' has a table .* stream does not say which row"):
        advi.fit(ppca(), batches, num_rows=N)
    with pytest.raises(ValueError, match="eval_data: 'h' has a table"):
        advi.fit(ppca(), DATA, batch_size=50, eval_data=DATA)


def test_held_out_rows_and_predictions_of_an_encoder(best_fit):
    family = {"h": advi.Amortised(encode, BEST), "w": advi.Point()}
    held_out = {"x": DATA["x"][:150]}
    fit = advi.fit(
        ppca(), DATA, batch_size=50, family=family, optimizer=STILL, max_steps=2, eval_data=held_out
    )
    # q is the exact posterior of every row: the ELBO is their log evidence, scaled to all rows
    shared = -0.5e-4 * np.sum(LOADINGS**2)
    expected = N * exact(LOADINGS, held_out["x"]).mean() + shared
    assert fit.eval_trace.values[-1] == pytest.approx(expected, rel=5e-3)
    new = {"x": DATA["x"][:30]}
    rebuilt = best_fit.predict(lambda z, d: z["h"] @ z["w"].T - d["x"], 400, new)
    assert rebuilt.shape == (400, 30, D)
    mean = optimal(LOADINGS)[0]
    np.testing.assert_allclose(rebuilt.mean(0), new["x"] @ mean.T @ LOADINGS.T - new["x"], atol=0.1)
    rows = best_fit.log_likelihood(new, n=3)
    assert rows.shape == (3, 30)


def test_check_adds_up_minibatches_of_local_latents():
    assert advi.check(ppca(), DATA).ok

    def centred(z, d):
        terms = log_joint(z, d)
        return terms._replace(rows=terms.rows - jnp.mean(z["h"]) ** 2)

    model = advi.Model(centred, {"h": advi.real(K, local=True), "w": advi.real(D, K)})
    assert any("minibatches are biased" in p for p in advi.check(model, DATA).problems)
