"""The special functions are SciPy's."""

import numpy as np
import pytest
from scipy.special import gammaln, ndtri

from advi.core.special import log_gamma, normal_quantile

RNG = np.random.default_rng(0)


def test_quantiles_are_scipys():
    p = np.concatenate([RNG.random(10_000), 10.0 ** -np.arange(1, 300), [1 - 1e-16, 0.0, 0.5, 1.0]])
    # a compiler may keep one more digit of a product: a few units in the last place
    np.testing.assert_allclose(normal_quantile(p), ndtri(p), rtol=1e-15, atol=1e-15)
    assert normal_quantile(p[:4].reshape(2, 2)).shape == (2, 2)
    assert float(normal_quantile(0.975)) == pytest.approx(1.959963984540054, rel=1e-15)


def test_log_gamma_is_scipys():
    x = np.concatenate([np.arange(1, 2000) / 2, 10 ** RNG.uniform(-3, 10, 1000)])
    np.testing.assert_allclose([log_gamma(v) for v in x.tolist()], gammaln(x), rtol=1e-14)
