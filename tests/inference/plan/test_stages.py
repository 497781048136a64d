"""The parts of the automatic plan: L-BFGS, lockstep, starts, the geometry of a Gaussian."""

import numpy as np
import pytest

import advi
from advi.inference.plan.batched_calls import run_batched
from advi.inference.plan.lbfgs import HISTORY, InverseHessian, finite_start, minimise
from advi.inference.plan.mode_search import climb
from advi.inference.plan.polish import polish
from advi.inference.plan.refine import fresh_elbo
from advi.inference.plan.start import basins
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import TriangularScale


def run(stage, log_density):
    """Drive one stage on a log density of one point with its gradient."""

    def evaluate(X):
        values, gradients = zip(*(log_density(x) for x in X), strict=True)
        return np.array(values), np.array(gradients)

    [result] = run_batched([stage], evaluate)
    return result


def minimise_function(function, x0, **kwargs):
    def objective(points):
        values, gradients = yield np.stack(points)
        return -values, -gradients

    settings = {
        "retract": lambda x, p: x + p,
        "metric": np.ones_like,
        "cap": 10.0,
        "max_evals": 500,
        "done": lambda m: m.gradient < 1e-8,
        "eps": 1e-16,
        "accepted": lambda k, x, value: None,
    }

    def stage():
        start = yield from finite_start([np.asarray(x0, float)], objective, lambda x: x, 1)
        return (yield from minimise(start, objective, **(settings | kwargs)))

    [minimum] = run(stage(), lambda x: tuple(-part for part in function(x)))
    return minimum


def rosenbrock(x):
    a, b = 1 - x[0], x[1] - x[0] ** 2
    return a**2 + 100 * b**2, np.array([-2 * a - 400 * x[0] * b, 200 * b])


def test_minimise_rosenbrock():
    minimum = minimise_function(rosenbrock, [-1.2, 1.0])
    assert minimum.reason == "converged"
    np.testing.assert_allclose(minimum.point, [1, 1], atol=1e-7)


def test_steps_out_of_the_domain_are_shortened():
    def barrier(x):
        if x[0] <= 0:
            return np.nan, np.array([np.nan])
        return x[0] - np.log(x[0]), np.array([1 - 1 / x[0]])

    minimum = minimise_function(barrier, [5.0])
    assert minimum.point[0] == pytest.approx(1, abs=1e-6)


def test_noise_ends_a_search_as_stalled_and_a_budget_as_budget():
    rng = np.random.default_rng(0)

    def uphill(x):  # the gradient points the wrong way: no step descends
        return x @ x, -2 * x

    assert minimise_function(uphill, [1.0, 2.0]).reason == "stalled"
    assert minimise_function(rosenbrock, [-1.2, 1.0], max_evals=5).reason == "budget"
    noisy = minimise_function(
        lambda x: (0.5 * (x @ x) + 1e-6 * rng.standard_normal(), x), [1.0, 2.0], eps=1e-7
    )
    np.testing.assert_allclose(noisy.point, 0, atol=1e-2)


def two_loop(g, pairs, h0):
    """Algorithm 7.4 of Nocedal & Wright, a line of code for a line of text."""
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    s, y = pairs[-1]
    r = (s @ y) / (y @ (h0 * y)) * h0 * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r += s * (alpha - y @ r / (s @ y))
    return r


@pytest.mark.parametrize("num", [1, 4, HISTORY, HISTORY + 1, 3 * HISTORY])
def test_secants_are_the_two_loop_recursion(num):
    rng, size = np.random.default_rng(num), 30
    A, h0 = np.diag(np.geomspace(1, 1e6, size)), rng.uniform(1, 2, size)
    secants, kept = InverseHessian(3, size), [[], [], []]
    for step in range(num):
        which = np.flatnonzero([True, step % 2, step < 2])  # each has steps of its own
        s = rng.standard_normal((len(which), size))
        secants.add(which, s, s @ A, 1e-7)
        secants.add(which[:1], s[:1], -s[:1] @ A, 1e-7)  # bent the wrong way: not kept
        for k, pair in zip(which, zip(s, s @ A, strict=True), strict=True):
            kept[k].append(pair)
    g = rng.standard_normal((3, size))
    of_all = np.tile(h0, (3, 1))
    for k, found in enumerate(secants.times(g, of_all)):
        expected = two_loop(g[k], kept[k][-HISTORY:], h0) if kept[k] else h0 * g[k]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * abs(expected).max())
    secants.forget(np.array([0, 2]))
    np.testing.assert_array_equal(secants.times(g, of_all)[[0, 2]], h0 * g[[0, 2]])


def test_stages_in_lockstep_share_evaluations_and_end_on_their_own():
    def stage(n):
        total = 0.0
        for i in range(n):
            values, _ = yield np.full((i + 1, 2), float(n))
            total += values.sum()
        return total

    calls = []

    def evaluate(X):
        calls.append(len(X))
        return X[:, 0], X

    # a stage may end before it asks for anything
    assert run_batched([stage(1), stage(0), stage(3)], evaluate) == [1.0, 0.0, 18.0]
    assert calls == [2, 2, 3]


def two_modes(x):
    """Equal unit Gaussians at -5 and 5 along the first axis."""
    ahead, behind = (-0.5 * ((x - c) @ (x - c)) for c in (np.array([5.0, 0]), np.array([-5.0, 0])))
    top = np.logaddexp(ahead, behind)
    share = np.exp(ahead - top)
    return top, share * (np.array([5.0, 0]) - x) + (1 - share) * (np.array([-5.0, 0]) - x)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_blind_first_step_does_not_depend_on_the_size_of_the_gradient(size):
    """A gradient of 1e12 once made the first step look too short to be tried."""
    start = np.array([[3.0, -4.0]])
    [found] = run(climb(start, np.zeros(2), 1e-16), lambda x: (-0.5 * size * (x @ x), -size * x))
    assert np.max(np.abs(found.path[1] - found.path[0])) == pytest.approx(min(0.1, 4 * size))


def banana(x):
    value, gradient = rosenbrock(x)
    return (-value, -gradient) if x[0] > -2 else (np.nan, np.full(2, np.nan))


def test_climbs_beside_each_other_are_those_alone():
    starts = np.random.default_rng(2).uniform(-1.9, 3, (12, 2))
    together = run(climb(starts, np.zeros(2), 1e-16), banana)
    alone = [run(climb(start[None], np.zeros(2), 1e-16), banana)[0] for start in starts]
    assert len({len(climbed.path) for climbed in alone}) > 3
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.path, other.path, rtol=1e-9)
        assert one.log_p == pytest.approx(other.log_p)


def test_climbs_take_the_steps_of_a_minimisation():
    def flat(x):  # so that the first step, along the gradient, is not cut
        value, gradient = rosenbrock(x)
        return value / 3000, gradient / 3000

    start, path = np.array([-1.2, 1.0]), []
    minimise_function(flat, start, cap=5.0, accepted=lambda k, x, _: path.append(x))
    [climbed] = run(climb(start[None], np.zeros(2), 1e-16), lambda x: [-v for v in flat(x)])
    assert len(climbed.path) > 5
    np.testing.assert_allclose(climbed.path, path[: len(climbed.path)], rtol=1e-9)


def test_a_climb_without_descent_ends():
    [found] = run(climb(np.ones((1, 2)), np.zeros(2), 1e-16), lambda x: (-x @ x, 2 * x))
    assert len(found.path) == 1


def test_distinct_optima_of_equal_height_are_told_apart_and_one_is_found_once():
    starts = np.array([[4.0, 1.0], [6.0, -1.0], [-4.0, 2.0], [-5.5, 0.5]])
    climbs = run(climb(starts, np.zeros(2), 1e-16), two_modes)
    found = run(basins(climbs, 3), two_modes)
    sides = [{np.sign(c.path[-1][0]) for c in group} for group in found]
    assert sorted(sides, key=min) == [{-1}, {1}]
    assert [len(group) for group in found] == [2, 2]


def test_ends_along_a_ridge_are_one_optimum():
    scale = np.array([1.0, 1e-6])

    def ridge(x):
        return -0.5 * scale @ x**2, -scale * x

    starts = np.array([[1.0, -300.0], [1.0, 400.0]])
    climbs = run(climb(starts, np.zeros(2), 1e-16), ridge)
    [found] = run(basins(climbs, 3), ridge)
    assert len(found) == 2


def test_a_start_without_a_finite_value_is_left_out():
    def nowhere(x):
        return np.nan, np.full(2, np.nan)

    [lost] = run(climb(np.ones((1, 2)), np.zeros(2), 1e-16), nowhere)
    [found] = run(climb(np.array([[4.0, 0.0]]), np.zeros(2), 1e-16), two_modes)
    assert lost.path == []
    assert run(basins([lost, found, found], 3), two_modes) == [[found, found]]


def test_structure_of_blocks_and_points():
    model = advi.Model(
        lambda z, d: z["a"].sum() + z["b"] + z["c"].sum(),
        {"a": advi.real(2), "b": advi.positive(), "c": advi.real(2)},
    )
    structure = resolve_family(model, {("a", "c"): "full_rank", "b": advi.Point()}).structure
    np.testing.assert_array_equal(structure.random, [True, True, False, True, True])
    assert structure.coupled
    assert structure.dim == 4
    same = structure.same_block()
    assert same[0, 4]
    assert not same[0, 2]
    mean_field = resolve_family(model, "mean_field").structure
    assert not mean_field.coupled


def test_elbos_of_a_gaussian_on_itself_are_zero():
    rng = np.random.default_rng(0)
    L = np.tril(rng.standard_normal((3, 3))) + 3 * np.eye(3)
    q = Gaussian(np.array([1.0, 2.0, 3.0]), TriangularScale(L))
    structure = Structure(np.ones(3, bool), np.zeros(3, int), np.zeros((3, 0), bool))
    E = rng.standard_normal((8, 3))
    from scipy.stats import multivariate_normal

    log_p = multivariate_normal(q.loc, L @ L.T).logpdf(q.points(E))
    np.testing.assert_allclose(structure.elbos(log_p, E, q), 0, atol=1e-12)


def test_roughness_is_zero_for_a_gaussian_target_and_polish_stays_there():
    structure = Structure(np.ones(2, bool), np.zeros(2, int), np.zeros((2, 0), bool))
    L = np.array([[1.0, 0.0], [0.5, 2.0]])
    precision = np.linalg.inv(L @ L.T)
    q = Gaussian(np.array([1.0, -1.0]), TriangularScale(L))

    def target(x):
        r = x - q.loc
        return -0.5 * r @ precision @ r, -precision @ r

    E = np.random.default_rng(0).standard_normal((16, 2))
    held_out = run(fresh_elbo(q, structure, np.concatenate([E, -E])), target)
    assert held_out.roughness == pytest.approx(0, abs=1e-20)
    polished = run(polish(q, structure, np.random.default_rng(1)), target)
    np.testing.assert_allclose(polished.loc, q.loc, atol=1e-12)
    np.testing.assert_allclose(polished.scale.matrix, L, atol=1e-12)
