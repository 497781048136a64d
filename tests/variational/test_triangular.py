"""Laws of the triangular family, and of its transport on the host against JAX's derivatives."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.variational.block_transport import block_transport
from advi.variational.gaussian import Gaussian
from advi.variational.scale import TriangularScale
from advi.variational.triangular import TriangularParams
from advi.variational.triangular_map import only_used

FAMILIES = {
    "all parents": advi.Triangular(),
    "two parents": advi.Triangular(parents=2),
    "no parents": advi.Triangular(parents=0),
    "another order": advi.Triangular(parents=3, order=(4, 1, 0, 3, 2)),
    "one map": advi.Triangular(maps=1, order=(2, 0, 1, 4, 3)),
    "three maps": advi.Triangular(maps=3),
}
DIM, NUM = 5, 6
# the other three between them have parents or none, an order, and one map or several
LONG = ("all parents", "two parents", "three maps")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in FAMILIES
    ]
)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def start(family):
    rng = np.random.default_rng(1)
    tril = np.tril(rng.standard_normal((DIM, DIM)), -1) + np.diag([0.5, 1.0, 2.0, 0.1, 1.0])
    gaussian = Gaussian(rng.standard_normal(DIM), TriangularScale(tril))
    return gaussian, family.init(gaussian)


def bent(family):
    """Parameters away from the start, with weights only where they are used."""
    _, params = start(family)
    rng = np.random.default_rng(2)
    layers = [
        only_used(type(layer)(*(0.15 * rng.standard_normal(leaf.shape) for leaf in layer)))
        for layer in params.layers
    ]
    return TriangularParams(params.loc, params.tril, tuple(layers))


def noise():
    return np.random.default_rng(3).standard_normal((NUM, DIM))


def log_p(x):
    return -0.5 * (x**2).sum() - jnp.exp(0.3 * x[0]) + 0.1 * x[1] * x[2] ** 2


class Derived(NamedTuple):
    """What JAX makes of a family at some noise (M, d)."""

    x: jax.Array
    log_q: jax.Array
    at_point: jax.Array  # log q(x), by the inverse
    jacobian: jax.Array  # of x
    gradient: jax.Array  # of the log density of the noise


@functools.cache
def by_jax(family):
    def one(params, eps):
        def log_density(eps):
            x, log_q = family.draw(params, eps)
            return log_p(x) - log_q - 0.5 * (eps**2).sum()

        x, log_q = family.draw(params, eps)
        jacobian = jax.jacfwd(lambda e: family.draw(params, e)[0])(eps)
        gradient = jax.grad(log_density)(eps)
        return Derived(x, log_q, family.log_prob(params, x), jacobian, gradient)

    return jax.jit(jax.vmap(one, (None, 0)))


gradients = jax.jit(jax.vmap(jax.grad(log_p)))


def test_it_starts_as_the_gaussian(family):
    gaussian, params = start(family)
    found = by_jax(family)(params, noise())
    cov = gaussian.scale.matrix @ gaussian.scale.matrix.T
    away = np.linalg.solve(cov, (np.asarray(found.x) - gaussian.loc).T).T * (found.x - gaussian.loc)
    expected = -0.5 * (away.sum(1) + DIM * np.log(2 * np.pi)) - gaussian.scale.log_det(slice(None))
    np.testing.assert_allclose(found.log_q, expected, rtol=1e-12)
    center = by_jax(family)(params, np.zeros((NUM, DIM))).x[0]
    np.testing.assert_allclose(center, gaussian.loc, atol=1e-14)


def test_log_q_is_that_of_the_jacobian_and_of_the_point(family):
    found = by_jax(family)(bent(family), noise())
    log_normal = -0.5 * (noise() ** 2 + np.log(2 * np.pi)).sum(1)
    expected = log_normal - np.linalg.slogdet(found.jacobian)[1]
    np.testing.assert_allclose(found.log_q, expected, atol=1e-11)
    np.testing.assert_allclose(found.at_point, found.log_q, atol=1e-11)


def test_a_coordinate_depends_on_its_parents_alone(family):
    params, order = bent(family), family.in_order(DIM)
    jacobian = np.asarray(by_jax(family)(params, np.ones((NUM, DIM))).jacobian[0])
    u = np.linalg.solve(params.tril, jacobian[order])  # of the maps alone
    allowed = np.eye(DIM, dtype=bool)
    allowed[:, : family.num_parents(DIM)] |= np.tri(DIM, family.num_parents(DIM), -1, dtype=bool)
    assert np.abs(u[~allowed]).max(initial=0) < 1e-12
    assert (np.abs(u[allowed]) > 1e-6).all()


def test_the_transport_on_the_host_is_the_family(family):
    params, E = bent(family), noise()
    transport = block_transport(family, params, DIM, "float64")
    drawn = transport.draw(E)
    found = by_jax(family)(params, E)
    np.testing.assert_allclose(drawn.points, found.x, rtol=1e-12)
    np.testing.assert_allclose(drawn.log_q, found.log_q, rtol=1e-12)
    np.testing.assert_allclose(transport.noise_of(drawn.points), E, atol=1e-10)


def test_the_path_gradient_is_that_of_sticking_the_landing(family):
    params, E = bent(family), noise()

    def elbo(p):
        def one(eps):
            x, _ = family.draw(p, eps)
            return log_p(x) - family.log_prob(jax.lax.stop_gradient(p), x)

        return jax.vmap(one)(E).mean()

    expected = jax.jit(jax.grad(elbo))(params).layers
    transport = block_transport(family, params, DIM, "float64")
    drawn = transport.draw(E)
    G = np.asarray(gradients(drawn.points))
    found = transport.at(transport.gradient(drawn, G)).params(family).layers
    for one, other in zip(found, expected, strict=True):
        for leaf, by_jax in zip(only_used(one), only_used(other), strict=True):
            np.testing.assert_allclose(leaf, by_jax, rtol=1e-8, atol=1e-10)


def test_the_density_of_the_noise_has_the_gradient_that_is_pulled_back(family):
    params, E = bent(family), noise()
    transport = block_transport(family, params, DIM, "float64")
    drawn = transport.draw(E)
    G = np.asarray(gradients(drawn.points))
    expected = by_jax(family)(params, E).gradient
    np.testing.assert_allclose(transport.pull_back(drawn, G), expected, rtol=1e-9, atol=1e-9)


def test_hyperparameters_are_the_parents():
    family = advi.Triangular().for_latents((20, 1, 1))
    assert family.order == (20, 21, *range(20))
    assert family.num_parents(22) == 2
    few = advi.Triangular().for_latents((3, 1))
    assert few.order == (3, 0, 1, 2)
    assert few.num_parents(4) == 4
    # whole latents only, up to sixteen coordinates
    assert advi.Triangular().for_latents((30, 20, 1, 1)).num_parents(52) == 2
    assert advi.Triangular(parents=1, order=(1, 0)).for_latents((1, 1)).order == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"maps": 0}, "maps"), ({"parents": -1}, "parents"), ({"order": (0, 2)}, "permutation")],
)
def test_wrong_settings_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        advi.Triangular(**arguments)
