"""The mixture of Gaussians: its density, its host transport, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import advi
from advi.variational.block_transport import block_transport
from advi.variational.gaussian import Gaussian
from advi.variational.mixture import Mixture, MixtureParams
from advi.variational.transport import log_normal

PARAMS = MixtureParams(
    np.log([0.2, 0.5, 0.3]),
    np.array([[0.0, 1.0], [2.0, -1.0], [-3.0, 0.5]]),
    np.array([[[1.0, 0.0], [0.5, 0.4]], [[0.3, 0.0], [-0.2, 2.0]], [[1.5, 0.0], [0.0, 0.7]]]),
)
E = np.random.default_rng(0).standard_normal((200, 3))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_draws_have_the_density_of_the_mixture_on_host_and_device():
    drawn = block_transport(Mixture(3), PARAMS, 2, "float64").draw(E)
    each = [
        np.log(w) + multivariate_normal(loc, L @ L.T).logpdf(drawn.points)
        for w, loc, L in zip([0.2, 0.5, 0.3], PARAMS.locs, PARAMS.trils, strict=True)
    ]
    np.testing.assert_allclose(drawn.log_q, logsumexp(each, axis=0), rtol=1e-10)
    points, log_q = jax.jit(jax.vmap(lambda e: Mixture(3).draw(PARAMS, e)))(jnp.asarray(E))
    np.testing.assert_allclose(points, drawn.points, atol=1e-12)
    np.testing.assert_allclose(log_q, drawn.log_q, rtol=1e-10)


def test_components_are_drawn_by_their_weights():
    E = np.random.default_rng(1).standard_normal((20_000, 3))
    transport = block_transport(Mixture(3), PARAMS, 2, "float64")
    drawn = transport.draw(E)
    share = transport.responsibilities(drawn).mean(0)
    np.testing.assert_allclose(share, [0.2, 0.5, 0.3], atol=0.012)


def test_the_gradient_in_the_noise_is_that_of_the_ratio_of_densities():
    """Of log N(e) + log p(x(e)) - log q(x(e)), within the noise of each component."""
    transport = block_transport(Mixture(3), PARAMS, 2, "float64")

    def value(E):
        drawn = transport.draw(E)
        return log_normal(E) - (drawn.points**2).sum(1) - drawn.log_q

    drawn = transport.draw(E[:20])
    found = transport.pull_back(drawn, -2 * drawn.points)
    for i in range(3):
        step = 1e-6 * np.eye(3)[i]
        slope = (value(E[:20] + step) - value(E[:20] - step)) / 2e-6
        np.testing.assert_allclose(found[:, i], slope, atol=1e-5)


def test_it_begins_as_one_gaussian():
    q = Gaussian.diagonal(np.array([1.0, 2.0]), np.array([0.5, 2.0]))
    drawn = block_transport(Mixture(), Mixture().init(q), 2, "float64").draw(E)
    np.testing.assert_allclose(drawn.points, q.points(E[:, 1:]))
    with pytest.raises(ValueError, match="Mixture components"):
        advi.Mixture(0)
