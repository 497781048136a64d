"""Comparison of models by their predictions, and of fits that are not of the same data or model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from advi.core.draw_set import WeightedDraws
from advi.core.keys import Stream, host_rng
from advi.posterior.predict import row_terms
from advi.variational.gaussian import Gaussian

Y = np.random.default_rng(0).normal(1.0, 1.0, 40)
X = np.linspace(-1, 1, 40)
DATA = {"x": X, "y": Y}


def slope(z, d):
    prior = dist.Normal(0, 3).log_prob(z["w"]).sum()
    mean = z["w"][0] + z["w"][1] * d["x"]
    return advi.Terms(prior, dist.Normal(mean, 1).log_prob(d["y"]))


def level(z, d):
    return advi.Terms(dist.Normal(0, 3).log_prob(z["m"]), dist.Normal(z["m"], 1).log_prob(d["y"]))


def fitted(log_joint, latents, data=DATA):
    return advi.fit(advi.Model(log_joint, latents), data, family="mean_field", diagnose=False)


@pytest.fixture(scope="module")
def fits():
    return {"slope": fitted(slope, {"w": advi.real(2)}), "level": fitted(level, {"m": advi.real()})}


def with_posterior(fit, **changes):
    posterior = dataclasses.replace(fit.posterior, **changes)
    return advi.Fit(dataclasses.replace(fit._record, posterior=posterior))


@pytest.fixture(scope="module")
def loos(fits):
    return {name: fit.loo() for name, fit in fits.items()}


def test_predictions_are_compared_row_by_row_the_best_first(loos):
    table = advi.compare(loos)
    best, other = (loos[name] for name in table.rows)
    assert best.elpd > other.elpd
    apart = other.pointwise - best.pointwise
    row = table[table.rows[1]]
    assert row["elpd"] == other.elpd
    assert row["se"] == other.se
    assert row["difference"] == pytest.approx(other.elpd - best.elpd)
    assert row["se of difference"] == pytest.approx(np.sqrt(40) * apart.std(ddof=1))
    assert row["se of difference"] < 0.5 * row["se"]
    assert row["p_loo"] == other.p_loo
    assert row["high k-hat"] == 0
    first = table[table.rows[0]]
    assert (first["difference"], first["se of difference"]) == (0, 0)
    assert table.notes == ()
    assert repr(table) == str(table)
    assert advi.compare(dict(reversed(loos.items()))).rows == table.rows


def test_a_fit_at_fault_is_named_with_what_to_do(fits, loos):
    fit = fits["level"]
    loc, scale = fit.posterior.gaussian
    params = fit.posterior.guide.params_of(Gaussian(loc, scale.shrunk(1 / 3)), np.float32)
    narrow = with_posterior(fit, params=params).loo()
    table = advi.compare({"narrow": narrow, "level": loos["level"]})
    assert table["narrow"]["high k-hat"] == 40
    [note] = table.notes
    assert note.startswith("narrow: the k-hats are high because of the approximation")
    assert "fit.corrected().loo()" in repr(table)
    assert f"<p>{note}</p>" in table._repr_html_()


def test_what_cannot_be_compared(fits, loos):
    with pytest.raises(TypeError, match=r"fits \('slope'\) and leave-one-out .*'level'.*one kind"):
        advi.compare({"slope": fits["slope"], "level": loos["level"]})
    fewer = dataclasses.replace(loos["level"], pointwise=np.zeros(39))
    with pytest.raises(ValueError, match=r"40 \('slope'\), 39 \('level'\) rows; expected the same"):
        advi.compare({"slope": loos["slope"], "level": fewer})
    for given in ({"data": DATA}, {"key": 1}):
        with pytest.raises(TypeError, match=r"compared as they are"):
            advi.compare(loos, **given)
    with pytest.raises(TypeError, match=r"fits: got .*expected a dict from names to fits, or to"):
        advi.compare({"level": loos["level"].elpd})


def test_fits_of_other_rows_are_not_compared(fits):
    some = {name: leaf[:30] for name, leaf in DATA.items()}
    fewer = fitted(level, {"m": advi.real()}, some)
    with pytest.raises(ValueError, match=r"40 \('slope'\), 30 \('level'\) rows.*the same data"):
        advi.compare({"slope": fits["slope"], "level": fewer})
    table = advi.compare({"all": fits["level"], "some": fewer}, DATA)
    assert table.rows == ("all", "some")

    def total(z, d):
        terms = level(z, d)
        return terms.shared + jnp.sum(terms.rows)

    scalar = fitted(total, {"m": advi.real()})
    advi.compare({"rows": fits["level"], "scalar": scalar})
    with pytest.raises(ValueError, match=r"30 \('some'\), 40 \('scalar'\) rows"):
        advi.compare({"some": fewer, "scalar": scalar})


def test_elbos_of_other_models_come_with_a_caution(fits):
    table = advi.compare(fits)
    assert "normalised" in str(table).splitlines()[-1]
    again = fitted(level, {"m": advi.real()})
    assert advi.compare({"first": fits["level"], "again": again}).notes == ()


def exactly(fit):
    """The fit with draws of q, taken for draws of the posterior."""
    noise = np.random.default_rng(0).standard_normal((2000, fit.posterior.model.size))
    X = fit.posterior.gaussian.points(noise)
    weighted = WeightedDraws(X, np.full(len(X), 1 / len(X)))
    return with_posterior(fit, weighted=weighted)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # arviz-stats 0.8 on pandas 3.1
def test_arviz_finds_the_same_of_the_same_draws(fits):
    """Of corrected draws, weighted by the row left out alone, as ArviZ weights all draws."""
    arviz_stats = pytest.importorskip("arviz_stats", reason="arviz-stats is not installed")
    arviz_base = pytest.importorskip("arviz_base", reason="arviz-base is not installed")
    theirs, ours = {}, {}
    for name, fit in fits.items():
        draws = exactly(fit)
        ours[name] = draws.loo()
        weighted = draws.posterior.weighted
        assert weighted is not None
        X = weighted.resample(1000, host_rng(0, Stream.LOO))
        rows = row_terms(fit.posterior.density, fit.posterior.constrain(X)).astype(float)
        groups = {"posterior": {"x": X[None]}, "log_likelihood": {"rows": rows[None]}}
        theirs[name] = arviz_stats.loo(arviz_base.from_dict(groups), pointwise=True, reff=1.0)
    table, expected = advi.compare(ours), arviz_stats.compare(theirs)
    assert tuple(expected.index) == table.rows
    for name, loo in theirs.items():
        assert table[name]["elpd"] == pytest.approx(loo.elpd, abs=1e-4)
        assert table[name]["p_loo"] == pytest.approx(loo.p, abs=1e-4)
        # versions before 1.0 divide by N instead of N - 1
        assert table[name]["se"] == pytest.approx(loo.se, rel=0.02)
    # a table that some versions round
    difference = -np.abs(expected["elpd_diff"].astype(float))
    np.testing.assert_allclose(table["difference"], difference, atol=0.05)
    np.testing.assert_allclose(table["se of difference"], expected["dse"].astype(float), atol=0.05)
