"""The stopping rule of the stochastic path, on synthetic courses."""

import numpy as np
import pytest

import advi
from advi.inference.stochastic.convergence import check_due, distance, has_converged, rising
from advi.variational.gaussian import Gaussian
from tests import targets

STEPS = 4096


def course(mean, noise=1.0, seed=0):
    return mean + noise * np.random.default_rng(seed).standard_normal(len(mean))


steps = np.arange(1.0, STEPS + 1)
STILL_IMPROVING = {
    "line": -1000 + 0.01 * steps,
    "slow": -1000 - 300 / np.sqrt(steps),
    "slower": -1000 + 20 * np.log(steps),
    "plateau then jump": -1000 + 5.0 * (steps > 3000),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", STILL_IMPROVING)
def test_a_course_that_still_improves_is_rising(name, seed):
    assert rising(course(STILL_IMPROVING[name], seed=seed))


@pytest.mark.parametrize("noise", [0.0, 1.0, 1e4])
def test_a_course_at_rest_is_not_rising_whatever_its_noise(noise):
    flat = np.full(STEPS, -1000.0)
    # 2 standard errors: 2.5 % of the courses at rest may look as if they rose
    verdicts = [rising(course(flat, noise, seed)) for seed in range(200)]
    assert np.mean(verdicts) < 0.06


def test_a_falling_course_is_not_rising_and_its_mirror_image_is():
    """A loss taken for an ELBO turns the rule around: the sign matters."""
    elbos = course(STILL_IMPROVING["line"])
    assert rising(elbos)
    assert not rising(-elbos)


def test_correlated_noise_is_not_taken_for_a_rise():
    def walk(seed):
        rng = np.random.default_rng(seed)
        x = np.zeros(STEPS)
        for i in range(1, STEPS):
            x[i] = 0.95 * x[i - 1] + rng.standard_normal()
        return x

    assert np.mean([rising(walk(seed)) for seed in range(100)]) < 0.12


def test_distance_is_measured_in_the_sds_of_the_posterior():
    at_rest = Gaussian.diagonal(np.zeros(2), 1.0)
    assert distance(at_rest, at_rest) == (0, 0)
    shifted = Gaussian.diagonal(np.array([0.0, 0.2]), 1.0)
    assert distance(at_rest, shifted) == pytest.approx((0.2, 0))
    wider = Gaussian.diagonal(np.zeros(2), np.array([1.0, 1.2]))
    apart = distance(at_rest, wider)
    assert apart.most == pytest.approx(np.log(1.2))
    assert str(apart) == "the sds changed by up to a factor 1.2"
    tiny = Gaussian.diagonal(np.zeros(2), 1e-6)
    apart = distance(tiny, Gaussian.diagonal(np.full(2, 1e-6), 1e-6))
    assert apart.most == pytest.approx(1)
    assert str(apart) == "the means drifted by up to 1 sd"
    point = Gaussian.diagonal(np.zeros(2), np.array([1.0, 0.0]))
    assert distance(point, Gaussian(np.array([0.1, 9.0]), point.scale)).most == pytest.approx(0.1)
    points = Gaussian.diagonal(np.zeros(2), 0.0)
    assert np.isnan(distance(points, points).most)


def test_a_drift_settles_nothing_however_slow_and_however_noisy_the_elbo():
    flat = course(np.full(STEPS, -1000.0), 1e4, seed=1)
    assert not rising(flat)
    for drift in (1e-6, 1e-3, 0.04):
        assert not has_converged(drift, drift / 2, flat)  # at a constant rate
        # at a rate that falls as one by root
        assert not has_converged(drift, drift / np.sqrt(2), flat)
    assert has_converged(0.04, 0.05, flat)
    assert not has_converged(0.06, 0.5, flat)
    assert not has_converged(0.0, None, flat)


def test_an_elbo_that_rises_while_the_averages_close_in_is_a_falling_rate():
    up = course(STILL_IMPROVING["slow"])
    assert has_converged(0.03, 0.04, up)
    assert not has_converged(0.03, 0.03, up)


def test_non_finite_steps_are_skipped_and_too_few_finite_ones_settle_nothing():
    elbos = course(np.full(STEPS, -1000.0))
    elbos[::7] = np.nan
    assert not rising(elbos)
    elbos[100:] = np.nan
    assert rising(elbos)


def test_checks_are_at_powers_of_two():
    assert [step for step in range(1, 5000) if check_due(step)] == [1024, 2048, 4096]


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.slow), 16])
def test_a_fit_stops_by_its_rule_near_the_posterior(batch_size):
    import optax

    target = targets.conjugate_normal(n=64)
    settings = {"optimizer": optax.adam(0.01), "batch_size": batch_size, "diagnose": False}
    fit = advi.fit(target.model, target.data, **settings)
    assert fit.status == "converged"
    assert "settled after" in fit.status.message
    sd = np.sqrt(target.cov[0, 0])
    assert abs(fit.mean()["x"][0] - target.mean[0]) < 0.1 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.05


def test_a_rate_too_small_ends_by_budget_not_by_rule(monkeypatch):
    import optax

    monkeypatch.setattr("advi.inference.stochastic.steps_fit.MAX_STEPS", 4096)
    target = targets.conjugate_normal(n=64)
    fit = advi.fit(target.model, target.data, optimizer=optax.sgd(1e-6), diagnose=False)
    assert fit.status == "max_steps"
    assert "had not settled" in fit.status.message
