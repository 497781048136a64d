"""The stopping rule of the stochastic path, on synthetic courses."""

import numpy as np
import pytest

import advi
from advi.gaussian import Gaussian
from advi.stages.stopping import due, rising, settled
from tests import targets

STEPS = 4096
AT_REST = Gaussian(np.zeros(2), np.ones(2))


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


def test_a_drift_of_the_parameters_is_seen_under_any_noise():
    flat = course(np.full(STEPS, -1000.0), 1e4)
    assert settled(AT_REST, AT_REST, flat) or rising(flat)
    quiet = np.full(STEPS, -1000.0)
    moved = Gaussian(np.array([0.0, 0.2]), np.ones(2))
    wider = Gaussian(np.zeros(2), np.array([1.0, 1.2]))
    assert settled(AT_REST, AT_REST, quiet)
    assert not settled(AT_REST, moved, quiet)
    assert not settled(AT_REST, wider, quiet)
    # the scale that counts is the posterior's own
    tiny = Gaussian(np.zeros(2), np.full(2, 1e-6))
    assert not settled(tiny, Gaussian(np.full(2, 1e-6), np.full(2, 1e-6)), quiet)


def test_non_finite_steps_are_skipped_and_too_few_finite_ones_settle_nothing():
    elbos = course(np.full(STEPS, -1000.0))
    elbos[::7] = np.nan
    assert not rising(elbos)
    elbos[100:] = np.nan
    assert rising(elbos)


def test_checks_are_at_powers_of_two():
    assert [step for step in range(1, 5000) if due(step)] == [1024, 2048, 4096]


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_fit_stops_by_its_rule_near_the_posterior(batch_size):
    import optax

    target = targets.conjugate_normal(n=64)
    fit = advi.fit(target.model, target.data, optimizer=optax.adam(0.01), batch_size=batch_size)
    assert fit.status == "converged"
    assert "settled after" in fit.status.message
    sd = np.sqrt(target.cov[0, 0])
    assert abs(fit.mean()["x"][0] - target.mean[0]) < 0.1 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.05


def test_a_rate_too_small_ends_by_budget_not_by_rule(monkeypatch):
    import optax

    monkeypatch.setattr("advi.drivers.MAX_STEPS", 4096)
    target = targets.conjugate_normal(n=64)
    fit = advi.fit(target.model, target.data, optimizer=optax.sgd(1e-6))
    assert fit.status == "max_steps"
    assert "had not settled" in fit.status.message
