"""Plots: what is drawn where, that every latent can be, and what wrong arguments say."""

import sys

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.core.status import Progress
from advi.diagnostics import chain_moments
from advi.results.plots.forest import MAX_LABELS
from advi.results.plots.marginals import marginals
from advi.results.plots.panels import choose

matplotlib = pytest.importorskip("matplotlib", reason="plots need Matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def gammas(z, data):
    return jnp.sum(jnp.log(z["g"]) - z["g"]) - 0.5 * (z["s"]["m"] - 3) ** 2


@pytest.fixture(scope="module")
def fit():
    latents = {"g": advi.positive(2), "s": {"m": advi.less_than(5.0)}}
    return advi.fit(advi.Model(gammas, latents), diagnose=False, family="mean_field")


def test_densities_are_those_of_log_prob():
    model = advi.Model(
        lambda z, data: jnp.log(z["x"]) + 2 * jnp.log1p(-z["x"]), {"x": advi.unit_interval()}
    )
    fit = advi.fit(model, x64=True, diagnose=False)
    [found] = marginals(fit.posterior, choose(fit.posterior, None, 1)[0])
    value, density = found.curve
    np.testing.assert_allclose(density, np.exp(fit.log_prob({"x": value})), rtol=1e-9)
    assert np.trapezoid(density, value) == pytest.approx(1, abs=1e-4)


def test_every_coordinate_has_a_panel_with_its_name(fit):
    panels = fit.plot()
    assert [panel.get_title() for panel in panels] == ["g[0]", "g[1]", "s.m"]
    assert [len(panel.get_lines()) for panel in panels] == [1, 1, 1]
    assert panels[2].get_xlim()[1] < 5.5
    assert len(plt.get_fignums()) == 1
    assert len(panels[0].figure.axes) == 3


@pytest.mark.parametrize(
    ("names", "labels"),
    [("g", ["g[0]", "g[1]"]), ("g[1]", ["g[1]"]), ("s", ["s.m"]), (["s.m", "g[0]"], None)],
)
def test_names_choose_latents_groups_and_entries(fit, names, labels):
    assert [panel.get_title() for panel in fit.plot(names)] == (labels or names)
    assert fit.plot_pairs(names).shape == (len(labels or names),) * 2


def test_unknown_names_list_the_known(fit):
    with pytest.raises(ValueError, match=r"names: unknown latent 'gg'.*Known: g, s.m"):
        fit.plot(["gg"])


def test_corrections_and_other_fits_are_laid_over(fit):
    rich = fit.refine("full_rank")
    panel = fit.plot("s.m", corrected=True, against={"mean_field": rich})[0]
    [legend] = panel.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["mean_field", "linear response", "corrected", "mean_field"]
    assert len(panel.get_lines()) == 3  # the corrected draws are a histogram
    assert len(fit.plot("s.m", against=rich)[0].figure.legends) == 1


def test_a_linear_response_that_is_not_to_be_had_is_said_so(monkeypatch):
    """Far out the log of a Cauchy density is convex."""
    monkeypatch.setattr(chain_moments, "seconds_per_gradient", lambda *_: 1.0)  # no long chains
    model = advi.Model(lambda z, d: -jnp.sum(jnp.log1p(z["x"] ** 2)), {"x": advi.real(2)})
    still = {"optimizer": optax.sgd(1e-6), "max_steps": 1, "diagnose": False}
    fit = advi.fit(model, init={"x": np.array([8.0, 8.0])}, family="mean_field", **still)
    with pytest.warns(UserWarning, match="no linear response in the plot"):
        panels = fit.plot(corrected=True)
    assert len(panels[0].figure.legends[0].get_texts()) == 2


def test_what_cannot_be_laid_over_is_named(fit):
    other = advi.fit(advi.Model(lambda z, d: -(z["a"] ** 2), {"a": advi.real()}), diagnose=False)
    with pytest.raises(ValueError, match=r"'another fit' has the latents a; expected g, s.m"):
        fit.plot(against=other)
    with pytest.raises(TypeError, match="against: got 3"):
        fit.plot(against=3)


@pytest.mark.parametrize("method", ["plot", "plot_pairs"])
def test_many_coordinates_are_cut_with_a_note(method):
    model = advi.Model(lambda z, data: -0.5 * jnp.sum(z["x"] ** 2), {"x": advi.real(30)})
    fit = advi.fit(model, diagnose=False)
    panels = getattr(fit, method)()
    num = {"plot": 24, "plot_pairs": 8}[method]
    note = panels.flat[0].figure.get_supxlabel()
    assert note == f'{num} of 30 coordinates; choose with names=["x[29]", ...]'


def normals(n):
    loc = np.random.default_rng(n).permutation(n) - n / 2
    model = advi.Model(lambda z, d: -0.5 * jnp.sum((z["x"] - loc) ** 2), {"x": advi.real(n)})
    return advi.fit(model, family="mean_field", diagnose=False)


def drawn(panel):
    """The mean, the thin and the thick line of every coordinate of one fit."""
    thin, thick = panel.collections
    (dots,) = (line for line in panel.get_lines() if line.get_marker() == "o")
    ends = [np.array(lines.get_segments())[..., 0] for lines in (thin, thick)]
    return dots.get_xdata(), *ends


def test_a_forest_has_means_and_intervals_by_the_mean():
    fit = normals(20)
    panel = fit.plot_forest()
    mean, thin, thick = drawn(panel)
    table = fit.summary(sort="mean")
    np.testing.assert_allclose(mean, table["mean"])
    np.testing.assert_allclose(thin, np.stack([table["5%"], table["95%"]], axis=1))
    np.testing.assert_allclose(thick.T, np.sort(fit.quantile([0.25, 0.75])["x"])[:, ::-1], atol=0.1)
    assert [label.get_text() for label in panel.get_yticklabels()] == list(table.rows)
    assert panel.get_ylim() == (19.5, -0.5)
    assert len(panel.get_lines()) == 2  # the means, and zero
    panel.figure.canvas.draw()


def test_a_forest_may_keep_the_order_or_have_another_or_the_top():
    fit = normals(20)

    def labels(**options):
        panel = fit.plot_forest(**options)
        return [text.get_text() for text in panel.get_yticklabels()]

    assert labels(sort=None) == list(fit.summary().rows)
    assert labels(top=3) == list(fit.summary(sort="mean", top=3).rows)
    assert labels(sort="sd", top=3) == list(fit.summary(sort="sd", top=3).rows)
    panels = fit.plot(sort="mean", top=3)
    assert [panel.get_title() for panel in panels] == labels(top=3)
    assert len(fit.plot(top=3)[0].get_lines()) == 1


def test_a_long_forest_says_how_many_it_has_instead_of_names():
    fit = normals(MAX_LABELS + 1)
    panel = fit.plot_forest("x")
    assert not panel.get_yticklabels()
    assert panel.get_ylabel() == f"{MAX_LABELS + 1} coordinates, by mean"
    assert fit.plot_forest(sort=None).get_ylabel() == f"{MAX_LABELS + 1} coordinates"
    assert fit.plot_forest(top=MAX_LABELS).get_ylabel() == ""


def test_zero_is_marked_only_where_it_is_in_view():
    panel = normals(20).plot_forest("x", top=3)
    assert panel.get_xlim()[0] > 0
    assert len(panel.get_lines()) == 1


def test_forests_of_other_fits_lie_beside_each_other(fit, tmp_path):
    fit.save(tmp_path / "fit")
    panel = fit.plot_forest(corrected=True, against=advi.load(tmp_path / "fit"))
    first, last = panel.collections[0], panel.collections[-1]
    gap = [lines.get_segments()[0][0, 1] for lines in (first, last)]
    np.testing.assert_allclose(gap, [-0.3, 0.3])
    assert len(panel.figure.legends[0].get_texts()) == 4
    panel.figure.canvas.draw()


def test_a_forest_leaves_out_what_has_no_finite_value(tmp_path):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.deterministic("square", mu**2)
        numpyro.deterministic("undefined", jnp.log(-1 - mu**2))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), np.arange(3.0), diagnose=False)
    fit.save(tmp_path / "fit")
    panel = fit.plot_forest(against=advi.load(tmp_path / "fit"))  # which derives nothing
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert sorted(labels[:2]) == ["mu", "square"]
    assert labels[2] == "undefined"
    panel.figure.canvas.draw()
    fit.plot_forest("undefined").figure.canvas.draw()


def test_wrong_arguments_of_a_forest_are_named(fit):
    panels = matplotlib.figure.Figure().subplots(1, 3)
    assert fit.plot_forest(ax=panels[0]) is panels[0]
    assert not plt.get_fignums()
    with pytest.raises(TypeError, match=r"ax: got an array of shape \(3,\).*Matplotlib axes"):
        fit.plot_forest(ax=panels)
    with pytest.raises(ValueError, match="names: unknown latent 'gg'"):
        fit.plot_forest("gg")
    with pytest.raises(ValueError, match="sort: unknown column 'median'"):
        fit.plot_forest(sort="median")
    with pytest.raises(ValueError, match="top: got 0"):
        fit.plot_forest(top=0)


def test_given_axes_are_drawn_on_and_no_figure_is_made(fit):
    figure = matplotlib.figure.Figure()
    axes = figure.subplots(1, 3)
    assert list(fit.plot(axes=axes)) == list(axes)
    assert fit.plot_elbo(axes[0]) is axes[0]
    square = matplotlib.figure.Figure().subplots(2, 2)
    assert fit.plot_pairs("g", axes=square)[1, 0] is square[1, 0]
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="axes: got 3; expected 2"):
        fit.plot("g", axes=axes)
    with pytest.raises(ValueError, match="axes: got 3; expected 2 x 2"):
        fit.plot_pairs("g", axes=axes)


def test_deterministic_sites_are_drawn_behind_the_latents(tmp_path):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.deterministic("powers", mu ** jnp.arange(3))
        numpyro.deterministic("undefined", jnp.log(-1 - mu**2))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), np.arange(3.0), diagnose=False)
    fit.save(tmp_path / "fit")
    panels = fit.plot(against=advi.load(tmp_path / "fit"))  # which derives nothing
    titles = [panel.get_title() for panel in panels]
    assert titles == ["mu", "powers[0]", "powers[1]", "powers[2]", "undefined"]
    assert titles == list(fit.summary().rows)
    # a curve each, a constant, histograms of the fit's own, and nothing
    assert [len(panel.get_lines()) for panel in panels] == [2, 1, 0, 0, 0]
    assert [len(panel.patches) for panel in panels] == [0, 0, 2, 2, 0]
    np.testing.assert_allclose(panels[3].get_xlim()[0], 0, atol=0.3)  # a square
    [scatter] = fit.plot_pairs(["mu", "powers[2]"])[1, 0].collections
    x, y = scatter.get_offsets().T
    np.testing.assert_allclose(y, x**2, rtol=1e-5)


def test_every_kind_of_latent_can_be_drawn():
    """Angles, points of spheres, matrices with constant entries, and point estimates."""
    latents = {
        "a": advi.circular(),
        "u": advi.unit_vector(2),
        "w": advi.simplex(3),
        "L": advi.corr_cholesky(2),
        "o": advi.ordered(2),
        "p": advi.positive(),
    }

    def log_joint(z, data):
        total = jnp.cos(z["a"]) + z["u"][0] + jnp.sum(jnp.log(z["w"])) - jnp.sum(z["o"] ** 2)
        return total + jnp.log(z["L"][1, 1]) + jnp.log(z["p"]) - z["p"]

    family = {"p": advi.Point(), **dict.fromkeys("auwLo", "full_rank")}
    fit = advi.fit(advi.Model(log_joint, latents), family=family, diagnose=False)
    panels = fit.plot()
    assert len(panels) == 13
    titles = [panel.get_title() for panel in panels]
    constant = panels[titles.index("L[0,0]")]
    assert constant.get_lines()[0].get_xdata() == pytest.approx([1, 1])
    assert panels[-1].get_lines()[0].get_xdata() == pytest.approx([1, 1], rel=1e-3)
    panels[0].figure.canvas.draw()
    fit.plot_pairs(["a", "w", "p"])[0, 0].figure.canvas.draw()


def test_the_plan_is_drawn_by_stage_and_its_end_is_in_view(fit):
    ax = fit.plot_elbo()
    labels = ax.get_legend_handles_labels()[1]
    stages = dict.fromkeys(p.stage.replace("_", " ") for p in fit._record.outcome.trace)
    assert labels == [*stages, f"fresh draws: {fit.elbo}"]
    low, high = ax.get_ylim()
    assert low < fit.elbo.value < high


def traced(fit, elbos):
    trace = [Progress("optimize", 1 + k, value) for k, value in enumerate(elbos)]
    return advi.Fit(fit._record.with_outcome(trace=trace, elbo=advi.Estimate(-10.0, 0.1)))


def test_a_long_noisy_trace_has_a_running_mean_and_no_far_start_in_view(fit):
    elbos = np.random.default_rng(0).normal(-10, 1, 1000)
    elbos[:20] = -1e8
    elbos[500] = np.nan
    ax = traced(fit, elbos).plot_elbo()
    assert -30 < ax.get_ylim()[0] < -11
    mean = ax.get_lines()[1]
    assert mean.get_label() == "mean of 20 steps"
    assert mean.get_ydata()[-1] == pytest.approx(elbos[-20:].mean())


def test_the_held_out_elbo_is_drawn_beside_and_in_view(fit):
    few = [Progress("optimize", k, -10.0, -90.0 if k % 10 == 0 else np.nan) for k in range(1, 41)]
    plain = traced(fit, [-10.0] * 40).plot_elbo()
    assert "held out" not in plain.get_legend_handles_labels()[1]
    assert not plain.child_axes
    record = fit._record.with_outcome(trace=few, elbo=advi.Estimate(-10.0, 0.1), num_rows=50)
    ax = advi.Fit(record).plot_elbo()
    held_out = ax.get_lines()[ax.get_legend_handles_labels()[1].index("held out")]
    assert held_out.get_xdata().tolist() == [10, 20, 30, 40]
    assert held_out.get_ydata().tolist() == [-90] * 4
    low, high = ax.get_ylim()
    assert low < -90 < -10 < high
    ax.figure.canvas.draw()
    [per_row] = ax.child_axes
    np.testing.assert_allclose(per_row.get_ylim(), [low / 50, high / 50])


@pytest.mark.parametrize("elbos", [[], [np.nan, np.nan]])
def test_a_trace_of_nothing_still_shows_the_final_elbo(fit, elbos):
    low, high = traced(fit, elbos).plot_elbo().get_ylim()
    assert low < -10 < high


def test_draws_that_overflow_are_left_out():
    model = advi.Model(lambda z, data: -0.5 * (jnp.log(z["p"]) / 40) ** 2, {"p": advi.positive()})
    fit = advi.fit(model, diagnose=False)
    [found] = marginals(fit.posterior, choose(fit.posterior, None, 1)[0])
    assert not np.all(np.isfinite(fit.posterior.moment_draws.values["p"]))
    assert np.all(np.isfinite(found.limits))
    fit.plot()[0].figure.canvas.draw()


def test_local_latents_have_no_marginals_but_a_trace():
    def log_joint(z, d):
        return advi.Terms(0.0, -0.5 * z["h"] ** 2 - 0.5 * (d - z["h"]) ** 2)

    model = advi.Model(log_joint, {"h": advi.real(local=True)})
    fit = advi.fit(model, np.arange(12.0), batch_size=4, max_steps=10)
    with pytest.raises(ValueError, match="'h' is local"):
        fit.plot()
    assert not plt.get_fignums()
    assert len(fit.plot_elbo().get_lines()[0].get_xdata()) == 10


@pytest.mark.parametrize("method", ["plot", "plot_forest", "plot_pairs", "plot_elbo"])
def test_without_matplotlib_the_extra_is_named(fit, method, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install \"advi-engine\[plots\]\""):
        getattr(fit, method)()
