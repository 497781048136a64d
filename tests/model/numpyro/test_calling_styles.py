"""NumPyro models called as its users call them: batches of a plate, and sizes among the data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import advi

N, BATCH = 600, 60
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -1.0]) + RNG.standard_normal(N)).astype(np.float32)
DATA = {"x": X, "y": Y}
BATCHES = [{name: v[i : i + BATCH] for name, v in DATA.items()} for i in range(0, N, BATCH)]
COVARIANCE = np.linalg.inv(X.T @ X + np.eye(2) / 100)
EXACT, SD = COVARIANCE @ X.T @ Y, np.sqrt(np.diag(COVARIANCE))


def weights():
    return numpyro.sample("w", dist.Normal(jnp.zeros(2), 10).to_event(1))


def of_batches(x, y, n):
    w = weights()
    with numpyro.plate("data", n, subsample_size=x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def by_subsample(x, y, n):
    w = weights()
    with numpyro.plate("data", n, subsample_size=BATCH):
        of_rows, values = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(of_rows @ w, 1.0), obs=values)


def by_index(x, y, n):
    w = weights()
    with numpyro.plate("data", n, subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal(x[index] @ w, 1.0), obs=y[index])


quick = {"diagnose": False}


@pytest.mark.parametrize("model", [of_batches, by_subsample, by_index])
def test_all_rows_of_a_plate_with_a_subsample(model):
    fit = advi.fit(advi.from_numpyro(model, n=N), DATA, **quick)
    np.testing.assert_allclose(np.asarray(fit.mean()["w"]), EXACT, atol=0.02 * SD[0])
    np.testing.assert_allclose(np.asarray(fit.sd()["w"]), SD, rtol=0.02)


@pytest.mark.parametrize("source", ["batches", "memory"])
@pytest.mark.parametrize("model", [of_batches, by_subsample])
def test_batches_of_a_plate_whose_size_is_given(model, source):
    given = advi.from_numpyro(model, n=N)
    rows = {"num_rows": N} if source == "batches" else {"batch_size": BATCH}
    fit = advi.fit(given, BATCHES if source == "batches" else DATA, max_steps=600, **rows, **quick)
    np.testing.assert_allclose(np.asarray(fit.mean()["w"]), EXACT, atol=0.1 * SD[0])
    np.testing.assert_allclose(np.asarray(fit.sd()["w"]), SD, rtol=0.1)


def test_a_batch_by_itself_counts_for_all_rows():
    batch = BATCHES[0]
    fit = advi.fit(advi.from_numpyro(of_batches, n=N), batch, x64=True, **quick)
    precision = N / BATCH * batch["x"].T @ batch["x"] + np.eye(2) / 100
    np.testing.assert_allclose(
        np.asarray(fit.sd()["w"]), np.sqrt(np.diag(np.linalg.inv(precision))), rtol=1e-3
    )
    part = "60 of the 600 rows of the plate 'data'"
    with pytest.raises(ValueError, match=part):
        fit.loo()
    with pytest.raises(ValueError, match=part):
        advi.fit(advi.from_numpyro(of_batches, n=N), batch, batch_size=20)


def test_a_subsample_without_data():
    def model():
        w = numpyro.sample("w", dist.Normal(0, 1))
        with numpyro.plate("N", 10, subsample_size=5):
            numpyro.sample("y", dist.Normal(w, 1), obs=jnp.ones(5))

    fit = advi.fit(advi.from_numpyro(model), **quick)
    assert float(fit.sd()["w"]) == pytest.approx(11**-0.5, rel=1e-3)  # ten rows, as NumPyro counts


def test_the_rows_of_a_plate_and_of_a_stream_are_one_number():
    with pytest.raises(ValueError, match=r"num_rows: got 600, but the plate 'data'.* has 500 rows"):
        advi.fit(advi.from_numpyro(of_batches, n=500), BATCHES, num_rows=N)


def test_values_of_another_shape_than_their_distribution():
    def model(x, y):
        w = weights()
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)

    words = r"'y' has values of shape \(500,\).*shape \(600,\).*'rows' has 600 rows"
    with pytest.raises(ValueError, match=words):
        advi.fit(advi.from_numpyro(model), (X, Y[:500]))


# Numbers that decide about shapes and branches, given among the data.


def normals(y, K):
    p = numpyro.sample("p", dist.Normal(jnp.zeros(K), 1).to_event(1))
    numpyro.sample("y", dist.Normal(p.sum(), 1), obs=y)


def expanded(y, K):
    p = numpyro.sample("p", dist.Normal(0, 1).expand([K]).to_event(1))
    numpyro.sample("y", dist.Normal(p.sum(), 1), obs=y)


def tiled(y, K):
    p = numpyro.sample("p", dist.Normal(jnp.tile(jnp.zeros(1), K), 1).to_event(1))
    numpyro.sample("y", dist.Normal(p.sum(), 1), obs=y)


def in_a_plate(y, K):
    with numpyro.plate("k", K):
        p = numpyro.sample("p", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(p.sum(), 1), obs=y)


def in_a_loop(y, K):
    p = [numpyro.sample(f"p{k}", dist.Normal(0, 1)) for k in range(K)]
    numpyro.sample("y", dist.Normal(sum(p), 1), obs=y)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("model", [normals, expanded, tiled, in_a_plate, in_a_loop])
def test_sizes_among_the_data_are_taken_as_they_are(model, by_name):
    y = np.array([1.0, 2.0, 3.0])
    fit = advi.fit(advi.from_numpyro(model), {"y": y, "K": 3} if by_name else (y, 3), **quick)
    total = sum(np.sum(np.asarray(value)) for value in fit.mean().values())
    assert total == pytest.approx(1.8, abs=1e-3)  # of a prior N(0, 3) and three rows: 3 / (3 + 1/3)


def test_a_flag_among_the_data_decides_about_a_branch():
    def model(y, wide):
        w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(w, 2.0 if wide else 1.0), obs=y)

    sds = [
        float(advi.fit(advi.from_numpyro(model), (np.ones(4), wide), **quick).sd()["w"])
        for wide in (True, False)
    ]
    np.testing.assert_allclose(sds, [2**-0.5, 5**-0.5], rtol=1e-3)


def test_another_size_needs_another_fit():
    def model(y, K):
        p = numpyro.sample("p", dist.Normal(jnp.zeros(K), 1).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(p.sum(), 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (np.ones(5), 2), **quick)
    assert fit.log_likelihood((np.zeros(3), 2)).shape == (1000, 3)
    with pytest.raises(ValueError, match=r"data leaf '1': got 3, but 2 in the fit"):
        fit.log_likelihood((np.zeros(3), 3))


def departments(dept, y):
    effect = numpyro.sample("a", dist.Normal(0, 1).expand([len(np.unique(dept))]).to_event(1))
    numpyro.sample("y", dist.Normal(effect[dept], 1), obs=y)


@pytest.mark.parametrize("by_name", [False, True])
def test_an_array_that_decides_about_shapes_is_named(by_name):
    dept, y = np.array([0, 1, 1]), np.ones(3)
    data = {"dept": dept, "y": y} if by_name else (dept, y)
    with pytest.raises(TypeError, match=r"advi\.from_numpyro\(departments, dept=dept\)"):
        advi.fit(advi.from_numpyro(departments), data)
    bound = advi.from_numpyro(departments, dept=dept)  # the data then begin at y
    rest = {"y": y} if by_name else (y,)
    assert advi.fit(bound, rest, **quick).mean()["a"].shape == (2,)


@handlers.mask(mask=True)
def inside_a_handler(dept, y):
    return departments(dept, y)


def test_handlers_hide_neither_the_name_of_a_model_nor_those_of_its_arguments():
    dept, y = np.array([0, 1, 1]), np.ones(3)
    with pytest.raises(TypeError, match=r"from_numpyro\(inside_a_handler, dept=dept\)"):
        advi.log_density(advi.from_numpyro(inside_a_handler), (dept, y))
    assert advi.log_density(advi.from_numpyro(inside_a_handler, dept=dept), (y,)).dim == 2
    with pytest.raises(TypeError, match=r"inside_a_handler takes \(dept, y\), and would get 1"):
        advi.log_density(advi.from_numpyro(inside_a_handler), (y,))


def test_arguments_without_a_name_stay_in_their_places():
    def model(x, /, y, wide):
        w = numpyro.sample("w", dist.Normal(0, 2.0 if wide else 1.0))
        numpyro.sample("y", dist.Normal(w * x, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model, wide=True), (np.ones(4), np.ones(4)), **quick)
    assert float(fit.sd()["w"]) == pytest.approx((4 + 1 / 4) ** -0.5, rel=1e-3)


# What has no rows does not hide those that there are.


def test_a_latent_that_is_given_leaves_the_rows_as_they_are():
    def model(x, y):
        s, w = numpyro.sample("s", dist.HalfNormal(1)), weights()
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ w, s), obs=y)

    given = handlers.condition(model, {"s": 1.0})
    fit = advi.fit(advi.from_numpyro(given), (X, Y), **quick)
    assert fit.log_likelihood().shape == (1000, N)
    np.testing.assert_allclose(np.asarray(fit.sd()["w"]), SD, rtol=0.02)


def test_a_number_observed_outside_of_the_plate():
    def model(x, y, total):
        w = weights()
        numpyro.sample("total", dist.Normal(w.sum(), 1), obs=total)
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), (X, Y, 0.5), batch_size=60, max_steps=100, **quick)
    assert fit.log_likelihood((X, Y, 0.5)).shape == (1000, N)


def test_observed_arrays_outside_of_the_plate_have_rows_that_are_not_known():
    def model(x, y):
        w = weights()
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1), obs=x)
        numpyro.sample("y", dist.Normal(x @ w, 1).to_event(1), obs=y)

    with pytest.raises(ValueError, match="no plate of the NumPyro model is known to run over rows"):
        advi.fit(advi.from_numpyro(model), (X, Y), batch_size=60)


def test_every_style_has_the_same_log_joint():
    z = {"w": jnp.array([0.3, -0.2])}
    models = [advi.from_numpyro(model, n=N) for model in (of_batches, by_subsample, by_index)]
    found = [advi.log_density(model, DATA)(z["w"]) for model in models]
    prior = dist.Normal(0.0, 10.0).log_prob(z["w"]).sum()
    exact = prior + dist.Normal(X @ z["w"], 1.0).log_prob(Y).sum()
    np.testing.assert_allclose(np.asarray(found), float(exact), rtol=1e-5)
