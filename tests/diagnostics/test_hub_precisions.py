"""Precisions of effects predicted from those at other values of the hubs."""

import numpy as np
import pytest
from scipy import sparse

from advi.diagnostics.hub_precisions import HubPrecisions
from advi.variational.gaussian import Gaussian

DIM = 50
HUBS = Gaussian.diagonal(np.array([0.3, -1.0]), 0.2)


def linear(hubs):
    return 5 + hubs[0] + 0.5 * hubs[1]


def square(hubs):
    return 20 + 100 * (hubs[0] - 0.3) ** 2


def product(hubs):
    return 20 + 200 * (hubs[0] - 0.3) * (hubs[1] + 1)


def rough(hubs):
    return 20 + 8 * np.sin(40 * hubs[0])


def precision(diagonal):
    off = np.full(DIM - 1, -1.0)
    return sparse.csc_array(
        sparse.diags_array([off, np.full(DIM, diagonal), off], offsets=[-1, 0, 1])
    )


def learnt(diagonal, num):
    """Precisions at `num` values of the hubs, and how many were taken."""
    found, rng = HubPrecisions(HUBS), np.random.default_rng(0)
    for k in range(num):
        hubs = HUBS.loc + HUBS.sds * rng.standard_normal(2)
        if found.predicted(hubs) is not None:
            return found, k
        found.learn(hubs, precision(diagonal(hubs)))
    return found, num


@pytest.mark.parametrize(("diagonal", "most"), [(linear, 9), (square, 13), (product, 15)])
def test_polynomials_are_found_from_few(diagonal, most):
    found, taken = learnt(diagonal, 40)
    assert taken == most
    hubs = HUBS.loc + np.array([0.1, -0.15])
    expected = precision(diagonal(hubs))
    np.testing.assert_allclose(found.predicted(hubs).toarray(), expected.toarray(), atol=0.02)


def test_what_is_no_polynomial_is_not_predicted():
    found, _ = learnt(rough, 60)
    assert found.predicted(HUBS.loc) is None


def test_no_precision_is_predicted_far_out():
    found, _ = learnt(linear, 40)
    assert found.predicted(HUBS.loc + 6 * HUBS.sds) is None
