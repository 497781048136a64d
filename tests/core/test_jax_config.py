"""Every path works with JAX's own switches on, all at once, as a user's program may have them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi

SWITCHES = {
    "jax_transfer_guard": "disallow",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_enable_checks": True,
}

rng = np.random.default_rng(0)
X = rng.standard_normal((24, 2)).astype("f4")
DATA = {"x": X, "y": (X @ [1.0, -1.0] + rng.standard_normal(24)).astype("f4")}
STEPS = {"batch_size": 8, "max_steps": 4, "diagnose": False}


def normal(value, loc, sd):
    return -0.5 * ((value - loc) / sd) ** 2 - jnp.log(sd)


def regression(z, d):
    mean = jnp.sum(d["x"] * z["w"][None, :], axis=1)
    rows = normal(d["y"], mean, jnp.broadcast_to(z["s"], mean.shape))
    return advi.Terms(-0.5 * jnp.sum(z["w"] ** 2) - z["s"], rows=rows)


def codes(z, d):
    one = jnp.ones_like(z["h"])
    return advi.Terms(
        -0.5 * z["m"] ** 2,
        rows=normal(d["y"], z["h"], one),
        prior=normal(z["h"], jnp.broadcast_to(z["m"], z["h"].shape), one),
    )


def encode(params, row):
    return params["a"] * row["y"][None], params["b"]


def numpyro_model(y, x):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", y.shape[0]):
        mean = numpyro.deterministic("mean", w * x[:, 0])
        numpyro.sample("obs", dist.Normal(mean, s), obs=y)


MODEL = advi.Model(regression, {"w": advi.real(2), "s": advi.positive()})
CODES = advi.Model(codes, {"h": advi.real(local=True), "m": advi.real()})
# a NaN at zero, where the search begins
SPOILT = advi.Model(
    lambda z, d: -0.5 * (z["a"] - 2.0) ** 2 + 0.0 * jnp.log(z["a"]), {"a": advi.real()}
)
ENCODER = advi.Amortised(encode, {"a": np.float32(0.5), "b": np.zeros(1, "f4")})


@pytest.fixture(autouse=True)
def switched():
    before = {name: getattr(jax.config, name) for name in SWITCHES}
    for name, value in SWITCHES.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@functools.cache
def fitted(family="mean_field"):
    return advi.fit(MODEL, DATA, family=family, diagnose=False)


@functools.cache
def encoded():
    family = {"h": ENCODER, "m": advi.Point()}
    beta = optax.linear_schedule(0.0, 1.0, 10)
    return advi.fit(CODES, DATA, family=family, objective=advi.Elbo(beta=beta), **STEPS)


def batches():
    return [{k: v[i : i + 8] for k, v in DATA.items()} for i in (0, 8, 16)]


def on_disk(folder):
    for name, values in DATA.items():
        np.save(folder / f"{name}.npy", values.astype("f8"))
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DATA}


def resumed(folder):
    advi.fit(MODEL, DATA, checkpoint=folder, **STEPS)
    return advi.fit(MODEL, DATA, checkpoint=folder, **{**STEPS, "max_steps": 6})


FITS = {
    "mean field": lambda folder: fitted(),
    "full rank": lambda folder: fitted("full_rank"),
    "low rank": lambda folder: fitted(advi.LowRank(1)),
    "a family each": lambda folder: advi.fit(
        MODEL, DATA, family={"w": "full_rank", "s": advi.Point()}, diagnose=False
    ),
    "init": lambda folder: advi.fit(MODEL, DATA, init={"s": 2.0}, diagnose=False),
    "refined": lambda folder: fitted().refine("full_rank"),
    "checked": lambda folder: fitted().check(),
    "corrected": lambda folder: fitted().corrected(),
    "linear response": lambda folder: fitted().linear_response(),
    "optimiser": lambda folder: advi.fit(
        MODEL, DATA, optimizer=optax.adam(1e-2), max_steps=2, diagnose=False
    ),
    "minibatches": lambda folder: advi.fit(MODEL, DATA, eval_data=batches()[0], **STEPS),
    "stream": lambda folder: advi.fit(MODEL, batches(), num_rows=24, max_steps=12, diagnose=False),
    "rows on disk": lambda folder: advi.fit(MODEL, on_disk(folder), **{**STEPS, "max_steps": 12}),
    "checkpoint": resumed,
    "table": lambda folder: advi.fit(
        CODES, DATA, family={"h": advi.PerRow(), "m": advi.Point()}, **STEPS
    ),
    "encoder": lambda folder: encoded(),
    "NumPyro": lambda folder: advi.fit(advi.from_numpyro(numpyro_model), DATA, diagnose=False),
}


# steps on all rows, from disk, and of tables are those of minibatches, streams and encoders
LONG = ("optimiser", "rows on disk", "table")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in FITS]
)
def test_every_kind_of_fit(name, tmp_path):
    fit = FITS[name](tmp_path)
    assert fit.status in ("converged", "max_steps")
    assert np.isfinite(fit.elbo.value)
    for leaf in jax.device_get(jax.tree.leaves((fit.sample(2), fit.mean(), fit.sd()))):
        assert np.isfinite(leaf).all()
    assert str(fit).startswith("Fit: ")


def replicate(z, d, key):
    mean = jnp.sum(d["x"] * z["w"][None, :], axis=1)
    return mean + z["s"][None] * jax.random.normal(key, mean.shape)


def saved(fit, folder):
    fit.save(folder / "a")
    return advi.load(folder / "a")


ASKED = {
    "moments": lambda f, folder: (f.mean(), f.sd(), f.quantile([0.1, 0.9]), f.cov("w")),
    "predict": lambda f, folder: f.predict(replicate, 5, {"x": X[:3]}),
    "log-likelihood": lambda f, folder: f.log_likelihood(n=3),
    "loo": lambda f, folder: f.loo(n=100).pointwise,
    "corrected loo": lambda f, folder: f.corrected().loo(n=100).pointwise,
    "log_prob": lambda f, folder: f.log_prob(f.sample(3)),
    "log_prob of numbers": lambda f, folder: f.log_prob({"w": [0.0, 1.0], "s": 1.0}),
    "saved": lambda f, folder: saved(f, folder).sample(3),
    "compared": lambda f, folder: advi.compare({"a": f, "b": fitted("full_rank")})["ELBO"],
    "ArviZ": lambda f, folder: f.to_arviz(5)["sample_stats"]["log_p"].values,
    "model checked": lambda f, folder: float(len(advi.check(MODEL, DATA).problems)),
    "new rows": lambda f, folder: encoded().sample(2, data={"y": DATA["y"][:3]})["h"],
    "log_marginal": lambda f, folder: encoded().log_marginal(draws=3).rows,
    "amortisation gap": lambda f, folder: advi.amortisation_gap(encoded(), DATA, steps=2).rows,
    "encoder saved": lambda f, folder: saved(encoded(), folder).sample(2)["h"],
}


@pytest.mark.parametrize("name", ASKED)
def test_every_question(name, tmp_path):
    for leaf in jax.device_get(jax.tree.leaves(ASKED[name](fitted(), tmp_path))):
        assert np.isfinite(leaf).all()


def test_a_nan_is_a_value_to_the_search_also_where_jax_looks_for_them():
    found = advi.fit(SPOILT, diagnose=False)
    with jax.debug_nans(False), jax.debug_infs(False):
        expected = advi.fit(SPOILT, diagnose=False)
    assert found.status == expected.status
    for a, b in zip(found.posterior.gaussian, expected.posterior.gaussian, strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.config.jax_debug_nans


def test_what_is_not_finite_anywhere_is_said_in_words():
    lost = advi.Model(lambda z, d: jnp.log(-jnp.exp(z["a"])), {"a": advi.real()})
    with pytest.raises(ValueError, match="the log density is not finite at the start: nan"):
        advi.fit(lost)
