"""Values of NumPyro's sites have the sites' own axes, wherever a plate has its rows."""

import pickle
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

import advi
from advi.posterior.initial import initial

N, B = 5, 3  # rows, and the rows of a subsample
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, 2, N))  # one of the other axes has as many entries as there are rows
KEY = jax.random.key(0)


def three_plates(y, dim=-1, subsample_size=None):
    """Rows along one of three axes, with latents inside and outside, events and supports."""
    before, behind = (d for d in (-3, -2, -1) if d != dim)
    rows = numpyro.plate("rows", N, dim=dim, subsample_size=subsample_size)
    a, b = numpyro.plate("a", y.shape[1], dim=before), numpyro.plate("b", y.shape[2], dim=behind)
    with a:
        outside = numpyro.sample("outside", dist.Normal(0, 1))
    with rows:
        alone = numpyro.sample("alone", dist.LogNormal(0, 1))
        with b:
            pair = numpyro.sample("pair", dist.Normal(jnp.mean(outside), 1))
            shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
        with a, b:
            mean = outside + alone * pair + shares[..., 0]
            mean = numpyro.deterministic("mean", mean)
            numpyro.sample("y", dist.Normal(mean, 1), obs=jnp.moveaxis(y, 0, dim))


DIMS = (-1, -2, -3)


def own(dim, **kwargs):
    return advi.from_numpyro(three_plates, rows="rows", dim=dim, **kwargs)


def shape(dim, *events, others=MappingProxyType({})):
    """Return the shape of a site inside the plate of the rows and some others."""
    axes = [N if d == dim else others.get(d, 1) for d in DIMS[::-1]]
    while axes[0] == 1:
        axes.pop(0)
    return (*axes, *events)


@pytest.mark.parametrize("dim", DIMS)
def test_the_log_joint_at_values_in_their_own_axes_is_numpyros(dim):
    log_p = advi.log_density(own(dim), {"y": Y})
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, log_p.dim))
    z = jax.jit(log_p.unravel)(x)
    behind = max(d for d in DIMS if d != dim)
    assert z["alone"].shape == shape(dim)
    assert z["pair"].shape == shape(dim, others={behind: N})
    assert z["shares"].shape == shape(dim, 3, others={behind: N})
    np.testing.assert_allclose(jax.jit(log_p.ravel)(z), x, atol=1e-5)
    theirs = jax.jit(lambda z: log_density(three_plates, (Y,), {"dim": dim}, z)[0])(z)
    # up to the log-Jacobian
    model, real = log_p._model, log_p._model.split(x)
    jacobian = jax.jit(lambda r: sum(jnp.sum(v) for v in model.constrain(r)[1].values()))(real)
    np.testing.assert_allclose(jax.jit(log_p)(x) - jacobian, theirs, rtol=1e-5)


@pytest.fixture(scope="module")
def fits():
    """Fits with the rows along the last axis: of one Gaussian, and by row from a subsample."""
    steps = {"batch_size": B, "max_steps": 500, "family": {("alone", "pair"): advi.PerRow()}}
    return {
        "whole": advi.fit(own(-1), {"y": Y}, family="mean_field", diagnose=False),
        "by row": advi.fit(own(-1, subsample_size=B), {"y": Y}, diagnose=False, **steps),
    }


def log_joints(fit, z):
    """Return the log-joint of a fit at draws, its rows counted once."""
    density, names = fit.posterior.density, list(fit.posterior.model.latents)

    @jax.jit  # a dict comes out of compiled code sorted by its keys
    @jax.vmap
    def of_one(values):
        return density.log_joint({name: values[name] for name in names}, density.data).total()

    return of_one(fit.posterior.model.from_tree(z))


@pytest.mark.parametrize("name", ["whole", "by row"])
def test_draws_are_what_numpyro_takes(fits, name):
    fit = fits[name]
    draws = fit.sample(6)
    assert draws["pair"].shape == (6, N, N)
    assert draws["shares"].shape == (6, N, N, 3)
    latents = {k: v for k, v in draws.items() if k != "mean"}
    theirs = jax.jit(jax.vmap(lambda z: log_density(three_plates, (Y,), {"dim": -1}, z)[0]))(
        latents
    )
    np.testing.assert_allclose(log_joints(fit, latents), theirs, rtol=1e-5)
    found = Predictive(three_plates, latents)(KEY, Y, dim=-1)
    assert found["y"].shape == (6, 2, N, N)
    np.testing.assert_allclose(found["mean"], draws["mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["mean"], fit.predictive(6)["mean"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["whole", "by row"])
def test_moments_and_exports_have_the_axes_of_draws(fits, name):
    fit = fits[name]
    many = fit.sample(4000)
    for value, of_draws in (
        (fit.mean(), jnp.mean),
        (fit.sd(), jnp.std),
        (fit.quantile([0.5])["pair"][0], jnp.median),
    ):
        found = value["pair"] if isinstance(value, dict) else value
        sd = np.asarray(fit.sd()["pair"])
        np.testing.assert_allclose(found, of_draws(many["pair"], 0), atol=0.1 * sd.max())
    np.testing.assert_array_equal(fit.to_dict(4)["shares"], fit.sample(4)["shares"])
    z = fit.predict(lambda z, data: z["pair"], 4)
    np.testing.assert_array_equal(z, fit.sample(4)["pair"])
    exported = fit.to_arviz(4)["posterior"]
    np.testing.assert_array_equal(exported["pair"][0], fit.sample(4)["pair"])
    if name == "by row":
        assert exported["pair"].dims == ("chain", "draw", "b", "row")
        assert exported["shares"].dims == ("chain", "draw", "b", "row", "shares_dim_1")


@pytest.mark.parametrize("name", ["whole", "by row"])
def test_a_file_keeps_the_axes(fits, name, tmp_path):
    fit = fits[name]
    fit.save(tmp_path / "fit.advi")
    for again in (advi.load(tmp_path / "fit.advi"), pickle.loads(pickle.dumps(fit))):
        for latent, values in again.sample(5).items():
            np.testing.assert_array_equal(values, fit.sample(5)[latent])
        np.testing.assert_array_equal(again.mean()["pair"], fit.mean()["pair"])


def test_entries_are_named_as_the_site_has_them(fits):
    fit = fits["whole"]
    table, mean = fit.summary(["pair[1,4]", "shares[0,2,1]"]), fit.mean()
    assert table["pair[1,4]"]["mean"] == pytest.approx(float(mean["pair"][1, 4]), abs=1e-5)
    assert table["shares[0,2,1]"]["mean"] == pytest.approx(float(mean["shares"][0, 2, 1]), rel=1e-4)
    # in R^D the columns of each row are together
    assert fit.posterior.model.coordinates["pair"][:2] == ("pair[0,0]", "pair[1,0]")
    span = fit.posterior.model.spans["pair"]
    locs = fit.posterior.gaussian.loc[slice(*span)]
    np.testing.assert_allclose(locs.reshape(N, N).T, mean["pair"], atol=1e-4)


def test_log_q_and_starts_take_values_in_the_axes_of_the_site(fits):
    fit = fits["whole"]
    latents = {k: v for k, v in fit.sample(3).items() if k != "mean"}
    points, log_q = fit.posterior.sample_points(3, 0)
    unravel = fit.posterior.model.unravel
    jacobian = jax.jit(jax.vmap(lambda x: sum(v.sum() for v in unravel(x)[1].values())))
    found = fit.log_prob(latents)
    expected = log_q - np.asarray(jacobian(points.astype(np.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    start = {"pair": RNG.standard_normal((N, 5)), "alone": np.full(N, 2.0)}
    model = fit.posterior.model
    loc = initial(model, start)[0].loc
    np.testing.assert_allclose(loc[slice(*model.spans["pair"])], start["pair"].T.ravel(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"init\['shares'\]: .*expected shape \(5, 5, 3\)"):
        initial(model, {"shares": np.ones((5, 3, 5))})


def columns(y):
    """Rows behind the columns, and an encoder's latent in between."""
    with numpyro.plate("rows", y.shape[0]), numpyro.plate("columns", 2):
        h = numpyro.sample("h", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(h.sum(-1), 1), obs=y.T)


def encode(params, row):
    return jnp.repeat(row["y"], 3) * params["slope"], params["log_sd"]


def test_an_encoder_at_new_rows():
    data = {"y": Y[:, :, 0].astype(np.float32)}
    start = {"slope": np.float32(0.2), "log_sd": np.full(6, -0.5, np.float32)}
    family = {"h": advi.Amortised(encode, start)}
    made = advi.from_numpyro(columns, rows="rows")
    fit = advi.fit(made, data, family=family, batch_size=N, max_steps=2, diagnose=False)
    new = {"y": np.array([[1.0, -1.0], [2.0, 0.0], [0.0, 0.0]], np.float32)}
    draws = fit.sample(500, data=new)["h"]
    assert draws.shape == (500, 2, 3, 3)
    slope = float(fit.posterior.params[0]["slope"])
    expected = np.broadcast_to(slope * new["y"].T[..., None], (2, 3, 3))
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.15)
    predicted = Predictive(columns, {"h": draws})(KEY, new["y"])["y"]
    assert predicted.shape == (500, 2, 3)
    assert fit.predictive(5, new)["y"].shape == (5, 2, 3)
