"""Chains that go on until they have converged."""

import numpy as np
import pytest

from advi.diagnostics.long_hmc import CHAINS, FIRST_STEPS, Sampler, convergence, run_until_converged
from advi.variational.gaussian import Gaussian

SDS = np.array([0.1, 1.0, 30.0])
STANDARD = Gaussian.diagonal(np.zeros(3), 1.0)


def gaussian(Z):
    return -0.5 * ((Z / SDS) ** 2).sum(1), -Z / SDS**2


def sampler(value_and_grad, start, seed=0):
    return Sampler(value_and_grad, start, STANDARD, np.random.default_rng(seed))


def test_a_badly_scaled_gaussian_is_found_from_a_bad_start():
    start = np.random.default_rng(1).standard_normal((CHAINS, 3))
    chains = sampler(gaussian, start)
    seen = []
    end = run_until_converged(chains, lambda Z: Z, lambda _: False, seen.append)
    assert end.convergence.converged
    assert seen[-1] is end
    flat = end.points.reshape(-1, 3)
    np.testing.assert_allclose(flat.std(0) / SDS, 1, atol=0.05)
    np.testing.assert_allclose(flat.mean(0) / SDS, 0, atol=0.06)


def test_chains_in_separate_modes_do_not_converge():
    def two(Z):
        far = 50.0 * np.sign(Z[:, 0])
        away = Z - np.stack([far, 0 * far, 0 * far], 1)
        return -0.5 * (away**2).sum(1), -away

    start = np.random.default_rng(2).standard_normal((CHAINS, 3))
    start[:, 0] = np.where(np.arange(CHAINS) % 4, 50.0, -50.0)
    chains = sampler(two, start)
    budget = 3 * 10**5
    end = run_until_converged(chains, lambda Z: Z, lambda num: num > budget, lambda _: None)
    assert not end.convergence.converged
    assert end.convergence.rhat > 3


def test_the_budget_and_ctrl_c_keep_the_longest_segment():
    start = np.random.default_rng(3).standard_normal((CHAINS, 3))
    none = run_until_converged(sampler(gaussian, start), lambda Z: Z, lambda _: True, print)
    assert none is None
    calls = 0

    def interrupted(Z):
        nonlocal calls
        calls += 1
        if calls > 2000:
            raise KeyboardInterrupt
        return gaussian(Z)

    def never(Z):  # a column that has not converged
        return np.concatenate([Z, np.arange(len(Z))[:, None] + 0.0], axis=1)

    end = run_until_converged(sampler(interrupted, start), never, lambda _: False, lambda _: None)
    assert len(end.points) >= FIRST_STEPS
    assert not end.convergence.converged


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (lambda x: x, False),
        (lambda x: x + np.linspace(0, 0.5, len(x))[:, None, None], True),
        (lambda x: x + np.linspace(0, 1, x.shape[1])[:, None], True),
        (lambda x: x * np.linspace(0.5, 1.5, x.shape[1])[:, None], True),
    ],
    ids=["stationary", "drift", "chains apart", "sds apart"],
)
def test_what_convergence_means(change, is_seen):
    columns = change(np.random.default_rng(4).standard_normal((400, CHAINS, 2)))
    assert convergence(columns).converged != is_seen
    with_constant = np.concatenate([columns, np.ones((400, CHAINS, 1))], axis=2)
    assert convergence(with_constant).converged != is_seen
