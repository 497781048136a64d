"""The pattern of a Hessian against the Hessian itself, and its recovery from few products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, logsumexp

from advi.core.colouring import coloured, groups_of
from advi.core.elimination import elimination
from advi.core.jaxprs.coordinate_sets import TooDenseError
from advi.core.jaxprs.hessian_pattern import hessian_pattern

RNG = np.random.default_rng(0)
GROUP, ITEM = RNG.integers(0, 6, 20), RNG.integers(0, 4, 20)
Y = RNG.standard_normal(20)
BASIS = np.maximum(0, 1 - np.abs(np.linspace(0, 5, 20)[:, None] - np.arange(6)))  # hat functions


def nested(x, y):
    mu, tau, a = x[0], jnp.exp(x[1]), x[2:8]
    return -((y - mu - a[GROUP]) ** 2).sum() - 0.5 * ((a / tau) ** 2).sum() - 6 * x[1]


def crossed(x, y):
    a, b = x[2:8], x[8:12]
    spread = (a**2).sum() * jnp.exp(-2 * x[0]) + (b**2).sum() * jnp.exp(-2 * x[1])
    return jax.nn.log_sigmoid(y * (a[GROUP] + b[ITEM])).sum() - 0.5 * spread


def factors(x, y):
    u, v = x[:12].reshape(6, 2), x[12:20].reshape(4, 2)
    return -((y - (u[GROUP] * v[ITEM]).sum(-1)) ** 2).sum()


def walk(x, y):
    return -(jnp.diff(x) ** 2).sum() - jnp.exp(x).sum()


def walk_in_a_loop(x, y):
    def step(before, now):
        return now, (now - 0.5 * before) ** 2

    return -jax.lax.scan(step, 0.0, x)[1].sum() - jnp.cosh(x[0])


def backwards_in_a_loop(x, y):
    def step(after, now):
        return now, jnp.exp(now - after)

    return -jax.lax.scan(step, jnp.zeros(()), x, reverse=True)[1].sum()


def two_back_in_a_loop(x, y):
    def step(before, now):
        return (before[1], now), now * before[0] + jnp.exp(before[1])

    (first, last), terms = jax.lax.scan(step, (x[0], jnp.zeros(())), x)
    return terms.sum() + jnp.tanh(first * last)


def counted_in_a_loop(x, y):
    return jax.lax.fori_loop(1, 12, lambda i, total: total + x[i] * x[i - 1] ** 2, x[0])


def summed_in_a_loop(x, y):
    """Every step sees all before it."""
    return jax.lax.scan(lambda total, v: (total + v, jnp.exp(total)), 0.0, x)[1].sum()


def grid(x, y):
    z = x.reshape(3, 4)
    return -((z[1:] - z[:-1]) ** 2).sum() - ((z[:, 1:] - z[:, :-1]) ** 2).sum() - (z**4).sum()


def spline(x, y):
    return -((y - BASIS @ x[:6]) ** 2).sum() - jnp.exp(x[6])


def survival(x, y):
    rate = jnp.exp(x[2:8][GROUP] + x[0])
    return (x[1] * jnp.log(y**2 + 1) - rate * (y**2 + 1) ** jnp.exp(x[1])).sum()


def mixture(x, y):
    means, logits = x[:3], jax.nn.log_softmax(x[3:6])
    return logsumexp(logits - (y[:, None] - means) ** 2, axis=1).sum() - gammaln(x[6] ** 2 + 1)


def written(x, y):
    z = jnp.zeros(6).at[jnp.array([0, 2, 4])].set(x[:3]).at[GROUP].add(x[3] * y)
    return (jnp.pad(z, (1, 2)) ** 3).sum() + jnp.where(x[4] > 0, x[4] * x[5], x[5]) + x[1::2].prod()


def sums(x, y):
    return -(jnp.cumsum(x[:4]) ** 2).sum() + jnp.flip(x[4:8]) @ (x[8:12] * jnp.arange(4.0))


def chosen(x, y):
    return jax.lax.cond(y[0] > 0, lambda v: v[0] * v[1], lambda v: v[2] ** 2, x) + x.max()


def chained(x, y):
    inner = jax.jit(lambda v: jnp.tanh(v[::2]) * v[1::2])
    return jax.checkpoint(inner)(x).sum() + jax.lax.dynamic_slice(x, (1,), (3,))[0] ** 2


def of_matrices(x, y):
    cov = jnp.diag(jnp.exp(x[:3]))
    return jnp.linalg.slogdet(cov)[1] + (x[3:9].reshape(2, 3) @ x[:3]).sum() + x[9] ** 2


def correlated_slopes(x, y):
    """Pairs of effects by group, whose covariance has a Cholesky factor of its own."""
    tril = jnp.array([[1.0, 0.0], [0.0, 0.0]]) * jnp.exp(x[0])
    tril += jnp.array([[0.0, 0.0], [1.0, 0.0]]) * x[1] + jnp.diag(jnp.array([0.0, 1.0]))
    scores = solve_triangular(tril, x[2:].reshape(5, 2).T, lower=True)
    return -0.5 * (scores**2).sum() - 5 * x[0] - (x[2:] ** 4).sum()


def systems_on_the_right(x, y):
    tril = jnp.linalg.cholesky(jnp.eye(2) * (1 + x[0] ** 2))
    stacked = jnp.broadcast_to(tril, (5, 2, 2))
    right = x[2:].reshape(5, 1, 2)
    solved = jax.lax.linalg.triangular_solve(stacked, right, left_side=False, lower=True)
    return (solved**2).sum() + x[1] ** 2


EXACT = [
    nested,
    crossed,
    factors,
    walk,
    walk_in_a_loop,
    backwards_in_a_loop,
    two_back_in_a_loop,
    counted_in_a_loop,
    summed_in_a_loop,
    grid,
    spline,
    survival,
]
WIDER = [
    mixture, written, sums, chosen, chained, of_matrices, correlated_slopes, systems_on_the_right,
]  # fmt: skip


@pytest.mark.parametrize("function", [*EXACT, *WIDER], ids=lambda f: f.__name__)
def test_the_pattern_has_all_second_derivatives(function):
    dim = 20 if function is factors else 12
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(function)(np.zeros(dim), Y)
        pattern = hessian_pattern(traced, [Y]).toarray() > 0
        hessian = jax.jit(jax.hessian(function))
        points = np.random.default_rng(1).standard_normal((3, dim))
        seen = sum(np.abs(np.asarray(hessian(x, Y))) for x in points) > 1e-12
    assert not (seen & ~pattern).any()
    assert (pattern == pattern.T).all()
    if function in EXACT:
        assert not (pattern & ~seen & ~np.eye(dim, dtype=bool)).any()


@pytest.mark.parametrize("function", EXACT, ids=lambda f: f.__name__)
def test_few_products_give_the_hessian(function):
    dim = 20 if function is factors else 12
    with jax.enable_x64(True):
        pattern = hessian_pattern(jax.make_jaxpr(function)(np.zeros(dim), Y), [Y])
        hessian = np.asarray(jax.jit(jax.hessian(function))(np.linspace(-1, 1, dim), Y))
    parts = [np.arange(2), np.arange(2, 8), np.arange(8, dim)]
    colours, rows, columns = found = coloured(pattern, groups_of(pattern, parts))
    units = np.zeros((found.num, dim))
    units[colours, np.arange(dim)] = 1
    products = units @ hessian
    recovered = np.zeros((dim, dim))
    recovered[rows, columns] = recovered[columns, rows] = products[colours[columns], rows]
    np.testing.assert_allclose(recovered, hessian, atol=1e-12)


def test_effects_share_a_colour_and_hubs_are_last():
    """Of 200 groups of an effect each, and two hyperparameters."""

    def log_p(x):
        return -((x[2:] - x[0]) ** 2).sum() * jnp.exp(-2 * x[1]) - jnp.exp(x[2:]).sum()

    pattern = hessian_pattern(jax.make_jaxpr(log_p)(np.zeros(202)), [])
    groups = groups_of(pattern, [np.arange(1), np.arange(1, 2), np.arange(2, 202)])
    assert groups.hubs.tolist() == [0, 1]
    assert coloured(pattern, groups).num == 3
    order, entries = elimination(pattern, groups, 10**6)
    assert order[-2:].tolist() == [0, 1]
    assert entries == 200 + 2 * 200 + 3


def test_effects_of_other_groups_do_not_meet_in_a_triangular_solve():
    pattern = hessian_pattern(
        jax.make_jaxpr(lambda x: correlated_slopes(x, None))(np.zeros(12)), []
    )
    groups = np.repeat(np.arange(5), 2)
    of_effects = pattern.toarray()[2:, 2:] > 0
    np.testing.assert_array_equal(of_effects, groups[:, None] == groups)


def test_the_entries_of_a_factor_are_counted():
    pattern = hessian_pattern(jax.make_jaxpr(lambda x: grid(x, None))(np.zeros(12)), [])
    order, entries = elimination(pattern, groups_of(pattern, [np.arange(12)]), 10**6)
    matrix = np.where(pattern.toarray() > 0, -1.0, 0.0) + 10 * np.eye(12)
    factor = np.linalg.cholesky(matrix[np.ix_(order, order)])
    assert entries == (np.abs(factor) > 1e-14).sum()
    assert elimination(pattern, groups_of(pattern, [np.arange(12)]), entries - 1) is None


def test_what_is_dense_is_refused(monkeypatch):
    monkeypatch.setattr("advi.core.jaxprs.coordinate_sets.MAX_PAIRS", 1000)
    with pytest.raises(TooDenseError):
        hessian_pattern(jax.make_jaxpr(lambda x: jnp.exp(x.sum()))(np.zeros(100)), [])
