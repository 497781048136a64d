"""Thousands of latents: nested importance sampling against exact moments."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm, poisson
from scipy.linalg import cho_solve_banded, cholesky_banded

import advi
from advi.diagnostics import correct
from advi.diagnostics.examine import target_of
from advi.diagnostics.many_columns import DIRECTIONS, ManyColumns
from advi.diagnostics.monte_carlo_error import MonteCarloError, beyond_chance
from advi.diagnostics.nested_moments import NestedBudget, by_nested_sampling
from advi.diagnostics.reference_moments import reference_moments
from advi.results.fit import Fit

STEPS = 400
RNG = np.random.default_rng(1)
LEVEL = np.cumsum(0.2 * RNG.standard_normal(STEPS))
DATA = {"y": LEVEL + 0.5 * RNG.standard_normal(STEPS)}


def local_level(z, d):
    """A random walk seen with noise: Gaussian given both sds, which it tells little about."""
    x, sd, noise = z["x"], z["sd"], z["noise"]
    log_p = norm.logpdf(x[0], 0, 2) + norm.logpdf(x[1:], x[:-1], sd).sum() - sd - noise
    return log_p + norm.logpdf(d["y"], x, noise).sum()


MODEL = advi.Model(
    local_level, {"sd": advi.positive(), "noise": advi.positive(), "x": advi.real(STEPS)}
)


@functools.cache
def gaussian():
    return advi.fit(MODEL, DATA, family="sparse", diagnose=False)


@functools.cache
def corrected():
    return gaussian().corrected()


@functools.cache
def exact():
    """Means and sds of sd, noise, and of the level, by quadrature over both."""
    y, log_sd, log_noise = DATA["y"], np.linspace(-2.9, -0.6, 70), np.linspace(-1.0, -0.4, 40)
    log_p, means, variances = [], [], []
    for s in np.exp(log_sd):
        for e in np.exp(log_noise):
            diagonal = np.full(STEPS, 2 / s**2 + 1 / e**2)
            diagonal[0], diagonal[-1] = 0.25 + 1 / s**2 + 1 / e**2, 1 / s**2 + 1 / e**2
            bands = np.stack([np.full(STEPS, -1 / s**2), diagonal])
            factor = cholesky_banded(bands), False
            mean = cho_solve_banded(factor, y / e**2)
            log_det = 2 * np.log(factor[0][1]).sum()
            value = 0.5 * (mean @ y) / e**2 - 0.5 * (y @ y) / e**2 - 0.5 * log_det - s - e
            log_p.append(value - (STEPS - 1) * np.log(e) - (STEPS - 2) * np.log(s))
            means.append(mean)
            variances.append(cho_solve_banded(factor, np.eye(STEPS)[:, [0, 200]])[[0, 200], [0, 1]])
    weights = np.exp(np.array(log_p) - np.max(log_p))
    weights /= weights.sum()
    sds, noises = (v.ravel() for v in np.meshgrid(np.exp(log_sd), np.exp(log_noise), indexing="ij"))
    of_x = weights @ np.array(means)
    variance = weights @ (np.array(variances) + (np.array(means) - of_x)[:, [0, 200]] ** 2)

    def moments(v):
        return weights @ v, np.sqrt(weights @ (v - weights @ v) ** 2)

    return {"sd": moments(sds), "noise": moments(noises)}, of_x, np.sqrt(variance)


def test_the_gaussian_is_found_too_narrow():
    fit = gaussian().check()
    assert fit.verdict != "good"
    assert any("the sd of sd is" in reason for reason in fit.verdict.reasons)
    ratio = fit.diagnostics["sd_ratio"]["sd"]
    (_, sd), _ = exact()[0]["sd"], 0
    assert ratio == pytest.approx(sd / float(fit.sd()["sd"]), rel=0.1)


def test_its_correction_has_the_exact_moments():
    fit, (of_sds, of_x, sd_of_x) = corrected(), exact()
    assert fit.verdict == "good"
    for name, (mean, sd) in of_sds.items():
        assert float(fit.mean()[name]) == pytest.approx(mean, abs=0.1 * sd)
        assert float(fit.sd()[name]) == pytest.approx(sd, rel=0.1)
    found, sds = np.asarray(fit.mean()["x"]), np.asarray(fit.sd()["x"])
    np.testing.assert_allclose(found, of_x, atol=0.1 * sd_of_x.min())
    np.testing.assert_allclose(sds[[0, 200]], sd_of_x, rtol=0.1)


def test_a_correction_takes_the_draws_of_the_verdict():
    checked = gaussian().check()
    before = checked.posterior.density.num_hessian_vectors
    better = checked.corrected()
    assert checked.posterior.density.num_hessian_vectors == before
    assert better.verdict == "good"


def counts(z, d):
    log_p = norm.logpdf(z["mean"], 0, 2) - z["sd"] + norm.logpdf(z["effect"], 0, z["sd"]).sum()
    return log_p + poisson.logpmf(d["n"], jnp.exp(z["mean"] + z["effect"])).sum()


def test_small_counts_are_as_nuts_has_them():
    """Effects that are not Gaussian given the hubs: 150 counts of mean 1.5."""
    rng = np.random.default_rng(5)
    data = {"n": rng.poisson(np.exp(0.2 + 0.7 * rng.standard_normal(150))).astype(float)}
    latents = {"mean": advi.real(), "sd": advi.positive(), "effect": advi.real(150)}
    fit = advi.fit(advi.Model(counts, latents), data, family="sparse", diagnose=False)
    better = fit.corrected()
    assert better.verdict == "good"
    # NumPyro's NUTS, 4 chains of 4,000 draws, R-hat below 1.001
    for name, (mean, sd) in {"mean": (-0.0296, 0.1188), "sd": (0.7557, 0.1147)}.items():
        assert float(better.mean()[name]) == pytest.approx(mean, abs=0.15 * sd)
        assert float(better.sd()[name]) == pytest.approx(sd, rel=0.12)


def test_an_unreliable_proposal_is_not_called_good(monkeypatch):
    """With a precision that is wrong by a factor of two nothing is vouched for."""
    fit = gaussian()
    target = target_of(fit.posterior, fit.posterior.density)
    scale = fit.posterior.gaussian.scale
    wrong = fit.posterior.gaussian._replace(scale=scale.shrunk(0.5))
    monkeypatch.setattr(type(target), "widened", wrong)
    budget = NestedBudget(draws=64, enough=400, seconds=5.0)
    _, found = by_nested_sampling(target, target.hessian, np.random.default_rng(0), budget)
    assert found.khat > 0.5 or not found.confident


def test_a_fit_that_cannot_be_corrected_keeps_its_draws(monkeypatch):
    """A few draws with all of the weight are worse than any Gaussian."""
    fit = gaussian()

    def collapsed(*args):
        adapted, found = reference_moments(*args)
        return adapted, [found[-1]._replace(failed=True, confident=False)]

    monkeypatch.setattr(correct, "reference_moments", collapsed)
    monkeypatch.setattr(correct, "by_long_hmc", lambda *args: None)
    better = Fit(correct.corrected(fit._record))
    assert better.verdict == "poor"
    assert "could not be corrected" in better.verdict.reasons[0]
    np.testing.assert_array_equal(better.mean()["x"], fit.mean()["x"])
    np.testing.assert_array_equal(better.sample(3, key=1)["x"], fit.sample(3, key=1)["x"])


def test_chance_is_no_finding():
    rng = np.random.default_rng(0)
    errors = np.full(3000, 0.05)
    shift = np.abs(0.05 * rng.standard_normal(3000))
    kept = beyond_chance(shift, errors, [slice(3, 3000)])
    assert shift[3:].max() > 0.15
    assert kept[3:].max() < 0.05
    np.testing.assert_array_equal(kept[:3], shift[:3])


def test_what_is_beyond_chance_is_found():
    errors = np.full(3000, 0.05)
    shift = np.abs(0.05 * np.random.default_rng(0).standard_normal(3000))
    shift[1000] = 0.6  # one entry
    assert beyond_chance(shift, errors, [slice(0, 3000)])[1000] > 0.3
    all_of_them = np.full(3000, 0.2)
    assert beyond_chance(all_of_them, errors, [slice(0, 3000)]).max() == pytest.approx(
        0.2, abs=0.01
    )


def test_errors_of_batches_are_those_of_the_draws():
    X = np.random.default_rng(0).standard_normal((50, 40, 200))
    found = MonteCarloError.of_batches(X, np.ones(200), np.inf)
    assert np.sqrt((found.shift**2).mean()) == pytest.approx(2000**-0.5, rel=0.1)
    assert np.sqrt((found.log_ratio**2).mean()) == pytest.approx(4000**-0.5, rel=0.1)


def test_columns_that_are_watched_have_names():
    many = ManyColumns(102, (slice(1, 101),))
    names = ("sd", *[f"b[{k}]" for k in range(100)], "mu")
    columns = np.random.default_rng(0).standard_normal((5, 102))
    reduced = many.reduced(columns)
    assert reduced.shape == (5, 2 + 2 + DIRECTIONS)
    assert len(many.names(names)) == 4 + DIRECTIONS
    np.testing.assert_array_equal(reduced[:, :2], columns[:, [0, 101]])
    assert many.names(names)[:3] == ("sd", "mu", "the mean of b")
