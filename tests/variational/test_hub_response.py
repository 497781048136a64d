"""The response of a sparse precision to hubs, against the marginal density of the hubs."""

import functools

import numpy as np
import pytest
from scipy import sparse

from advi.variational.gaussian import Gaussian
from advi.variational.hub_response import HubProbe
from advi.variational.precision_scale import PrecisionScale

EFFECTS, NOISE = 40, 0.8
Y = np.random.default_rng(0).standard_normal(EFFECTS)
HUBS = np.array([0, 1])  # the effects' mean, and the log of their sd


def log_density(x):
    """Of effects N(mean, sd^2), seen with noise; weak priors of the hubs."""
    mean, log_sd, effects = x[0], x[1], x[2:]
    value = -0.5 * ((effects - mean) ** 2).sum() / np.exp(2 * log_sd) - EFFECTS * log_sd
    return value - 0.5 * ((Y - effects) ** 2).sum() / NOISE**2 - 0.5 * mean**2 - 2 * log_sd**2


def gradient(x):
    mean, log_sd, effects = x[0], x[1], x[2:]
    away, precision = effects - mean, np.exp(-2 * log_sd)
    of_sd = (away**2).sum() * precision - EFFECTS - 4 * log_sd
    of_effects = -away * precision + (Y - effects) / NOISE**2
    return np.concatenate([[away.sum() * precision - mean, of_sd], of_effects])


def negative_hessian(x):
    mean, log_sd, effects = x[0], x[1], x[2:]
    away, precision = effects - mean, np.exp(-2 * log_sd)
    H = np.zeros((EFFECTS + 2, EFFECTS + 2))
    H[0, 0], H[1, 1] = EFFECTS * precision + 1, 2 * (away**2).sum() * precision + 4
    H[0, 1] = H[1, 0] = 2 * away.sum() * precision
    H[0, 2:] = H[2:, 0] = -precision
    H[1, 2:] = H[2:, 1] = -2 * away * precision
    return H + np.diag(np.r_[0, 0, np.full(EFFECTS, precision + NOISE**-2)])


def marginal(hubs):
    """Log density of the hubs, the effects integrated out."""
    variance = np.exp(2 * hubs[1]) + NOISE**2
    value = -0.5 * ((Y - hubs[0]) ** 2).sum() / variance - 0.5 * EFFECTS * np.log(variance)
    return value - 0.5 * hubs[0] ** 2 - 2 * hubs[1] ** 2


@functools.cache
def probe(num=2000):
    log_sd = np.log(0.7)
    mean = Y.mean()
    weight = np.exp(2 * log_sd) / (np.exp(2 * log_sd) + NOISE**2)
    loc = np.concatenate([[mean, log_sd], mean + weight * (Y - mean)])
    precision = negative_hessian(loc)
    variance = 1 / (np.exp(-2 * log_sd) + NOISE**-2)  # of the effects: its mean over them
    precision[1, 1] += 2 * EFFECTS * variance * np.exp(-2 * log_sd)
    order = np.r_[2 : EFFECTS + 2, 0, 1]
    scale = PrecisionScale(sparse.csc_array(precision), order)
    noise = np.random.default_rng(1).standard_normal((num, EFFECTS + 2))
    return HubProbe(Gaussian(loc, scale), HUBS, noise)


def of_marginal():
    """Minus the Hessian of the marginal log density at the means of the hubs."""
    center, step = probe().gaussian.loc[:2], 1e-4
    units = np.eye(2) * step
    return -np.array(
        [
            [
                sum(
                    s * t * marginal(center + s * units[i] + t * units[j])
                    for s in (1, -1)
                    for t in (1, -1)
                )
                / (4 * step**2)
                for j in range(2)
            ]
            for i in range(2)
        ]
    )


def test_hubs_have_the_precision_of_their_marginal():
    found = probe()
    gradients = np.array([gradient(x) for x in found.points()])
    response = found.response(gradients)
    np.testing.assert_allclose(found.precision - response, of_marginal(), rtol=0.08, atol=0.5)
    assert response[1, 1] > 0.2 * found.precision[1, 1]  # it is not small
    wide = found.widened(response)
    covariance = wide.scale.covariance_times(np.eye(EFFECTS + 2)[:2])[:, :2]
    np.testing.assert_allclose(np.linalg.inv(covariance), found.precision - response, atol=1e-8)


def test_a_step_goes_where_the_marginal_has_its_mode():
    """A Newton step of the hubs from beside the mode: nearer than one without C."""
    found = probe()
    response = found.response(np.array([gradient(x) for x in found.points()]))
    noise = np.random.default_rng(2).standard_normal((4000, EFFECTS + 2))
    points = found.gaussian.points(np.concatenate([noise, -noise]))
    mean_gradient = np.mean([gradient(x) for x in points], axis=0)
    step = found.scale.covariance_times(mean_gradient[None])[0]
    grid = np.linspace(-2.5, 0.5, 3001)
    mode = grid[np.argmax([marginal((Y.mean(), s)) for s in grid])]
    plain, longer = (
        abs(found.gaussian.loc[1] + s[1] - mode) for s in (step, found.moved(step, response))
    )
    assert longer < plain


@pytest.mark.parametrize("error", [0.1, 0.2])
def test_hubs_that_effects_tell_little_about_take_many_draws(error):
    found = probe()
    ratio = np.array([[0.5, 0.0], [0.0, 0.0]])
    root = np.linalg.cholesky(found.precision)
    assert found.num_draws(root @ ratio @ root.T, error) == pytest.approx(2 / error**2)
    assert found.num_draws(np.zeros((2, 2)), error) == 0


def test_an_infinite_gradient_is_no_response():
    found = probe(4)
    gradients = np.full((len(found.points()), EFFECTS + 2), np.inf)
    with np.errstate(invalid="ignore"):
        assert (found.response(gradients) == 0).all()
