"""Fits in ArviZ: the groups, their draws and densities, and ArviZ's own functions on them."""

import dataclasses
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import advi
from advi.core.verdict import Verdict
from advi.posterior.record import Examination
from tests import targets

xarray = pytest.importorskip("xarray", reason="to_arviz needs xarray")


def regression(z, d):
    prior = -0.5 * jnp.sum(z["w"] ** 2) / 25 - z["noise"]["sd"]
    return advi.Terms(prior, dist.Normal(d["x"] @ z["w"], z["noise"]["sd"]).log_prob(d["y"]))


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    data = {"x": x, "y": x @ np.array([1.0, -1.0]) + rng.standard_normal(40), "k": np.float64(3)}
    model = advi.Model(regression, {"w": advi.real(2), "noise": {"sd": advi.positive()}})
    return advi.fit(model, data)


@pytest.fixture(scope="module")
def tree(fit):
    dims = {"w": ["predictor"], "x": ["case", "predictor"]}
    return fit.to_arviz(500, key=3, dims=dims, coords={"predictor": ["slope", "age"]})


def newer_than(package, least):
    """Whether a package is installed, in at least some version."""
    try:
        return int(version(package).partition(".")[0]) >= least
    except PackageNotFoundError:
        return False


needs_stats = pytest.mark.skipif(
    importlib.util.find_spec("arviz_stats") is None, reason="arviz-stats is not installed"
)
needs_plots = pytest.mark.skipif(
    not newer_than("arviz-plots", 1), reason="arviz-plots 1.0 or later is not installed"
)


def test_posterior_has_the_draws_of_sample_by_name(fit, tree):
    draws = fit.sample(500, key=3)
    posterior = tree["posterior"]
    assert posterior["w"].dims == ("chain", "draw", "predictor")
    assert posterior["predictor"].values.tolist() == ["slope", "age"]
    np.testing.assert_array_equal(posterior["w"][0], draws["w"])
    np.testing.assert_array_equal(posterior["noise.sd"][0], draws["noise"]["sd"])
    as_dict = fit.to_dict(500, key=3)
    assert list(as_dict) == ["w", "noise.sd"]
    assert all(type(values) is np.ndarray for values in as_dict.values())
    np.testing.assert_array_equal(as_dict["noise.sd"], draws["noise"]["sd"])


def test_log_likelihood_is_that_of_every_row_at_the_same_draws(fit, tree):
    posterior, data = tree["posterior"], tree["observed_data"]
    mean = np.asarray(data["x"]) @ np.asarray(posterior["w"][0]).T
    sd = np.asarray(posterior["noise.sd"][0])
    rows = tree["log_likelihood"]["rows"]
    assert rows.dims == ("chain", "draw", "case")
    assert data["y"].dims == ("case",)
    assert data["k"].dims == ()
    expected = stats.norm.logpdf(np.asarray(data["y"])[:, None], mean, sd).T
    np.testing.assert_allclose(rows[0], expected, rtol=1e-4, atol=1e-4)  # float32


def test_log_densities_give_the_evidence_of_a_gaussian_posterior():
    """Where q is the posterior, log p - log q is the log evidence at every draw."""
    target = targets.conjugate_normal()
    tree = advi.fit(target.model, target.data, x64=True).to_arviz(200)
    stats_ = tree["sample_stats"]
    np.testing.assert_allclose(stats_["log_p"] - stats_["log_q"], target.log_evidence, rtol=1e-6)


def test_draws_of_a_corrected_fit_have_no_density_of_q(fit):
    better = fit.corrected()
    tree = better.to_arviz(300, key=1)
    np.testing.assert_array_equal(
        tree["posterior"]["w"][0], fit.sample(300, 1, corrected=True)["w"]
    )
    assert list(tree["sample_stats"].data_vars) == ["log_p"]
    assert tree["posterior"].attrs["corrected"] == 1


def test_the_report_and_the_trace_come_along(fit, tree):
    report = tree["posterior"].attrs
    assert report["status"] == "converged"
    assert report["elbo"] == fit.elbo.value
    assert report["verdict"] == fit.verdict.level
    # what netCDF can hold
    assert all(isinstance(value, (str, int, float)) for value in report.values())
    np.testing.assert_array_equal(tree["trace"]["elbo"], fit.elbo_trace)
    assert tree["trace"]["stage"].values.tolist() == [p.stage for p in fit._record.outcome.trace]


def test_a_scalar_log_joint_and_no_data_leave_their_groups_out():
    model = advi.Model(lambda z, data: -0.5 * z["a/b"] ** 2, {"a/b": advi.real()})
    tree = advi.fit(model, diagnose=False).to_arviz(10)
    assert set(tree.children) == {"posterior", "sample_stats", "trace"}
    assert list(tree["posterior"].data_vars) == ["a.b"]


def test_local_latents_lie_along_the_rows():
    def log_joint(z, d):
        rows = -0.5 * (z["h"] ** 2).sum(-1) - 0.5 * (d["y"] - z["m"] - z["h"][:, 0]) ** 2
        return advi.Terms(-0.5 * z["m"] ** 2, rows)

    model = advi.Model(log_joint, {"h": advi.real(2, local=True), "m": advi.real()})
    data, coords = {"y": np.arange(12.0)}, {"row": range(100, 112)}
    fit = advi.fit(model, data, coords=coords, batch_size=4, max_steps=10)
    with pytest.warns(UserWarning, match="'poor'.*Next: (?!use fit.corrected)"):
        tree = fit.to_arviz(5)  # after ten steps it is still moving
    assert set(tree.children) == {"posterior", "trace", "log_likelihood", "observed_data"}
    posterior = tree["posterior"]
    assert posterior["h"].dims == ("chain", "draw", "row", "h_dim_0")
    assert posterior["row"].values.tolist() == tree["log_likelihood"]["row"].values.tolist()
    assert posterior["row"].values.tolist() == list(range(100, 112))
    h, m = np.asarray(posterior["h"][0]), np.asarray(posterior["m"][0])[:, None]
    expected = -0.5 * (h**2).sum(-1) - 0.5 * (np.arange(12.0) - m - h[..., 0]) ** 2
    np.testing.assert_allclose(tree["log_likelihood"]["rows"][0], expected, rtol=1e-5)


def test_a_latent_and_a_data_leaf_may_share_a_name():
    model = advi.Model(lambda z, d: -0.5 * jnp.sum((z["x"] - d["x"]) ** 2), {"x": advi.real(2)})
    fit = advi.fit(model, {"x": np.ones((3, 2))}, diagnose=False)
    tree = fit.to_arviz(10, dims={"x": ["side"]})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "side")
    assert tree["observed_data"]["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": {"v": ["predictor"]}}, "unknown latent or data leaf 'v'.*w, noise.sd"),
        ({"dims": {"w": "predictor"}}, "got 'predictor' for 'w'; expected a list of 1 names"),
        ({"dims": {"w": ["a", "b"]}}, r"expected a list of 1 names.*shape \(2,\)"),
        ({"coords": {"w": [1, 2]}}, "unknown dimension 'w'"),
        ({"dims": {"w": ["a"]}, "coords": {"a": [1]}}, "got 1 labels for 'a'; expected 2"),
    ],
)
def test_wrong_dims_and_coords_are_named(fit, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit.to_arviz(10, **arguments)


def test_without_xarray_the_extra_is_named(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install \"advi-engine\[arviz\]\""):
        fit.to_arviz(10)


@needs_stats
def test_arviz_summarises_as_the_fit_does(fit, tree):
    import arviz_stats

    table = arviz_stats.summary(tree, round_to="none")
    assert list(table.index) == ["w[slope]", "w[age]", "noise.sd"]
    # Monte Carlo error of 500 draws, five standard errors
    sd = np.array(table["sd"], float)
    assert np.all(np.abs(np.array(table["mean"], float) - fit.summary()["mean"]) < 5 * sd / 22)


@needs_stats
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # arviz-stats 0.8 on pandas 3.1
def test_arviz_prefers_the_model_that_made_the_data(fit, tree):
    import arviz_stats

    model = advi.Model(
        lambda z, d: advi.Terms(-(z["m"] ** 2), dist.Normal(z["m"], 1.5).log_prob(d["y"])),
        {"m": advi.real()},
    )
    other = advi.fit(model, {"y": np.asarray(tree["observed_data"]["y"])}, diagnose=False)
    slopes = fit.to_arviz(2000, key=3)  # enough for ArviZ to take k-hats up to .7
    loo = arviz_stats.loo(slopes)
    assert loo.n_data_points == 40
    table = arviz_stats.compare({"slopes": slopes, "none": other.to_arviz(2000)})
    assert table.index[0] == "slopes"


@needs_plots
def test_arviz_plots_it(tree):
    import arviz_plots
    from matplotlib import pyplot as plt

    for plot in (arviz_plots.plot_dist, arviz_plots.plot_forest):
        plot(tree, backend="matplotlib")
        assert plt.gcf().axes
        plt.close("all")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # older ArviZ announces the newer
def test_older_arviz_gets_inference_data(fit, monkeypatch):
    arviz = pytest.importorskip("arviz", reason="ArviZ is not installed")
    if newer_than("arviz", 1):
        pytest.skip("ArviZ 1.0 or later is installed")
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    data = fit.to_arviz(500)
    assert isinstance(data, arviz.InferenceData)
    assert set(data.groups()) >= {"posterior", "log_likelihood", "sample_stats", "observed_data"}
    assert arviz.loo(data).n_data_points == 40


def test_a_loaded_fit_goes_to_arviz_without_its_data(tmp_path):
    """And one that read its rows in batches, of which it holds a few."""
    rng = np.random.default_rng(0)
    rows = {"y": rng.normal(1.0, 1.0, 60)}

    def log_joint(z, d):
        return advi.Terms(-0.5 * z["m"] ** 2, rows=-0.5 * (d["y"] - z["m"]) ** 2)

    model = advi.Model(log_joint, {"m": advi.real()})
    fit = advi.fit(model, rows)
    fit.save(tmp_path / "normal.advi")
    batches = [{"y": part} for part in np.split(rows["y"], 3)]
    streamed = advi.fit(model, batches, num_rows=60, max_steps=10)
    for without in (advi.load(tmp_path / "normal.advi"), streamed):
        groups = without.to_arviz(20)
        assert set(groups.children) == {"posterior", "sample_stats", "trace"}
        assert set(groups["sample_stats"].data_vars) == {"log_q"}
    whole = fit.to_arviz(20)
    assert {"log_likelihood", "observed_data"} < set(whole.children)
    loaded = advi.load(tmp_path / "normal.advi").to_arviz(20)
    np.testing.assert_array_equal(loaded["posterior"]["m"], whole["posterior"]["m"])


def judged(fit, examination):
    return advi.Fit(dataclasses.replace(fit._record, examination=examination))


def test_a_poor_fit_is_not_handed_over_in_silence(fit):
    """ArviZ sees draws alone: whose they are it cannot tell."""
    examination = Examination(Verdict("poor", ("Off.",), "x."), 0.9, None)
    poor = judged(fit, examination)
    with pytest.warns(
        UserWarning, match=r"'poor'.*Next: use fit.corrected\(\).to_arviz\(\)"
    ) as got:
        poor.to_arviz(10)
    [warning] = got
    assert warning.filename == __file__
    corrected = poor.corrected()
    assert corrected.verdict.level == "good"
    corrected.to_arviz(10)  # warnings are errors
    judged(fit, None).to_arviz(10)
    still = judged(corrected, examination)
    with pytest.warns(UserWarning, match="Next: x; the reasons"):
        still.to_arviz(10)


@pytest.mark.parametrize(
    ("dims", "coords", "error", "words"),
    [
        (3, None, TypeError, "dims: got 3"),
        ({"y": 3}, None, ValueError, "dims: got 3 for 'y'; expected a list of 1 names"),
        ({"y": [None]}, None, ValueError, "expected a list of 1 names"),
        ({"y": ["chain"]}, None, ValueError, "names that differ"),
        ({"x": ["a", "a"]}, None, ValueError, "names that differ from one another"),
        ({"y": ["x"]}, None, ValueError, "'x' is the name of a variable"),
        (None, 3, TypeError, "coords: got 3"),
        ({"y": ["a"]}, {"a": 3}, TypeError, "coords: got 3"),
    ],
)
def test_what_no_names_of_axes_are(fit, dims, coords, error, words):
    with pytest.raises(error, match=words):
        fit.to_arviz(10, dims=dims, coords=coords)
