"""Two special functions on the host, as SciPy computes them, without its import.

`scipy.special` takes a fifth as long to import as JAX. The formulas and their coefficients are
those of Moshier's Cephes library, which SciPy has, so that results agree to the last bit where
its compiler rounds every operation.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from advi.core.types import Floats

ROOT_TWO_PI = 2.50662827463100050242
HALF_LOG_TWO_PI = 0.91893853320467274178
TAIL = 0.13533528323661269189  # exp(-2): below it, and above one minus it, logarithms are used

# of the quantile, in p - 1/2, and in the inverse of z = sqrt(-2 log p) for z below 8 and above it
CENTRE = (
    (-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1,
     1.39312609387279679503e1, -1.23916583867381258016e0),
    (1.0, 1.95448858338141759834e0, 4.67627912898881538453e0, 8.63602421390890590575e1,
     -2.25462687854119370527e2, 2.00260212380060660359e2, -8.20372256168333339912e1,
     1.59056225126211695515e1, -1.18331621121330003142e0),
)  # fmt: skip
NEAR = (
    (4.05544892305962419923e0, 3.15251094599893866154e1, 5.71628192246421288162e1,
     4.40805073893200834700e1, 1.46849561928858024014e1, 2.18663306850790267539e0,
     -1.40256079171354495875e-1, -3.50424626827848203418e-2, -8.57456785154685413611e-4),
    (1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1,
     1.50425385692907503408e1, 2.50464946208309415979e0, -1.42182922854787788574e-1,
     -3.80806407691578277194e-2, -9.33259480895457427372e-4),
)  # fmt: skip
FAR = (
    (3.23774891776946035970e0, 6.91522889068984211695e0, 3.93881025292474443415e0,
     1.33303460815807542389e0, 2.01485389549179081538e-1, 1.23716634817820021358e-2,
     3.01581553508235416007e-4, 2.65806974686737550832e-6, 6.23974539184983293730e-9),
    (1.0, 6.02427039364742014255e0, 3.67983563856160859403e0, 1.37702099489081330271e0,
     2.16236993594496635890e-1, 1.34204006088543189037e-2, 3.28014464682127739104e-4,
     2.89247864745380683936e-6, 6.79019408009981274425e-9),
)  # fmt: skip

# of the log-Gamma function between 2 and 3, and of Stirling's formula
SMALL = (
    (-1.37825152569120859100e3, -3.88016315134637840924e4, -3.31612992738871184744e5,
     -1.16237097492762307383e6, -1.72173700820839662146e6, -8.53555664245765465627e5),
    (1.0, -3.51815701436523470549e2, -1.70642106651881159223e4, -2.20528590553854454839e5,
     -1.13933444367982507207e6, -2.53252307177582951285e6, -2.01889141433532773231e6),
)  # fmt: skip
STIRLING = (
    8.11614167470508450300e-4, -5.95061904284301438324e-4, 7.93650340457716943945e-4,
    -2.77777777730099687205e-3, 8.33333333333331927722e-2,
)  # fmt: skip
STIRLING_LARGE = (
    7.9365079365079365079365e-4, -2.7777777777777777777778e-3, 0.0833333333333333333333,
)  # fmt: skip


def normal_quantile(p: Any) -> Floats:
    """Return the quantiles of the standard normal at probabilities of any shape.

    Examples
    --------
    >>> normal_quantile(np.array([0.0, 0.5, 0.975])).round(6).tolist()
    [-inf, 0.0, 1.959964]
    """
    shape, p = np.shape(p), np.atleast_1d(np.asarray(p, float))
    upper = p > 1 - TAIL
    y = np.where(upper, 1 - p, p)
    centred = y - 0.5
    square = centred * centred
    found = (centred + centred * _ratio(CENTRE, square, square)) * ROOT_TWO_PI
    tail = y <= TAIL
    found[tail] = np.where(upper[tail], 1.0, -1.0) * _tail(y[tail])
    return found.reshape(shape)


def _tail(p: Floats) -> Floats:
    """Return minus the quantile at probabilities in the lower tail."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.sqrt(-2 * _log(p))
        z = 1 / x
        correction = np.where(x < 8, _ratio(NEAR, z, z), _ratio(FAR, z, z))
        found = x - _log(x) / x - correction
    return np.where(p > 0, found, np.inf)


def _log(x: Floats) -> Floats:
    # NumPy's own differs from that of C in the last bit
    return np.fromiter((math.log(v) if v > 0 else -math.inf for v in x.tolist()), float, len(x))


def log_gamma(x: float) -> float:
    """Return the log of the Gamma function of a positive number.

    Examples
    --------
    >>> round(log_gamma(5.0), 6), round(float(np.log(24.0)), 6)
    (3.178054, 3.178054)
    """
    if x < 13:
        factor, shift, u = 1.0, 0.0, x
        while u >= 3:
            shift -= 1
            u = x + shift
            factor *= u
        while u < 2:
            factor /= u
            shift += 1
            u = x + shift
        if u == 2:
            return math.log(factor)
        u = x + (shift - 2)
        return math.log(factor) + _ratio(SMALL, u, u)
    found = (x - 0.5) * math.log(x) - x + HALF_LOG_TWO_PI
    if x > 1e8:
        return found
    inverse = 1 / (x * x)
    return found + _polynomial(STIRLING_LARGE if x >= 1000 else STIRLING, inverse) / x


def _ratio(polynomials: Sequence[Sequence[float]], x: Any, factor: Any) -> Any:
    """Return a factor times a ratio of two polynomials, from left to right."""
    above, below = polynomials
    return factor * _polynomial(above, x) / _polynomial(below, x)


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Return a polynomial, of coefficients with the highest power first."""
    found = coefficients[0]
    for coefficient in coefficients[1:]:
        found = found * x + coefficient
    return found
