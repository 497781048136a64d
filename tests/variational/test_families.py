"""Laws that every variational family obeys, over a catalogue of families and parameters."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import advi
from advi.variational import draws
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import DiagonalScale, LowRankScale, Scale, TriangularScale

LOC3 = np.array([0.5, -2.0, 3.0])
TRIL3 = np.array([[0.3, 0.0, 0.0], [0.9, 2.0, 0.0], [-0.4, 0.7, 1.1]])


@dataclass(frozen=True)
class Case:
    family: Family
    loc: Any
    scale: Scale  # what the family holds exactly

    def params(self):
        return jax.tree.map(jnp.asarray, self.family.from_gaussian(self.loc, self.scale))

    @property
    def matrix(self):
        return dense(self.scale)


def dense(scale):
    """The matrix that maps noise to draws."""
    return scale.mv(np.eye(len(scale.sds))).T


GAUSSIAN = {
    "mean field, 1": Case(advi.MeanField(), np.array([1.5]), DiagonalScale(np.array([0.2]))),
    "mean field, 3": Case(advi.MeanField(), LOC3, DiagonalScale(np.array([0.1, 1.0, 20.0]))),
    "full rank, 1": Case(advi.FullRank(), np.array([-1.0]), TriangularScale(np.array([[3.0]]))),
    "full rank, 3": Case(advi.FullRank(), LOC3, TriangularScale(TRIL3)),
}
# one direction is wider than the coordinates, one narrower, one as wide
Q4 = np.linalg.qr(np.random.default_rng(4).standard_normal((4, 3)))[0]
LOW_RANK = {
    "low rank, 1": Case(
        advi.LowRank(), np.array([2.0]), LowRankScale(np.array([0.3]), np.eye(1), np.array([4.0]))
    ),
    "low rank, 4": Case(
        advi.LowRank(3),
        np.array([*LOC3, 1.0]),
        LowRankScale(np.array([0.1, 1.0, 20.0, 3.0]), Q4, np.array([5.0, 0.2, 1.0])),
    ),
}
GAUSSIAN |= LOW_RANK
POINT = {"point, 3": Case(advi.Point(), LOC3, DiagonalScale(np.zeros(3)))}
ALL = GAUSSIAN | POINT


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=GAUSSIAN)
def case(request):
    return GAUSSIAN[request.param]


@pytest.fixture(params=ALL)
def any_case(request):
    return ALL[request.param]


def test_families_are_hashable_settings(any_case):
    family = any_case.family
    assert isinstance(family, Family)
    same = dataclasses.replace(family)
    assert family == same
    assert hash(family) == hash(same)
    assert repr(family).startswith(type(family).__name__)


def test_gaussian_round_trip(any_case):
    loc, scale = any_case.family.to_gaussian(any_case.params())
    np.testing.assert_array_equal(loc, any_case.loc)
    # exp(log(scale)); a low-rank one is found again by its eigenvectors
    rtol = 1e-12 if isinstance(scale, LowRankScale) else 1e-14
    np.testing.assert_allclose(dense(scale), any_case.matrix, rtol=rtol, atol=1e-13)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((loc, scale)))


def test_from_gaussian_without_jax(any_case):
    params = any_case.family.from_gaussian(any_case.loc, any_case.scale)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))


def test_mean_field_of_a_dense_scale_keeps_the_marginals():
    family = advi.MeanField()
    _, scale = family.to_gaussian(family.from_gaussian(LOC3, TriangularScale(TRIL3)))
    assert isinstance(scale, DiagonalScale)
    np.testing.assert_allclose(scale.sd, np.sqrt(np.diag(TRIL3 @ TRIL3.T)), rtol=1e-14)


def test_full_rank_of_a_diagonal_scale():
    family = advi.FullRank()
    _, scale = family.to_gaussian(
        family.from_gaussian(LOC3, DiagonalScale(np.array([0.5, 1.0, 2.0])))
    )
    assert isinstance(scale, TriangularScale)
    np.testing.assert_allclose(scale.matrix, np.diag([0.5, 1.0, 2.0]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [c.scale for c in LOW_RANK.values()], ids=LOW_RANK)
def test_low_rank_scales_are_matrices(scale):
    L, rng = dense(scale), np.random.default_rng(0)
    E = rng.standard_normal((5, len(L)))
    np.testing.assert_allclose(scale.rmv(E), E @ L, rtol=1e-12)
    np.testing.assert_allclose(scale.sds, np.sqrt(np.diag(L @ L.T)), rtol=1e-12)
    tril = scale.tril()
    np.testing.assert_allclose(tril @ tril.T, L @ L.T, rtol=1e-10)
    assert np.all(np.diag(tril) > 0)
    assert np.all(np.triu(tril, 1) == 0)
    index = np.arange(len(L))[1:]
    part = dense(scale.take(index))
    np.testing.assert_allclose(part @ part.T, (L @ L.T)[np.ix_(index, index)], rtol=1e-10)


def test_low_rank_of_a_dense_scale_has_the_best_directions():
    """With all directions it is exact; with one it is the one that gains most."""
    for rank, exact in ((3, True), (1, False)):
        family = advi.LowRank(rank)
        scale = family.to_gaussian(family.from_gaussian(LOC3, TriangularScale(TRIL3)))[1]
        found, cov = dense(scale) @ dense(scale).T, TRIL3 @ TRIL3.T
        assert np.allclose(found, cov, rtol=1e-9) == exact
        # minimal over directions at this diagonal: nats of KL(q, p)
        precision = np.linalg.inv(cov)
        h = np.linalg.eigvalsh(precision / np.sqrt(np.outer(*2 * [np.diag(precision)])))
        left = np.sort(0.5 * (h - 1 - np.log(h)))[: 3 - rank].sum()
        trace = np.trace(precision @ found) - 3
        kl = 0.5 * (trace - np.linalg.slogdet(found)[1] + np.linalg.slogdet(cov)[1])
        np.testing.assert_allclose(kl, left, atol=1e-9)


def test_low_rank_from_a_diagonal_has_directions_that_can_move():
    family = advi.LowRank(2)
    params = family.from_gaussian(LOC3, DiagonalScale(np.ones(3)))
    gradient = jax.jit(jax.grad(family.entropy))(params)
    assert np.all(np.linalg.norm(gradient.wider, axis=0) > 0.01)
    np.testing.assert_allclose(dense(family.to_gaussian(params)[1]), np.eye(3), atol=0.02)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "3"])
def test_a_wrong_rank(rank):
    with pytest.raises((TypeError, ValueError), match=r"LowRank rank: got .*; expected"):
        advi.LowRank(rank)


def test_full_rank_reads_nothing_above_the_diagonal():
    family = advi.FullRank()
    params = family.from_gaussian(LOC3, TriangularScale(TRIL3))
    junk = params._replace(raw_tril=params.raw_tril + np.triu(np.full((3, 3), 7.0), 1))
    eps = np.array([0.1, -0.7, 2.0])
    for function in (
        lambda p: family.reparameterise(p, eps),
        family.entropy,
        lambda p: family.log_prob(p, eps),
        lambda p: family.to_gaussian(p)[1].matrix,
    ):
        np.testing.assert_array_equal(function(junk), function(params))


def test_draws_are_affine_in_the_noise(any_case):
    family, params = any_case.family, any_case.params()
    dim = family.noise_dim(len(any_case.loc))
    E = np.random.default_rng(0).standard_normal((5, dim))
    X = jax.jit(jax.vmap(lambda eps: family.draw(params, eps)[0]))(E)
    expected = np.broadcast_to(any_case.loc, (5, len(any_case.loc)))
    if dim:
        expected = expected + E @ any_case.matrix.T
    np.testing.assert_allclose(X, expected, rtol=1e-13)


def test_densities_agree_with_scipy(case):
    reference = multivariate_normal(case.loc, case.matrix @ case.matrix.T)
    X = case.loc + 3 * np.random.default_rng(1).standard_normal((7, len(case.loc)))
    log_q = jax.jit(jax.vmap(case.family.log_prob, in_axes=(None, 0)))(case.params(), X)
    # scipy goes through the covariance, whose condition number is up to 4e4
    np.testing.assert_allclose(log_q, reference.logpdf(X).reshape(-1), rtol=1e-9)
    entropy = jax.jit(case.family.entropy)(case.params())
    np.testing.assert_allclose(entropy, reference.entropy(), rtol=1e-12)


def test_densities_are_those_of_the_draws(case):
    """Change of variables: log q(draw(e)) = log N(e) - log |d draw / d e|."""
    family, params = case.family, case.params()
    dim = family.noise_dim(len(case.loc))

    @jax.jit
    def at(eps):
        jacobian = jax.jacobian(lambda e: family.draw(params, e)[0])(eps)
        x, log_q = family.draw(params, eps)
        return family.log_prob(params, x), log_q, jacobian

    for eps in np.random.default_rng(2).standard_normal((3, dim)):
        log_q, drawn, jacobian = at(eps)
        expected = multivariate_normal(np.zeros(dim)).logpdf(eps)
        np.testing.assert_allclose(log_q, expected - np.linalg.slogdet(jacobian)[1], rtol=1e-12)
        np.testing.assert_allclose(drawn, log_q, rtol=1e-12)


def test_entropy_is_minus_the_expected_log_density(case):
    """Exactly, on draws with exact second moments: log q is quadratic."""
    family, params = case.family, case.params()
    E = draws.fixed(np.random.default_rng(3), 16, family.noise_dim(len(case.loc)))

    @jax.jit
    def both(E):
        log_q = jax.vmap(lambda e: family.log_prob(params, family.draw(params, e)[0]))(E)
        return family.entropy(params), -log_q.mean()

    np.testing.assert_allclose(*both(E), rtol=1e-12)


def test_a_point_has_no_noise_entropy_or_density():
    family, params = advi.Point(), POINT["point, 3"].params()
    assert family.noise_dim(3) == 0
    assert float(family.entropy(params)) == 0.0
    assert float(family.log_prob(params, jnp.asarray(LOC3) + 1)) == 0.0
    gradients = jax.grad(lambda p: family.entropy(p) + family.log_prob(p, p.loc))(params)
    np.testing.assert_array_equal(gradients.loc, np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_decide_the_dtype(any_case, dtype):
    family = any_case.family
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), any_case.params())
    x = np.asarray(any_case.loc, dtype)
    eps = np.zeros(family.noise_dim(len(x)), dtype)
    for function, *given in ((family.draw, eps), (family.entropy,), (family.log_prob, x)):
        shapes = jax.tree.leaves(jax.eval_shape(function, params, *given))
        assert all(shape.dtype == dtype for shape in shapes)


# The two estimators of the ELBO's gradient, on a whole guide.

MODEL = advi.Model(lambda z, data: -jnp.sum(z["x"] ** 2), {"x": advi.real(2)})
CENTER = np.array([0.4, -0.3])
GUIDES = {
    "mean_field": Gaussian.diagonal(CENTER, np.array([0.7, 1.6])),
    "full_rank": Gaussian(CENTER, TriangularScale(np.array([[0.7, 0.0], [0.5, 1.2]]))),
}


def skewed(z):
    """A log density that no Gaussian has."""
    x = z["x"]
    value = -jnp.exp(0.7 * x[0]) - 0.1 * x[1] ** 4 + x[0] - jnp.sin(x[0] * x[1])
    return advi.Terms(value, jnp.zeros(0))


def quadratic(z):
    x = z["x"]
    precision = jnp.array([[2.0, 0.8], [0.8, 1.0]])
    return advi.Terms(-0.5 * x @ precision @ x + x[0], jnp.zeros(0))


@functools.cache
def expected_gradient(estimator, family, log_p):
    """The ELBO and its gradient, expectations over the noise by Gauss-Hermite quadrature."""
    guide = resolve_family(MODEL, family)
    params = jax.tree.map(jnp.asarray, guide.from_gaussian(GUIDES[family]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    E = np.array(list(itertools.product(nodes, nodes)))
    W = np.outer(weights, weights).ravel() / (2 * np.pi)
    elbo = advi.Elbo(estimator=estimator)

    def one(eps):
        return jax.value_and_grad(lambda p: elbo.value(log_p, guide, p, eps[None]))(params)

    @jax.jit
    def average(E):
        return jax.tree.map(lambda leaf: jnp.tensordot(W, leaf, 1), jax.vmap(one)(E))

    return params, average(E)


@pytest.mark.parametrize("family", GUIDES)
@pytest.mark.parametrize("log_p", [quadratic, skewed])
def test_both_estimators_are_unbiased_for_the_same_gradient(family, log_p):
    _, (entropy_value, entropy_gradient) = expected_gradient("entropy", family, log_p)
    _, (stl_value, stl_gradient) = expected_gradient("stl", family, log_p)
    # quadrature with 60 nodes an axis is exact to rounding for these smooth integrands
    np.testing.assert_allclose(entropy_value, stl_value, rtol=1e-10)
    leaves = jax.tree.leaves(entropy_gradient), jax.tree.leaves(stl_gradient)
    for one, other in zip(*leaves, strict=True):
        assert np.max(np.abs(one)) > 0.01
        np.testing.assert_allclose(np.tril(one), np.tril(other), atol=1e-9)


@pytest.mark.parametrize("family", GUIDES)
@pytest.mark.parametrize("estimator", ["entropy", "stl", "auto"])
def test_the_gradient_is_that_of_the_elbo_in_closed_form(family, estimator):
    params, (value, gradient) = expected_gradient(estimator, family, quadratic)
    P = np.array([[2.0, 0.8], [0.8, 1.0]])

    def closed_form(params):
        block = params[0]
        loc = block.loc
        if family == "mean_field":
            L = jnp.diag(jnp.exp(block.log_sd))
        else:
            L = jnp.tril(block.raw_tril, -1) + jnp.diag(jnp.exp(jnp.diag(block.raw_tril)))
        log_p = -0.5 * loc @ P @ loc - 0.5 * jnp.sum(P * (L @ L.T)) + loc[0]
        return log_p + jnp.log(jnp.diag(L)).sum() + 1 + np.log(2 * np.pi)

    expected_value, expected = jax.jit(jax.value_and_grad(closed_form))(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


@pytest.mark.parametrize("family", GUIDES)
def test_sticking_the_landing_has_no_noise_at_the_posterior(family):
    """Where q equals the posterior every draw gives the same ELBO and a zero gradient."""
    guide = resolve_family(MODEL, family)
    params = jax.tree.map(jnp.asarray, guide.from_gaussian(GUIDES[family]))
    posterior = params

    def log_p(z):
        return advi.Terms(guide.log_prob(posterior, z).total() + 1.25, jnp.zeros(0))

    @jax.jit
    def elbo(eps):
        stl = advi.Elbo(estimator="stl")
        return jax.value_and_grad(lambda p: stl.value(log_p, guide, p, eps))(params)

    for eps in np.random.default_rng(4).standard_normal((3, 1, 2)):
        value, gradient = elbo(eps)
        assert float(value) == pytest.approx(1.25, abs=1e-12)
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_the_elbo_scales_rows_only():
    guide = resolve_family(MODEL, "mean_field")
    params = jax.tree.map(jnp.asarray, guide.from_gaussian(Gaussian.diagonal(CENTER, 1.0)))
    eps = draws.fixed(np.random.default_rng(5), 8, 2)

    @functools.partial(jax.jit, static_argnums=1)
    def value(scale, estimator):
        return advi.Elbo(estimator=estimator).value(
            lambda z: advi.Terms(-z["x"][0], z["x"][1] * jnp.ones(3)), guide, params, eps, scale
        )

    for estimator in ("entropy", "stl"):
        # E[x_1] = -0.3, three rows
        assert float(value(7.0, estimator) - value(1.0, estimator)) == pytest.approx(6 * 3 * -0.3)
