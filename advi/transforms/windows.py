"""The weight of every turn that an angle's real coordinate may be on.

An angle is fitted by a Gaussian on the real line, wrapped. The turn that a coordinate x is on has
no meaning, so that any distribution over turns, given the angle, leaves the posterior and the
evidence as they are. This one is that of a wrapped normal about a centre c,

    w(x) = N(x; c, s) / sum_k N(x + 2 pi k; c, s),    sum_k w(x + 2 pi k) = 1 for every x.

If c and s are the mean and the sd of the fit, the ELBO is that of the wrapped normal itself. With
the c and s of a fit, the ELBO of a von Mises posterior of concentration kappa falls short of the
evidence by

    kappa    0      0.1    0.5    1      2      5      50     1000
    nats     0.005  0.001  0.003  0.006  0.014  0.002  0.000  0.000

and at most by log 2 more where c is opposite the mean.
"""

from typing import Any, NamedTuple

import numpy as np

from advi.core.types import Floats, Indices

TURN = 2 * np.pi
DEFAULT_SD = 1.5  # s, radians, where nothing is known of the fit
NARROWEST = 1.35  # else s is the fit's sd, but no less: a narrow fit has all its weight on one turn
WIDEST = 3.0  # a normal so wide, wrapped, is uniform to a tenth of a percent
TURNS = 5  # terms of the sum on either side
AHEAD = 1.5  # excess width of the next window, in that of the fit over the present one
GAIN_NATS = 0.002  # of the ELBO, for which a window is moved
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


class Terms(NamedTuple):
    """The log of the weight, its slope and its curvature, entry by entry."""

    value: Any
    slope: Any
    curvature: Any


def wrapped(x: Any) -> Any:
    """Return angles, or differences of them, in [-pi, pi]."""
    return x - TURN * np.round(x / TURN)


def log_weight(x: Any, center: Any, sd: Any) -> Terms:
    """Return log w(x) of s = `sd`, all arguments broadcast; an infinite s stands for w = 1."""
    away = np.asarray(x - center)
    near = wrapped(away)
    turns = TURN * np.arange(-TURNS, TURNS + 1)
    variance = np.asarray(sd, float) ** 2
    exponents = -(turns * (turns + 2 * near[..., None])) / (2 * variance[..., None])
    weights = np.exp(exponents)
    total = weights.sum(-1)
    mean = (weights * turns).sum(-1) / total
    square = (weights * turns**2).sum(-1) / total
    one = np.isinf(variance)
    with np.errstate(invalid="ignore"):
        value = -(away - near) * (away + near) / (2 * variance) - np.log(total)
        slope = (mean - (away - near)) / variance
        curvature = -(square - mean**2) / variance**2
    return Terms(*(np.where(one, 0.0, part) for part in (value, slope, curvature)))


class Window(NamedTuple):
    """The weights of the angles among the coordinates of R^D."""

    angles: Indices  # (A,) coordinates that are angles
    center: Floats  # (A,)
    sd: Floats  # (A,) s; infinite where all turns have the same weight

    @classmethod
    def default(cls, angles: Indices) -> "Window":
        """Return the window of the transform `Circular` itself."""
        return cls(angles, np.zeros(len(angles)), np.full(len(angles), DEFAULT_SD))

    def lifted(self) -> "Window":
        """Return the window of equal weights of all turns: no density, but with its modes."""
        return self._replace(sd=np.full(len(self.angles), np.inf))

    def log_weight(self, X: Floats) -> Terms:
        """Return the log weight at points (n, D): (n,), and its derivatives (n, A)."""
        terms = log_weight(X[:, self.angles], self.center, self.sd)
        return terms._replace(value=terms.value.sum(1))

    def gain(self, loc: Floats, sds: Floats) -> float:
        """Return the gain, nats, of a Gaussian's ELBO under the weights that fit it best."""
        sd, suited = sds[self.angles], self._suited(loc, sds)
        points = suited.center + sd * NODES[:, None]
        after = log_weight(points, suited.center, suited.sd).value
        before = log_weight(points, self.center, self.sd).value
        return float((WEIGHTS / WEIGHTS.sum()) @ (after - before).sum(1))

    def around(self, loc: Floats, sds: Floats) -> "Window":
        """Return the window for a Gaussian with these means and sds (D,): itself, if that suffices.

        A posterior close to uniform has a fit as wide as its window: where a fit is wider than the
        window, the next window is wider still.
        """
        suited = self._suited(loc, sds)
        if not np.all(np.isfinite(self.sd)):
            return suited
        if self.gain(loc, sds) < GAIN_NATS:
            return self
        sd = sds[self.angles]
        wider = np.maximum(sd - self.sd, 0)
        return suited._replace(sd=np.clip(sd + AHEAD * wider, NARROWEST, WIDEST))

    def _suited(self, loc: Floats, sds: Floats) -> "Window":
        sd = np.clip(sds[self.angles], NARROWEST, WIDEST)
        return self._replace(center=loc[self.angles], sd=sd)
