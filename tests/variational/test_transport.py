"""Transports of Gaussians, of blocks, and of compiled families, against their densities."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import advi
from advi.variational.block_transport import block_gaussian, block_transport
from advi.variational.gaussian import Gaussian
from advi.variational.scale import DiagonalScale, LowRankScale, TriangularScale
from advi.variational.transport import GaussianTransport, JointTransport

LOC = np.array([1.0, -2.0, 0.5])
TRIL = np.array([[0.5, 0, 0], [0.3, 2.0, 0], [-1.0, 0.2, 1.0]])
DIRECTION = np.array([[0.6], [0.8], [0.0]])
SCALES = {
    "diagonal": DiagonalScale(np.array([0.5, 2.0, 1.0])),
    "triangular": TriangularScale(TRIL),
    "low rank": LowRankScale(np.array([0.5, 2.0, 1.0]), DIRECTION, np.array([3.0])),
}
E3 = np.random.default_rng(0).standard_normal((5, 3))


@dataclass(frozen=True)
class Shifted:
    """A standard normal moved by its parameters, without a closed form."""

    def noise_dim(self, dim):
        return dim

    def init(self, gaussian, key):
        return {"loc": gaussian.loc, "log_sd": np.log(gaussian.scale.sds)}

    def draw(self, params, eps):
        log_q = (-0.5 * (eps**2 + jnp.log(2 * jnp.pi)) - params["log_sd"]).sum()
        return params["loc"] + jnp.exp(params["log_sd"]) * eps, log_q


@dataclass(frozen=True)
class WithDensity(Shifted):
    def log_prob(self, params, x):
        standard = (x - params["loc"]) * jnp.exp(-params["log_sd"])
        return (-0.5 * (standard**2 + jnp.log(2 * jnp.pi)) - params["log_sd"]).sum()


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_gaussians_have_their_density_and_their_noise(scale):
    transport = GaussianTransport(Gaussian(LOC, scale), np.ones(3, bool))
    drawn = transport.draw(E3)
    L = scale.mv(np.eye(3)).T
    expected = multivariate_normal(LOC, L @ L.T).logpdf(drawn.points)
    np.testing.assert_allclose(drawn.log_q, expected, rtol=1e-10)
    np.testing.assert_allclose(transport.noise_of(drawn.points), E3, atol=1e-10)
    # a Gaussian target's log density in the noise: that of a standard normal has a gradient of -e
    G = -np.linalg.solve(L @ L.T, (drawn.points - LOC).T).T
    np.testing.assert_allclose(transport.pull_back(drawn, G), -E3, atol=1e-10)
    # at the posterior itself the path gradient has no noise
    np.testing.assert_allclose(transport.gradient(drawn, G), 0, atol=1e-10)


def test_points_stand_still_in_the_noise():
    random = np.array([True, False, True])
    scale = DiagonalScale(np.array([0.5, 0.0, 1.0]))
    transport = GaussianTransport(Gaussian(LOC, scale), random)
    assert transport.noise_dim == 2
    X = transport.draw(E3[:, :2]).points
    np.testing.assert_array_equal(X[:, 1], -2.0)
    np.testing.assert_allclose(X[:, 2], 0.5 + E3[:, 1])
    moved = transport.at(np.array([1.0, 1.0, 0.0, np.log(2.0), 0.0]))
    np.testing.assert_allclose(moved.gaussian.loc, [1.5, -1.0, 0.5])
    np.testing.assert_allclose(moved.gaussian.scale.sd, [1.0, 0.0, 1.0])


def test_blocks_are_independent():
    one = GaussianTransport(Gaussian.diagonal(LOC[:1], 2.0), np.ones(1, bool))
    other = block_transport(advi.Triangular(), advi.Triangular().init(
        Gaussian(LOC[1:], TriangularScale(TRIL[1:, 1:]))
    ), 2, "float64")  # fmt: skip
    joint = JointTransport([np.array([1]), np.array([0, 2])], [one, other])
    drawn = joint.draw(E3)
    np.testing.assert_allclose(drawn.points[:, 1], 1.0 + 2.0 * E3[:, 0])
    np.testing.assert_allclose(drawn.points[:, [0, 2]], other.draw(E3[:, 1:]).points)
    parts = one.draw(E3[:, :1]).log_q + other.draw(E3[:, 1:]).log_q
    np.testing.assert_allclose(drawn.log_q, parts)
    np.testing.assert_allclose(joint.noise_of(drawn.points), E3, atol=1e-10)
    np.testing.assert_array_equal(joint.at(joint.vector).draw(E3).points, drawn.points)


@pytest.mark.parametrize("family", [Shifted(), WithDensity()], ids=["draw", "log_prob"])
def test_a_compiled_family_has_its_derivatives(family):
    gaussian = Gaussian.diagonal(LOC, np.array([0.5, 2.0, 1.0]))
    params = family.init(gaussian, None)
    transport = block_transport(family, params, 3, "float64")
    drawn = transport.draw(E3)
    np.testing.assert_allclose(drawn.points, gaussian.points(E3))
    G = np.random.default_rng(1).standard_normal((5, 3))
    by_loc, by_scale = np.split(transport.gradient(drawn, G), 2)
    if isinstance(family, WithDensity):  # sticking the landing: the score of q along the path
        path = G + E3 / gaussian.scale.sd
        np.testing.assert_allclose(by_loc, path.mean(0))
        np.testing.assert_allclose(by_scale, (path * gaussian.scale.sd * E3).mean(0))
    else:
        np.testing.assert_allclose(by_loc, G.mean(0))
        np.testing.assert_allclose(by_scale, (G * gaussian.scale.sd * E3).mean(0) + 1)
    np.testing.assert_allclose(transport.pull_back(drawn, G), G * gaussian.scale.sd, atol=1e-12)
    assert transport.noise_of(drawn.points) is None


def test_moments_of_a_family_are_those_of_its_draws():
    params = WithDensity().init(Gaussian(LOC, TriangularScale(TRIL)), None)
    loc, scale = block_gaussian(WithDensity(), params, 3)
    sds = np.linalg.norm(TRIL, axis=1)
    np.testing.assert_allclose(loc, LOC, atol=1e-12)  # antithetic draws
    np.testing.assert_allclose(scale.sds, sds, rtol=0.05)
