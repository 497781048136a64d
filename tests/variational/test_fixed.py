"""Latents held at values: the posterior is that of the others, given the values."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.core.draw_set import DrawSet
from advi.variational.resolve_family import resolve_family

TAU = 1.5
Y = np.random.default_rng(0).normal(1.0, TAU, 40)


def log_joint(z, y):
    prior = dist.Normal(0, 1).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["tau"])
    return advi.Terms(prior, rows=dist.Normal(z["mu"], z["tau"]).log_prob(y))


MODEL = advi.Model(log_joint, {"mu": advi.real(), "tau": advi.positive()})
HELD = {"tau": advi.Fixed(TAU)}
PRECISION = 1 + len(Y) / TAU**2
MEAN, SD = Y.sum() / TAU**2 / PRECISION, PRECISION**-0.5
COVARIANCE = TAU**2 * np.eye(len(Y)) + 1
SQUARES = Y @ np.linalg.solve(COVARIANCE, Y) + len(Y) * np.log(2 * np.pi)
# log p(data, value), of the half-normal prior without a Jacobian
EVIDENCE = -0.5 * (SQUARES + np.linalg.slogdet(COVARIANCE)[1] + TAU**2 + np.log(np.pi / 2))


@pytest.fixture(scope="module")
def fit():
    return advi.fit(MODEL, Y, family=HELD, x64=True)


def check(fit, tolerance=1e-3):
    mean, sd = fit.mean(), fit.sd()
    assert float(mean["tau"]) == pytest.approx(TAU, rel=1e-6)
    assert float(sd["tau"]) == pytest.approx(0, abs=1e-6)
    assert float(mean["mu"]) == pytest.approx(MEAN, abs=tolerance * SD)
    assert float(sd["mu"]) == pytest.approx(SD, rel=tolerance)


def test_the_plan_finds_the_conditional_posterior(fit):
    check(fit)
    assert fit.elbo.value == pytest.approx(EVIDENCE, abs=1e-6)
    assert fit.verdict == "good"
    assert "full_rank(mu), fixed(tau), 1 real coordinate," in str(fit)
    assert fit.posterior.model.size == 1


def test_methods_of_a_fit_know_the_constant(fit):
    assert np.all(np.asarray(fit.sample(5)["tau"]) == TAU)
    assert fit.summary(["tau"]).columns["sd"].tolist() == [0.0]
    log_q = fit.log_prob({"mu": MEAN, "tau": TAU})
    assert float(log_q) == pytest.approx(-np.log(SD) - 0.5 * np.log(2 * np.pi), abs=1e-4)
    assert float(fit.log_prob(fit.mean())) == pytest.approx(float(log_q), abs=1e-4)
    off = fit.log_prob({"mu": [MEAN, MEAN, np.nan], "tau": [TAU, TAU + 1e-3, TAU]})
    np.testing.assert_array_equal(np.asarray(off)[1:], [-np.inf, np.nan])
    assert float(fit.linear_response().sd()["mu"]) == pytest.approx(SD, rel=1e-4)
    check(fit.corrected(), 0.05)
    with pytest.raises(ValueError, match=r"'tau', which is .* held at a value"):
        fit.linear_response(["tau"])


def test_equal_draws_have_no_sd():
    values = np.full((7, 2), 0.1)
    values[3, 1] = 0.2
    for weights in (None, np.full(7, 1 / 7)):
        sd = DrawSet({"tau": values}, weights).sd()["tau"]
        assert sd[0] == 0 < sd[1]


def test_it_stays_held_in_another_family_and_is_free_in_another_fit(fit):
    check(fit.refine(family="mean_field"))
    for family in ({"tau": "mean_field"}, {("mu", "tau"): "full_rank", "tau": advi.Fixed(1.0)}):
        with pytest.raises(ValueError, match=r"'tau' is (held by advi.Fixed|named twice)"):
            fit.refine(family=family)
    free = advi.fit(MODEL, Y, init=fit, family="mean_field", diagnose=False)
    assert float(free.sd()["tau"]) > 0.1
    again = advi.fit(MODEL, Y, init=free, family=HELD, diagnose=False)
    check(again)
    moved = fit.refine(family={"tau": advi.Fixed(2.0)})
    assert float(moved.mean()["tau"]) == 2.0


def stream():
    return [Y[:20], Y[20:]]


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        pytest.param(Y, {"optimizer": optax.lbfgs(), "max_steps": 15}, marks=pytest.mark.slow),
        (Y, {"optimizer": optax.adamw(0.05, weight_decay=0.1), "max_steps": 50}),
        pytest.param(Y, {"batch_size": 20, "max_steps": 50}, marks=pytest.mark.slow),
        (stream(), {"num_rows": len(Y), "max_steps": 50}),
    ],
)
def test_steps_leave_it_alone(data, settings):
    fit = advi.fit(MODEL, data, family=HELD, diagnose=False, **settings)
    check(fit, 0.5)


def test_an_optimiser_does_not_see_it():
    rate = optax.partition({"mu": optax.adam(0.05)}, {"mu": "mu"})
    steps = advi.svi(MODEL, Y, family=HELD, optimizer=rate)
    state, info = steps.step(steps.init(0))
    assert bool(info.finite)
    assert float(steps.result(state).mean()["tau"]) == TAU


@pytest.mark.slow
def test_a_checkpoint_is_of_its_value(tmp_path):
    settings = {"batch_size": 20, "max_steps": 20, "checkpoint": tmp_path, "diagnose": False}
    advi.fit(MODEL, Y, family=HELD, **settings)
    with pytest.raises(ValueError, match=r"of another fit.*the value of 'tau'"):
        advi.fit(MODEL, Y, family={"tau": advi.Fixed(1.0)}, **settings)


def test_a_file_has_it(fit, tmp_path):
    fit.save(tmp_path / "a")
    loaded = advi.load(tmp_path / "a")
    assert np.array_equal(loaded.sample(5)["mu"], fit.sample(5)["mu"])
    assert str(loaded) == str(fit)
    check(advi.fit(MODEL, Y, init=loaded, family=HELD, diagnose=False))


NET = {"w": np.full((2, 3), 0.5), "b": np.zeros(2)}
LATENTS = {"net": advi.tree(NET), "s": {"sd": advi.positive()}, "p": advi.simplex(3)}
OF_TREE = advi.Model(lambda z, data: 0.0, LATENTS)


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ({"net": advi.Fixed(NET)}, 3),
        ({"net.w": advi.Fixed(1.0), "s.sd": advi.Fixed(1.0)}, 4),
        ({("p", "s"): advi.Fixed(([0.2, 0.3, 0.5], {"sd": 2.0}))}, 8),
        ({("p", "s"): "full_rank", "net": advi.Fixed(NET)}, 3),
        ({("p", "s"): advi.Mixture(), "net": advi.Fixed(NET)}, 3),
    ],
)
def test_names_of_parts(family, size):
    guide = resolve_family(OF_TREE, family)
    assert guide.model.size == size
    covered = sorted(name for block in guide.blocks for name in block.names)
    assert covered == sorted(OF_TREE.latents)


ALL = {"net": advi.Fixed(NET), "s": advi.Fixed({"sd": 1.0}), "p": advi.Fixed([0.2, 0.3, 0.5])}


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ({"s.sd": advi.Fixed(-1.0)}, r"family\['s.sd'\]: got advi.Fixed\(-1\).*inside the support"),
        ({"p": advi.Fixed([0.2, 0.2, 0.2])}, r"family\['p'\].*inside the support Simplex"),
        ({"s.sd": advi.Fixed(np.nan)}, r"got advi.Fixed\(nan\)"),
        ({"s.sd": advi.Fixed([1.0, 2.0])}, r"broadcasts to the shape \(\)"),
        ({"net": advi.Fixed({"w": NET["w"]})}, r"values for net.w; expected .* net.b, net.w"),
        ({("p", "s"): advi.Fixed(1.0)}, "expected a tuple of 2 values"),
        (advi.Fixed(1.0), "advi.Fixed for every latent"),
        (ALL, "advi.Fixed for every latent"),
    ],
)
def test_wrong_values(family, message):
    with pytest.raises(ValueError, match=message):
        resolve_family(OF_TREE, family)


def test_wrong_types_and_starts():
    with pytest.raises(TypeError, match=r"family\['tau'\]: advi.Fixed: got 'a'"):
        advi.fit(MODEL, Y, family={"tau": advi.Fixed("a")})
    with pytest.raises(ValueError, match=r"init\['tau'\]: the latent is held"):
        advi.fit(MODEL, Y, family=HELD, init={"tau": 2.0})


def test_sites_and_parameters_of_numpyro():
    def model(y):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        mu = jnp.asarray(numpyro.sample("mu", dist.Normal(0, 1)))
        mu += jnp.asarray(numpyro.param("shift", jnp.zeros(())))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, tau), obs=y)

    family = HELD | {"shift": advi.Fixed(0.0), "mu": "mean_field"}
    fit = advi.fit(advi.from_numpyro(model), Y, family=family, diagnose=False)
    check(fit)
    assert fit.predictive(2)["y"].shape == (2, len(Y))


@pytest.mark.slow
def test_beside_and_among_local_latents():
    def with_effects(z, y):
        rows = dist.Normal(z["mu"], z["tau"]).log_prob(z["h"]) + dist.Normal(z["h"], 1).log_prob(y)
        prior = dist.Normal(0, 1).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["tau"])
        return advi.Terms(prior, rows=rows)

    latents = {"mu": advi.real(), "tau": advi.positive(), "h": advi.real(local=True)}
    model = advi.Model(with_effects, latents)
    family = HELD | {"h": advi.PerRow(), "mu": advi.MeanField()}
    fit = advi.fit(model, Y, family=family, batch_size=20, max_steps=20, diagnose=False)
    assert float(fit.mean()["tau"]) == TAU
    assert "tau: 1 fixed" in str(fit)
    whole = advi.fit(model, Y, family={"h": advi.Fixed(0.5)}, diagnose=False)
    assert np.all(np.asarray(whole.mean()["h"]) == 0.5)
    with pytest.raises(ValueError, match="h is local, one value per row, and steps of an"):
        advi.fit(model, Y, family={"h": advi.Fixed(0.5)}, batch_size=20)


H = np.linspace(-1.0, 1.0, 3 * 4).reshape(3, 4)


def two_plates(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    rows = numpyro.plate("rows", y.shape[-1], dim=-1)
    with numpyro.plate("kinds", 3, dim=-2), rows:
        h = jnp.asarray(numpyro.sample("h", dist.Normal(mu, 1)))
    with rows:
        numpyro.sample("y", dist.Normal(h.sum(0), 1), obs=y)


def test_a_value_for_each_row(tmp_path):
    y = np.zeros(4)
    quick = {"family": {"h": advi.Fixed(H)}, "diagnose": False, "x64": True}
    fit = advi.fit(advi.from_numpyro(two_plates), y, **quick)
    fit.save(tmp_path / "a")
    for found in (fit, advi.load(tmp_path / "a")):
        np.testing.assert_allclose(found.mean()["h"], H, rtol=1e-12)
        assert np.array_equal(found.sample(2)["h"], [H, H])
    assert float(fit.mean()["mu"]) == pytest.approx(H.sum() / 13, abs=1e-6)
    assert float(fit.sd()["mu"]) == pytest.approx(13**-0.5, rel=1e-4)
    assert fit.posterior.model.size == 1
    found = fit.log_prob({"mu": np.zeros(2), "h": np.stack([H, H + 0.1])})
    assert np.isfinite(found).tolist() == [True, False]
    other = advi.fit(advi.from_numpyro(two_plates), y, **quick | {"family": {"h": advi.Fixed(0.5)}})
    assert np.all(np.asarray(other.mean()["h"]) == 0.5)


def test_a_wrong_value_for_each_row_is_told_from_that_of_a_row():
    model = advi.from_numpyro(two_plates)
    with pytest.raises(ValueError, match=r"shape \(3,\) of the latent, or \(3, 4\), of all 4 rows"):
        advi.fit(model, np.zeros(4), family={"h": advi.Fixed(H.T)})
    with pytest.raises(ValueError, match=r"h is local.* or the automatic plan, without optimizer"):
        advi.fit(model, np.zeros(4), family={"h": advi.Fixed(H)}, batch_size=2)


def test_a_site_in_other_coordinates_is_told():
    model = advi.from_numpyro(two_plates, reparam={"h": "non-centred"})
    with pytest.raises(ValueError, match="latent 'h': by reparam, 'h_decentered' is the latent"):
        advi.fit(model, np.zeros(4), family={"h": advi.Fixed(H)})
