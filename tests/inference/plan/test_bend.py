"""The steps that bend a Gaussian: their back-off, their end, and how they are stopped."""

import numpy as np
import pytest

import advi
from advi.inference.plan import transport_steps
from advi.inference.plan.batched_calls import run_batched
from advi.inference.plan.runner import Runner
from advi.inference.plan.transport_steps import bend
from benchmarks.targets import banana


@pytest.fixture(scope="module")
def gaussian():
    target = banana(1.0)
    return advi.fit(target.model, target.data, family="full_rank", diagnose=False)


def bent(fit, rate, value_and_grad=None):
    record = fit._record
    guide = advi.fit(fit.posterior.model, family="triangular", max_steps=5, diagnose=False)
    guide = guide.posterior.guide
    density = fit.posterior.density
    params = guide.params_of(fit.posterior.gaussian, np.float64)
    runner = Runner(density, fit.posterior.gaussian, None, None)
    stage = bend(guide.transport(params, "float64"), rate, np.random.default_rng(0), runner)
    with np.errstate(all="ignore"):
        [end] = run_batched([stage], value_and_grad or density.value_and_grad)
    assert record.outcome.elbo.value < 0
    return end


@pytest.mark.parametrize("rate", [0.03, pytest.param(0.3, marks=pytest.mark.slow), 3.0])
def test_a_rate_that_is_too_large_is_lowered(gaussian, rate):
    end = bent(gaussian, rate)
    assert end.gain.value > 0.28  # of 0.31 nats to the evidence
    assert end.elbo.value > -0.03


def test_a_round_that_ends_below_its_start_is_repeated_at_a_lower_rate(gaussian, monkeypatch):
    rates, one = [], transport_steps._round

    def worse_at_first(transport, rate, *rest):
        rates.append(rate)
        vector = yield from one(transport, rate, *rest)
        return -vector if rate == 0.09 else vector

    monkeypatch.setattr(transport_steps, "_round", worse_at_first)
    assert bent(gaussian, 0.09).gain.value > 0.28
    assert rates[rates.index(0.09) + 1] == pytest.approx(0.03)


def test_steps_that_fail_leave_the_start(gaussian):
    density, calls = gaussian.posterior.density, 0

    def broken(X):
        nonlocal calls
        calls += 1
        values, gradients = density.value_and_grad(X)
        return values, gradients if calls == 1 else np.full_like(gradients, np.nan)

    end = bent(gaussian, 0.03, broken)
    assert end.gain.value == 0
    assert end.steps == 0
    np.testing.assert_array_equal(end.transport.vector, 0)


def test_a_map_counts_against_the_evaluations():
    target = banana(1.0)
    fit = advi.fit(target.model, target.data, family="triangular", max_steps=300, diagnose=False)
    assert fit.status == "max_steps"
    assert fit._record.outcome.trace[-1].step <= 300


def test_a_callback_stops_the_map():
    target = banana(1.0)
    stages = []

    def stop(progress):
        stages.append(progress.stage)
        return stages.count("triangular") == 20

    named = advi.fit(target.model, target.data, family="triangular", callback=stop, diagnose=False)
    assert named.status == "interrupted"
    assert stages.count("triangular") == 20
    stages.clear()
    # of a map that "auto" tries, the Gaussian is left
    fit = advi.fit(target.model, target.data, callback=stop)
    assert stages.count("triangular") == 20
    assert fit.posterior.guide.description == "full_rank"
    assert fit.status == "converged"


def test_ctrl_c_in_the_map_keeps_the_gaussian(monkeypatch):
    target, evals = banana(1.0), 0
    accepted = Runner.accepted_transport

    def interrupted(self, transport, elbo):
        nonlocal evals
        evals += 1
        if evals == 30:
            raise KeyboardInterrupt
        accepted(self, transport, elbo)

    monkeypatch.setattr(Runner, "accepted_transport", interrupted)
    fit = advi.fit(target.model, target.data)
    assert fit.posterior.guide.description == "full_rank"
    assert fit.verdict != "good"
    evals = 0
    named = advi.fit(target.model, target.data, family="triangular", diagnose=False)
    assert named.status == "interrupted"
    assert np.isfinite(named.mean()["x"]).all()
