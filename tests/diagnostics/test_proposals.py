"""Student-t proposals: their densities, draws and adaptation."""

import numpy as np
import pytest

from advi.core.draw_set import WeightedDraws
from advi.diagnostics.importance_sampling import adaptive, drawn
from advi.diagnostics.proposals import SplitStudent, Student
from advi.variational.gaussian import Gaussian

LOC, TRIL = np.array([1.0, -2.0]), np.array([[1.0, 0.0], [0.5, 2.0]])
SIDES = np.array([[0.5, 1.0], [1.5, 3.0]])
PROPOSALS = {
    "Student": Student(LOC, TRIL),
    "symmetric split": SplitStudent(LOC, TRIL),
    "split": SplitStudent(LOC, TRIL, sides=SIDES),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_density_is_that_of_its_draws(name):
    proposal = PROPOSALS[name]
    step = 0.1
    axis = np.arange(-60, 60, step)
    points = np.stack([x.ravel() for x in np.meshgrid(axis, axis, indexing="ij")], axis=1)
    masses = np.exp(proposal.log_density(points)) * step**2
    assert masses.sum() == pytest.approx(1, abs=1e-3)
    mean = masses @ points
    sd = np.sqrt(masses @ (points - mean) ** 2)
    draws = proposal.draw(np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.02 * sd.max())
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.05)


def test_a_split_one_without_skew_is_the_other():
    draws = WeightedDraws(
        np.random.default_rng(0).standard_normal((4000, 2)) @ TRIL.T, np.full(4000, 1 / 4000)
    )
    both = Student(LOC, TRIL).adapted(draws), SplitStudent(LOC, TRIL).adapted(draws)
    np.testing.assert_allclose(both[1].loc, both[0].loc, atol=0.15)
    np.testing.assert_array_equal(both[1].scale_tril, both[0].scale_tril)
    np.testing.assert_allclose(both[1].sides, 1, atol=0.1)


def test_skewed_log_scales_have_a_low_khat_with_sides_of_their_own():
    """The log of an exponential variable has a tail of e^x below and none above."""

    def log_p(Z):
        return (Z - np.exp(Z)).sum(1)

    gaussian = Gaussian.diagonal(np.array([-0.5, -0.5]), 0.8)
    found = {}
    for kind in (Student, SplitStudent):
        rng = np.random.default_rng(0)
        first = drawn(log_p, gaussian, rng, 250)
        found[kind] = adaptive(log_p, gaussian, first, 0.0, rng, 8, kind)
    draws, split = found[Student].draws, found[SplitStudent].draws
    assert found[SplitStudent].khat < 0.5
    assert split.ess > 1.2 * draws.ess
    assert split.weights @ split.points[:, 0] == pytest.approx(-np.euler_gamma, abs=0.06)


def test_rounds_end_with_enough_effective_draws():
    def log_p(Z):
        return -0.5 * (Z**2).sum(1)

    rng = np.random.default_rng(0)
    gaussian = Gaussian.diagonal(np.zeros(2), 0.7)
    first = drawn(log_p, gaussian, rng, 200)
    few = adaptive(log_p, gaussian, first, 0.0, rng, 8, enough=300.0)
    assert 300 < few.draws.ess < len(few.draws.weights) < 8 * 200
