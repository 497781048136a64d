"""Labels: wherever an entry is named, in every kind of fit, and for data in another order."""

import pickle
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from tests.compiling import compiled

pd = pytest.importorskip("pandas")
RNG = np.random.default_rng(0)
N = 60
COUNTIES = ["Becker", "Aitkin", "Anoka"]  # the order of the categories, not that of the alphabet
COUNTY = RNG.integers(0, 3, N)
FRAME = pd.DataFrame(
    {
        "county": pd.Categorical.from_codes(COUNTY, COUNTIES),
        "y": np.array([3.0, 1.0, -1.0])[COUNTY] + 0.5 * RNG.standard_normal(N),
    }
)
CODES = {"county": COUNTY, "y": FRAME["y"].to_numpy()}
NAMES = [f"eta[{county}]" for county in COUNTIES]


def other_order(frame, *more):
    """The same rows, whose categories have other codes."""
    county = frame["county"].cat.set_categories([*sorted(COUNTIES), *more])
    assert (county.cat.codes != frame["county"].cat.codes).any()
    return frame.assign(county=county)


OTHER = other_order(FRAME)


def log_joint(z, d):
    prior = dist.Normal(0, 3).log_prob(z["mu"]) + dist.Normal(0, 1).log_prob(z["eta"]).sum()
    prior += dist.Normal(0, 1).log_prob(z["beta"]).sum()
    mean = z["mu"] + z["eta"][d["county"]]
    return advi.Terms(prior, dist.Normal(mean, 0.5).log_prob(d["y"]))


LATENTS = {"mu": advi.real(), "eta": advi.real(3), "beta": advi.real(3, 2)}
DIMS = {"eta": "county", "beta": ["county", "year"]}
MODEL = advi.Model(log_joint, LATENTS, dims=DIMS)
PLAIN = {"family": "mean_field", "diagnose": False}


@pytest.fixture(scope="module")
def fit():
    return advi.fit(MODEL, FRAME, family="mean_field")


@pytest.fixture(scope="module")
def yearly():
    return advi.fit(MODEL, FRAME, coords={"year": [2020, 2021]}, **PLAIN)


def test_every_name_of_an_entry_has_its_label(fit):
    rows = ["mu", *NAMES, *(f"beta[{county}, {k}]" for county in COUNTIES for k in range(2))]
    assert list(fit.summary()) == rows
    assert list(fit.diagnostics["mean_shift"]) == rows
    assert fit.verdict.level == "means_only"
    assert "eta[" in fit.verdict.reasons[0]
    assert not any(f"eta[{k}]" in fit.verdict.reasons[0] for k in range(3))
    assert "eta[Aitkin]" in repr(fit)
    assert "eta[Aitkin]" in fit._repr_html_()


def test_a_second_axis_stands_after_a_comma(yearly):
    assert list(yearly.summary("beta"))[:2] == ["beta[Becker, 2020]", "beta[Becker, 2021]"]
    with pytest.raises(ValueError, match=r"'beta\[0,1\]', which is no entry .* 'beta\["):
        yearly.summary("beta[0,1]")  # whole numbers are labels here


def test_entries_go_by_label_or_number(fit):
    assert fit.summary("eta[Aitkin]").rows == fit.summary("eta[1]").rows == ("eta[Aitkin]",)
    assert fit.summary(["beta[2, 1]", "beta[Anoka, 1]"]).rows == ("beta[Anoka, 1]",)
    np.testing.assert_array_equal(fit.cov(["eta[Anoka]", "mu"]), fit.cov(["eta[2]", "mu"]))
    with pytest.raises(ValueError, match=r"no entry of 'eta' .* expected one like 'eta\[Anoka\]'"):
        fit.summary("eta[Anok]")
    with pytest.raises(ValueError, match=r"'eta\[3\]', which is no entry"):
        fit.cov("eta[3]")


def test_values_are_those_of_a_fit_without_names(fit):
    bare = advi.fit(advi.Model(log_joint, LATENTS), CODES, **PLAIN)
    assert bare.summary().rows[1] == "eta[0]"
    np.testing.assert_array_equal(bare.summary()["mean"], fit.summary()["mean"])


def test_labels_take_no_compilation(yearly):
    with compiled() as programs:
        other = advi.fit(MODEL, FRAME, coords={"year": ["first", "second"]}, **PLAIN)
        assert "beta[Becker, first]" in other.summary().rows
        assert "beta[Becker, 2020]" in yearly.summary().rows
    assert programs == []


def test_plots_have_labels(fit):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert [panel.get_title() for panel in fit.plot("eta")] == NAMES
    forest = fit.plot_forest("eta", sort=None)
    assert [tick.get_text() for tick in forest.get_yticklabels()] == NAMES
    assert fit.plot_pairs(["mu", "eta[0]"])[1, 0].get_ylabel() == "eta[Becker]"
    names = sorted(COUNTIES)
    swapped = advi.fit(MODEL, FRAME, coords={"county": names}, **PLAIN)
    assert swapped.summary("eta").rows == tuple(f"eta[{name}]" for name in names)
    with pytest.raises(ValueError, match="'another fit' has other labels along 'eta'"):
        fit.plot("eta", against=swapped)
    pyplot.close("all")


def same_as_fitted(fit, data):
    np.testing.assert_array_equal(
        fit.predict(lambda z, d: z["eta"][d["county"]], 10, data),
        fit.predict(lambda z, d: z["eta"][d["county"]], 10, FRAME),
    )


def test_new_data_are_coded_by_the_names_of_the_fit(fit):
    same_as_fitted(fit, OTHER)
    np.testing.assert_array_equal(fit.log_likelihood(OTHER), fit.log_likelihood())
    assert fit.loo(OTHER, n=100).elpd == fit.loo(n=100).elpd
    few = other_order(FRAME[FRAME["county"] == "Anoka"])[["county"]]
    codes = fit.predict(
        lambda z, d: d["county"], 1, few.assign(county=few["county"].cat.remove_unused_categories())
    )
    assert set(codes.ravel()) == {2}
    with pytest.raises(ValueError, match=r"got 'Cook' in the column 'county'"):
        fit.log_likelihood(FRAME.assign(county=pd.Categorical(["Cook"] * N)))


def test_a_start_has_the_labels_of_the_fit(fit):
    with pytest.raises(ValueError, match="init: got a fit with other labels along 'eta'"):
        advi.fit(MODEL, OTHER, init=fit, **PLAIN)
    named = advi.fit(MODEL, OTHER, init=fit, coords={"county": COUNTIES}, **PLAIN)
    np.testing.assert_allclose(named.summary()["mean"], fit.summary()["mean"], atol=1e-3)


def test_a_file_and_a_pickle_keep_names_and_codes(yearly, tmp_path):
    yearly.save(tmp_path / "names.advi")
    for kept in (advi.load(tmp_path / "names.advi"), pickle.loads(pickle.dumps(yearly))):
        assert kept.summary().rows == yearly.summary().rows
        np.testing.assert_array_equal(
            kept.predict(lambda z, d: z["eta"][d["county"]], 10, OTHER),
            yearly.predict(lambda z, d: z["eta"][d["county"]], 10, FRAME),
        )


def test_batches_held_out_rows_and_steps_are_coded_by_name():
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]
    frames = [(FRAME if k == 0 else OTHER)[part] for k, part in enumerate(parts)]
    dicts = [{name: column[part] for name, column in CODES.items()} for part in parts]
    settings = {"num_rows": N, "max_steps": 20, "diagnose": False}
    named = advi.fit(MODEL, frames, eval_data=OTHER, **settings)
    bare = advi.fit(MODEL, dicts, eval_data=CODES, **settings)
    np.testing.assert_array_equal(named.summary()["mean"], bare.summary()["mean"])
    assert len(named.eval_trace.steps)
    np.testing.assert_array_equal(named.eval_trace, bare.eval_trace)
    assert named.summary("eta").rows == tuple(NAMES)
    steps = advi.svi(MODEL, FRAME, coords={"year": [2020, 2021]}, batch_size=20)
    state = steps.init(0)
    taken = [steps.step(state, batch) for batch in (OTHER[:20], dicts[0])]
    assert float(taken[0][1].elbo) == float(taken[1][1].elbo)
    assert steps.result(taken[0][0]).summary("beta").rows[0] == "beta[Becker, 2020]"


@pytest.mark.slow
def test_rows_that_are_handed_in_again_are_coded_by_name():
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]
    fit = advi.fit(MODEL, [FRAME[part] for part in parts], num_rows=N, max_steps=500)
    again = [[frame[part] for part in parts] for frame in (FRAME, OTHER)]
    first, second = (fit.check(data=data).diagnostics["mean_shift"] for data in again)
    assert first == second
    assert list(first)[1:4] == NAMES
    codes = advi.fit(MODEL, [FRAME.assign(county=COUNTY)[part] for part in parts], num_rows=N,
                     max_steps=10)  # fmt: skip
    with pytest.raises(TypeError, match="categories in the column 'county', which the fit does"):
        codes.check(data=again[0])


def test_encoders_get_the_codes_of_the_fit():
    def local(z, d):
        prior = dist.Normal(0, 1).log_prob(z["mu"]) + dist.Normal(0, 1).log_prob(z["eta"]).sum()
        rows = dist.Normal(z["mu"] + z["eta"][d["county"]] + z["h"], 1).log_prob(d["y"])
        return advi.Terms(prior, rows + dist.Normal(0, 1).log_prob(z["h"]))

    def encode(params, row):
        return params["by"][row["county"]][None], params["log_sd"]

    params = {"by": np.array([3.0, 1.0, -1.0]), "log_sd": np.zeros(1)}
    latents = {"mu": advi.real(), "eta": advi.real(3), "h": advi.real(local=True)}
    model = advi.Model(local, latents, dims={"eta": ["county"]})
    family = {"h": advi.Amortised(encode, params)}
    fit = advi.fit(model, FRAME, family=family, optimizer=optax.sgd(0.0), max_steps=2)
    draws = [fit.sample(5, data=data)["h"] for data in (FRAME, OTHER)]
    np.testing.assert_array_equal(draws[0], draws[1])


@pytest.mark.slow
def test_rows_have_the_labels_of_their_axis():
    def rows(z, d):
        return advi.Terms(0.0, -0.5 * (z["h"] ** 2 + (d["y"] - z["h"]) ** 2))

    model = advi.Model(rows, {"h": advi.real(local=True)})
    fit = advi.fit(model, FRAME[["y"]][:4], coords={"row": list("abcd")}, diagnose=False)
    assert list(fit.summary()) == ["h[a]", "h[b]", "h[c]", "h[d]"]


def test_check_names_entries_by_label():
    def flat(z, d):
        return log_joint(z, d).total() - dist.Normal(0, 1).log_prob(z["eta"]).sum()

    few = FRAME[FRAME["county"] != "Anoka"]
    [problem] = advi.check(advi.Model(flat, LATENTS, dims=DIMS), few).problems
    assert "log_joint never depends on eta[Anoka]" in problem


def test_arviz_has_the_dims_and_coords_of_the_fit(yearly):
    pytest.importorskip("xarray")
    posterior = yearly.to_arviz(5)["posterior"]
    assert posterior["beta"].dims == ("chain", "draw", "county", "year")
    assert posterior["county"].values.tolist() == COUNTIES
    assert posterior["year"].values.tolist() == [2020, 2021]
    changed = yearly.to_arviz(5, dims={"eta": ["place"]}, coords={"place": [7, 8, 9]})["posterior"]
    assert changed["eta"].dims == ("chain", "draw", "place")
    assert changed["beta"].dims == ("chain", "draw", "county", "year")


WRONG = {
    "axis": ({"quarter": [1, 2]}, ValueError, "unknown axis 'quarter'. Known: county, year"),
    "number": ({"year": [1, 2, 3]}, ValueError, "got 3 labels for 'year'; expected 2"),
    "twice": ({"year": ["a", "a"]}, ValueError, "'year': got 'a' more than once"),
    "missing": ({"year": ["a", None]}, ValueError, "'year': got 1 missing"),
    "text": ({"year": "ab"}, TypeError, "'year': got 'ab' .* expected labels in one dimension"),
    "matrix": ({"year": [[1, 2]]}, TypeError, "expected labels in one dimension"),
    "list": (["year"], TypeError, "coords: got .* expected a dict"),
    "category": ({"county": ["Aitkin", "Anoka", "Cook"]}, ValueError, "got 'Becker' in the column"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_coords_are_told_before_anything_compiles(case):
    coords, kind, message = WRONG[case]
    with compiled() as programs:
        for call in (advi.fit, advi.svi, advi.check):
            with pytest.raises(kind, match=message):
                call(MODEL, FRAME, coords=coords)
    assert programs == []


def test_coords_of_a_model_that_names_no_axes():
    model = advi.Model(lambda z, d: -(z["mu"] ** 2), {"mu": advi.real()})
    with pytest.raises(ValueError, match=r"Known: none\. The model names no axes.*dims.*plates"):
        advi.fit(model, coords={"q": ["a"]})


def test_rows_of_a_stream_have_no_labels():
    model = advi.Model(log_joint, LATENTS | {"h": advi.real(local=True)}, dims=DIMS)
    with pytest.raises(ValueError, match=r"unknown axis 'row'.* rows of a stream have no labels"):
        advi.fit(model, [FRAME], num_rows=N, coords={"row": range(N)})


def test_categories_are_as_many_as_the_entries_of_their_axis():
    few = FRAME[FRAME["county"] != "Anoka"]
    few = few.assign(county=few["county"].cat.remove_unused_categories())
    for data, count in ((few, 2), (other_order(FRAME, "Cook"), 4)):
        with pytest.raises(ValueError, match=rf"got {count} categories in the column 'county'.* 3"):
            advi.fit(MODEL, data)
    named = advi.fit(MODEL, few, coords={"county": COUNTIES}, **PLAIN)
    assert named.summary("eta").rows == tuple(NAMES)
    assert float(named.sd()["eta"][2]) > 2 * float(named.sd()["eta"][0])


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        (["county"], TypeError, "dims: got .* expected a dict"),
        ({"theta": "county"}, ValueError, "dims: unknown latent 'theta'"),
        ({"beta": "county"}, ValueError, r"expected a list of 2 names.* \(3, 2\)"),
        ({"beta": ["a", "a"]}, ValueError, "names that differ"),
        ({"eta": "mu"}, ValueError, "'mu' is the name of a latent"),
        ({"eta": "a", "beta": ["b", "a"]}, ValueError, "'a' has 3 entries in 'eta', and 2 in 'b"),
    ],
)
def test_wrong_dims_are_told_by_the_model(dims, kind, message):
    with pytest.raises(kind, match=message):
        advi.Model(log_joint, LATENTS, dims=dims)


def test_axes_without_a_name_have_that_of_arviz():
    model = advi.Model(log_joint, LATENTS, dims={"beta": [None, "year"]})
    coords = {"eta_dim_0": COUNTIES, "beta_dim_0": list("abc")}
    rows = advi.fit(model, CODES, coords=coords, **PLAIN).summary().rows
    assert rows[1:5] == (*NAMES, "beta[a, 0]")


def radon(county, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("county", 3):
        eta: Any = numpyro.sample("eta", dist.Normal(mu, tau))
        numpyro.deterministic("twice", 2 * eta)
        numpyro.sample("share", dist.Dirichlet(np.ones(2)))
    with numpyro.plate("rows", len(county)):
        numpyro.sample("y", dist.Normal(eta[county], 0.5), obs=y)


def test_plates_name_the_axes_of_numpyro_models():
    fit = advi.fit(advi.from_numpyro(radon), FRAME, **PLAIN)
    assert fit.summary(["eta", "twice[Aitkin]"]).rows == (*NAMES, "twice[Aitkin]")
    assert fit.summary("share").rows[:2] == ("share[Becker, 0]", "share[Becker, 1]")
    drawn = [fit.predictive(5, data)["y"] for data in (FRAME[["county"]], OTHER[["county"]])]
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.slow
def test_other_coordinates_keep_the_labels():
    fit = advi.fit(advi.from_numpyro(radon), FRAME, **PLAIN)
    moved = fit.refine("mean_field", reparam={"eta": "non-centred"})
    assert "eta_decentered[Aitkin]" in moved.summary().rows
    assert moved.summary("eta").rows == tuple(NAMES)
    same = [moved.predict(lambda z, d: z["eta"][d["county"]], 3, data) for data in (FRAME, OTHER)]
    np.testing.assert_array_equal(same[0], same[1])


def test_quantiles_are_those_asked_for(fit):
    table = fit.summary("eta", probs=(0.025, 0.5, 0.999))
    assert list(table.columns) == ["mean", "sd", "2.5%", "50%", "99.9%"]
    np.testing.assert_allclose(table["2.5%"], fit.quantile(0.025)["eta"], rtol=1e-6)
    assert list(fit.summary(probs=()).columns) == ["mean", "sd"]
    assert list(fit.summary(probs=0.1).columns) == ["mean", "sd", "10%"]
    for wrong in (1.5, [0.1, 0.1], [[0.1]], [np.nan]):
        with pytest.raises(ValueError, match=r"probs: got .* expected probabilities"):
            fit.summary(probs=wrong)


def test_a_summary_becomes_a_frame(fit):
    table = fit.summary("eta", sort="mean")
    frame = table.to_pandas()
    assert frame.index.tolist() == list(table) == [NAMES[0], NAMES[1], NAMES[2]]
    assert frame.loc["eta[Aitkin]", "sd"] == table["eta[Aitkin]"]["sd"]
    assert len(table) == 3


def test_keys_of_random_numbers_are_no_tables():
    keys = jax.random.split(jax.random.key(0), N)
    model = advi.Model(lambda z, d: log_joint(z, d["rows"]), LATENTS, dims=DIMS)
    fit = advi.fit(model, {"rows": FRAME, "keys": keys}, **PLAIN)
    assert fit.summary("eta").rows == tuple(NAMES)
