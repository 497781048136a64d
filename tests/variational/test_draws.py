"""Draws: second moments of the fixed ones, the distribution of the fresh ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advi.variational import draws

DIMS = [1, 2, 5, 16, 17, 40]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_fixed_second_moments_are_exactly_the_identity(dim, factor):
    num = factor * dim
    E = draws.fixed(np.random.default_rng(0), num, dim)
    assert E.shape == (num, dim)
    # exact but for rounding, in a whitening whose eigenvalues span some powers of ten
    np.testing.assert_allclose(E.T @ E / num, np.eye(dim), atol=1e-9)


@pytest.mark.parametrize("dim", [5, 17, 40])
@pytest.mark.parametrize("num", [4, 8])
def test_few_fixed_draws_have_unit_second_moments(num, dim):
    E = draws.fixed(np.random.default_rng(1), num, dim)
    assert E.shape == (num, dim)
    np.testing.assert_allclose((E**2).mean(0), np.ones(dim), rtol=1e-12)


@pytest.mark.parametrize("dim", DIMS)
def test_fixed_and_antithetic_draws_come_in_pairs(dim):
    for make in (draws.fixed, draws.antithetic):
        E = make(np.random.default_rng(2), 24, dim)
        np.testing.assert_array_equal(E[:12], -E[12:])
        assert np.all(np.isfinite(E))


@pytest.mark.parametrize("make", [draws.fixed, draws.antithetic])
@pytest.mark.parametrize("dim", [3, 30])
def test_host_draws_are_a_function_of_their_generator(make, dim):
    one, same, other = (make(np.random.default_rng(seed), 16, dim) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.any(one == other)


def random_with_unit_moments(rng, num, dim):
    """What `fixed` makes beyond QUASI_RANDOM_DIM, for any dimension."""
    H = rng.standard_normal((num // 2, dim))
    eigenvalues, Q = np.linalg.eigh(H.T @ H / len(H))
    H = H @ (Q / np.sqrt(eigenvalues)) @ Q.T
    return np.concatenate([H, -H])


def fourth_moment_errors(make, dim, num=256, repeats=40):
    """Root mean square errors of E[x_i^2 x_j^2], every i and j, over repeated draws."""
    squares = [make(np.random.default_rng(seed), num, dim) ** 2 for seed in range(repeats)]
    errors = np.array([S.T @ S / num for S in squares]) - 1 - 2 * np.eye(dim)
    return np.sqrt((errors**2).mean(0))


@pytest.mark.parametrize("dim", [d for d in (1, 2, 3, 5, 8, 16) if d <= draws.QUASI_RANDOM_DIM])
def test_quasi_random_draws_are_better_than_random_ones(dim):
    """In the moments beyond those that both have exactly, of no coordinate or pair worse."""
    quasi = fourth_moment_errors(draws.fixed, dim)
    random = fourth_moment_errors(random_with_unit_moments, dim)
    assert quasi.max() < random.max()


def test_antithetic_draws_on_the_host_are_standard_normal():
    E = draws.antithetic(np.random.default_rng(6), 20_000, 2)[:10_000]
    for margin in E.T:
        assert stats.ks_1samp(margin, stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(E.T)[0, 1]) < 5 / np.sqrt(len(E))


# Fresh draws: (num, dim), odd numbers and more draws than dimensions among them.
SHAPES = [(1, 3), (3, 2), (4, 3), (5, 3), (8, 3), (8, 2), (7, 1), (6, 8)]
KEYS = 20_000


fresh = jax.jit(draws.fresh, static_argnums=(1, 2))


@functools.cache
def many(num, dim):
    keys = jax.random.split(jax.random.key(0), KEYS)
    return np.asarray(jax.jit(jax.vmap(lambda key: draws.fresh(key, num, dim)))(keys), float)


@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_every_fresh_draw_is_standard_normal(num, dim):
    E = many(num, dim)
    assert E.shape == (KEYS, num, dim)
    error = 5 / np.sqrt(KEYS)  # five standard errors of a mean of unit variance
    np.testing.assert_allclose(E.mean(0), 0, atol=error)
    for row in range(num):
        second = E[:, row].T @ E[:, row] / KEYS
        np.testing.assert_allclose(second, np.eye(dim), atol=error * np.sqrt(2))
        norms = (E[:, row] ** 2).sum(1)
        assert stats.ks_1samp(norms, stats.chi2(dim).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_the_average_over_fresh_draws_is_unbiased(num, dim):
    """As the gradient needs it: means of x, x^2 and x y over the draws of one step."""
    E = many(num, dim)
    for statistic, expected in [
        (E, 0.0),
        (E**2, 1.0),
        (E * np.roll(E, 1, axis=2), float(dim == 1)),
        (np.exp(0.5 * E), np.exp(0.125)),
    ]:
        per_key = statistic.mean(1)
        error = 5 * per_key.std(0) / np.sqrt(KEYS)
        assert np.all(np.abs(per_key.mean(0) - expected) <= error + 1e-12)


@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_fresh_draws_are_antithetic_and_orthogonal(num, dim):
    with jax.enable_x64(True):
        E = np.asarray(fresh(jax.random.key(3), num, dim))
    half = (num + 1) // 2
    np.testing.assert_array_equal(E[half:], -E[: num - half])
    group = min(half, dim)
    for start in range(0, half - half % group, group):
        gram = E[start : start + group] @ E[start : start + group].T
        # rounding of a QR factorisation in double precision
        np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-13)


def test_fresh_draws_follow_their_key_and_dtype():
    one, same, other = (fresh(jax.random.key(seed), 4, 3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.any(np.asarray(one) == np.asarray(other))
    assert one.dtype == jnp.float32
    with jax.enable_x64(True):
        assert fresh(jax.random.key(0), 4, 3).dtype == jnp.float64


@pytest.mark.parametrize("num", [1, 2, 5])
def test_no_noise_is_an_empty_draw(num):
    assert draws.fresh(jax.random.key(0), num, 0).shape == (num, 0)
    assert draws.antithetic(np.random.default_rng(0), 2 * num, 0).shape == (2 * num, 0)
