"""The inverse Hessian of L-BFGS, of several minimisations at once."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HISTORY = 10


class Secants:
    """The last steps of several minimisations, and what the gradients changed by on them.

    The two loops of the recursion are products with a triangular matrix and its transpose: the
    inverse of that of all s_i'y_j, step i no later than j. It is kept up to date by one product
    for every step, and spares some hundred operations on single vectors.

    Parameters
    ----------
    num
        Minimisations.
    size
        Parameters P of each.

    Attributes
    ----------
    count : NDArray
        (num,) steps that each has kept and not forgotten.

    References
    ----------
    Nocedal & Wright (2006), Numerical Optimization, algorithm 7.4.
    Byrd, Nocedal & Schnabel (1994), Representations of quasi-Newton matrices and their use in
    limited memory methods.
    """

    def __init__(self, num: int, size: int) -> None:
        self.count = np.zeros(num, int)
        # a step has its place in a ring, and takes it from the oldest; zeros stand for none
        self._s, self._y = np.zeros((2, num, HISTORY, size))
        self._sy = np.zeros((num, HISTORY))
        self._inverse = np.zeros((num, HISTORY, HISTORY))

    def add(self, which: NDArray[np.int_], s: Floats, y: Floats, eps: float) -> None:
        """Keep steps (n, P) of some minimisations (n,), where the curvature is positive.

        Parameters
        ----------
        which
            Their places, each once.
        s, y
            The steps, and what the gradients changed by.
        eps
            Machine epsilon of the objective, in which a curvature may be lost.
        """
        sy = np.vecdot(s, y)
        bent = sy > eps * np.sqrt(np.vecdot(s, s) * np.vecdot(y, y))
        k, sy = which[bent], sy[bent]
        slot = self.count[k] % HISTORY
        self._s[k, slot], self._y[k, slot], self._sy[k, slot] = s[bent], y[bent], sy
        newest = np.zeros((len(self.count), s.shape[1]))
        newest[k] = y[bent]
        products = _times(self._s, newest)[k]  # of all, for to pick some would copy their steps
        inverse = self._inverse
        inverse[k, slot] = inverse[k, :, slot] = 0
        inverse[k, :, slot] = -_times(inverse[k], products) / sy[:, None]
        inverse[k, slot, slot] = 1 / sy
        self.count[k] += 1

    def forget(self, which: NDArray[np.int_]) -> None:
        """Forget the steps of some minimisations (n,)."""
        for kept in (self._s, self._y, self._sy, self._inverse, self.count):
            kept[which] = 0

    def times(self, g: Floats, h0: Floats) -> Floats:
        """Return the inverse Hessians times gradients (num, P).

        Parameters
        ----------
        g
            The gradients.
        h0
            (P,) diagonal of the initial inverse Hessian, before its scaling s'y / y'H0y.
        """
        last = np.arange(len(g)), (self.count - 1) % HISTORY
        y, sy = self._y[last], self._sy[last]
        bent = np.vecdot(y, h0 * y)
        scaling = np.where(bent > 0, sy / np.where(bent > 0, bent, 1), 1)
        alpha = _times(self._inverse, _times(self._s, g))
        r = scaling[:, None] * h0 * (g - _times(self._y.mT, alpha))
        rest = self._sy * alpha - _times(self._y, r)
        return r + _times(self._s.mT, _times(self._inverse.mT, rest))


def _times(matrices: Floats, vectors: Floats) -> Floats:
    return (matrices @ vectors[..., None])[..., 0]
