"""Predictive checks: what is compared, how it is drawn, and what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import advi
from advi.posterior import replicated
from advi.results.plots.ppc import MAX_BARS, density

matplotlib = pytest.importorskip("matplotlib", reason="plots need Matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

N = 60
RNG = np.random.default_rng(0)
X = RNG.standard_normal(N)
DATA = {"x": X, "real": X + RNG.standard_normal(N), "count": RNG.integers(0, 8, N).astype(float)}


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def two_outcomes(x, real=None, count=None):
    w = numpyro.sample("w", dist.Normal(0, 3))
    numpyro.deterministic("mean", w * x)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("real", dist.Normal(w * x, 1), obs=real)
        with handlers.mask(mask=jnp.arange(len(x)) > 0):
            numpyro.sample("count", dist.DiscreteUniform(0, 7), obs=count)


def by_row(z, d):
    return advi.Terms(-(z["w"] ** 2), dist.Normal(z["w"] * d["x"], 1).log_prob(d["real"]))


def fitted(model, data=DATA):
    return advi.fit(model, data, family="mean_field", diagnose=False)


@pytest.fixture(scope="module")
def fit():
    return fitted(advi.from_numpyro(two_outcomes))


@pytest.fixture(scope="module")
def own():
    return fitted(advi.Model(by_row, {"w": advi.real()}))


def replicate(z, d, key):
    return {"real": z["w"] * d["x"] + jax.random.normal(key, d["x"].shape)}


def heights(panel):
    """Heights of the bars, ends of the intervals, and the means."""
    [lines], [dots] = panel.collections, panel.get_lines()
    ends = np.array(lines.get_segments())[..., 1]
    return [bar.get_height() for bar in panel.patches], ends, dots.get_ydata()


def test_real_values_are_densities_and_integers_counts(fit):
    count, real = fit.plot_ppc(20, key=1)
    draws = fit.predictive(20, key=1)
    assert (count.get_title(), real.get_title()) == ("count", "real")
    *lines, pooled, observed = real.get_lines()
    assert len(lines) == 20
    x, y = observed.get_data()
    half = 0.5 * (x[1] - x[0])
    ends = x[0] - half, x[-1] + half
    for line, values in ((lines[3], draws["real"][3]), (pooled, draws["real"])):
        np.testing.assert_allclose(line.get_ydata(), density(values.astype(float), *ends)[1])
    assert np.trapezoid(y, x) == pytest.approx(1, abs=0.02)
    assert observed.get_color() == "black"
    bars, ends, means = heights(count)
    first = round(count.patches[0].get_x() + 0.45)
    values = range(first, first + len(bars))
    assert bars == [np.sum(DATA["count"][1:] == k) for k in values]  # the first is masked
    counted = np.array([[np.sum(draw[1:] == k) for k in values] for draw in draws["count"]])
    np.testing.assert_allclose(means, counted.mean(0))
    np.testing.assert_allclose(ends.T, np.quantile(counted, [0.05, 0.95], axis=0))
    assert len(count.figure.legends[0].get_texts()) == 5
    count.figure.canvas.draw()


def test_names_prior_and_other_data(fit):
    [panel] = fit.plot_ppc(10, names="real", prior=True)
    assert "10 prior predictive draws" in panel.get_legend_handles_labels()[1]
    narrow = fit.plot_ppc(10, names=["real"])[0]
    assert np.ptp(panel.get_xlim()) > 1.5 * np.ptp(narrow.get_xlim())
    few = {name: leaf[:9] for name, leaf in DATA.items()}
    bars, _, _ = heights(fit.plot_ppc(10, few, names="count")[0])
    assert sum(bars) == 8


def test_a_function_of_ones_own_draws_data_leaves(own):
    [panel] = own.plot_ppc(10, fn=replicate)
    assert panel.get_title() == "real"
    line = panel.get_lines()[4]
    draws = own.predict(lambda z, d, key: replicate(z, d, key)["real"], 10)
    x, y = line.get_data()
    middle = np.sum(x * y) / np.sum(y)  # of the kernels is that of the values
    assert middle == pytest.approx(draws[4].mean(), abs=0.02)
    new = {name: leaf[:5] for name, leaf in DATA.items()}
    [panel] = own.plot_ppc(10, new, fn=replicate)
    panel.figure.canvas.draw()


def test_missing_values_are_left_out_of_the_replications_too(own):
    some = {**DATA, "real": np.where(np.arange(N) < 10, np.nan, DATA["real"])}
    found = replicated.replicated(own.posterior, 7, some, 0, replicate, False, None)
    assert [(one.observed.shape, one.draws.shape) for one in found] == [((50,), (7, 50))]
    np.testing.assert_allclose(found[0].observed, DATA["real"][10:], rtol=1e-6)
    whole = own.predict(replicate, 7, some)["real"]
    np.testing.assert_allclose(found[0].draws, whole[:, 10:])


def test_of_many_values_some_stand_for_all(own, monkeypatch):
    monkeypatch.setattr(replicated, "MOST", 25)
    [found] = replicated.replicated(own.posterior, 7, None, 3, replicate, False, None)
    assert found.draws.shape == (7, 25)
    rows = [np.flatnonzero(np.isclose(DATA["real"], v, rtol=1e-6))[0] for v in found.observed]
    assert rows == sorted(set(rows))
    whole = own.predict(replicate, 7, key=3)["real"]
    np.testing.assert_allclose(found.draws, whole[:, rows], rtol=1e-6)
    panel = own.plot_ppc(7, key=3, fn=replicate)[0]
    assert panel.get_xlabel() == "25 of 60 values, at random"


def test_large_counts_share_bars_and_constants_are_drawn(own):
    def large(z, d, key):
        return {"x": jnp.full(N, 5.0), "count": 1000.0 * jax.random.randint(key, (N,), 0, 8)}

    count, constant = own.plot_ppc(5, {**DATA, "x": np.full(N, 0.5)}, fn=large)
    assert len(count.patches) <= MAX_BARS
    assert sum(heights(count)[2]) == pytest.approx(N, abs=1)
    constant.figure.canvas.draw()


def test_draws_that_overflow_are_left_out(own):
    def infinite(z, d, key):
        return {"real": jnp.exp(1e3 * jax.random.normal(key, (N,)))}

    [panel] = own.plot_ppc(5, fn=infinite)
    assert np.all(np.isfinite(panel.get_xlim()))
    panel.figure.canvas.draw()


def test_given_axes_are_drawn_on(own):
    axes = matplotlib.figure.Figure().subplots(1, 2)
    assert own.plot_ppc(5, fn=replicate, axes=axes[0])[0] is axes[0]
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="axes: got 2; expected 1"):
        own.plot_ppc(5, fn=replicate, axes=axes)


def test_what_is_not_observed_cannot_be_checked(fit):
    with pytest.raises(ValueError, match=r"no site of the model is observed with these data"):
        fit.plot_ppc(data={"x": X})
    [panel] = fit.plot_ppc(5, {"x": X, "real": DATA["real"]})
    assert panel.get_title() == "real"
    with pytest.raises(
        ValueError, match=r"names: unknown observed site 'mean'.*Known: count, real"
    ):
        fit.plot_ppc(names="mean")
    missing = {**DATA, "real": np.full(N, np.nan)}
    with pytest.raises(ValueError, match="'real' has no observed value"):
        fit.plot_ppc(data=missing, names="real")

    def without_plate(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    flat = fitted(advi.from_numpyro(without_plate), X)
    with pytest.raises(ValueError, match=r"'y' has values of shape \(60,\).*expected a plate"):
        flat.plot_ppc()


def test_wrong_arguments_are_named(own, fit, tmp_path):
    with pytest.raises(TypeError, match=r"plot_ppc: the model is a log-joint.*expected fn="):
        own.plot_ppc()
    with pytest.raises(TypeError, match=r"fn: got a function fn\(z, data\), which draws nothing"):
        own.plot_ppc(fn=lambda z, d: {"real": d["x"]})
    with pytest.raises(ValueError, match=r"fn returned 'y'; expected .* Known: count, real, x"):
        own.plot_ppc(fn=lambda z, d, key: {"y": d["x"]})
    with pytest.raises(ValueError, match=r"fn returned None .* by the names of data leaves"):
        own.plot_ppc(fn=lambda z, d, key: None)
    with pytest.raises(ValueError, match=r"fn returned 'x' of shape \(3,\); expected .* \(60,\)"):
        own.plot_ppc(fn=lambda z, d, key: {"x": d["x"][:3]})
    for given in ({"prior": True}, {"names": "real"}):
        with pytest.raises(ValueError, match="prior, names: they say"):
            fit.plot_ppc(fn=replicate, **given)
    with pytest.raises(ValueError, match="n: got 0"):
        fit.plot_ppc(0)
    with pytest.raises(TypeError, match="prior: got 1"):
        fit.plot_ppc(prior=1)
    for whole in (own, fit):
        whole.save(tmp_path / "fit")
        with pytest.raises(RuntimeError, match=r"loaded from .*without its model and data"):
            advi.load(tmp_path / "fit").plot_ppc()
    [panel] = advi.load(tmp_path / "fit").plot_ppc(5, DATA, fn=replicate)
    assert panel.get_title() == "real"
