"""L-BFGS with a changing diagonal metric, of several minimisations at once.

Points may be vectors, or anything else that a step leads on from, such as a Gaussian in whose own
frame steps are taken.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from advi.core.types import Floats, Indices
from advi.inference.plan.batched_calls import Stage

HISTORY = 10
ARMIJO = 1e-4
SHRINK_NON_FINITE = 0.15
MIN_SHRINKAGE = 1e-8  # of the first step tried, below which a search gives up

Objective = Callable[[Sequence[Any]], Stage[tuple[Floats, Floats]]]  # values (n,), gradients (n, P)


class Measure(NamedTuple):
    """What a stopping rule sees, in the metric of the current point."""

    values: list[float]  # objective at every accepted point, the current one last
    gradient: float  # max |sqrt(H0) g|
    step: float  # max |p / sqrt(H0)| of the next step p


class Minimum(NamedTuple):
    """Where a minimisation ended."""

    point: Any
    value: float
    reason: str  # "converged" | "budget" | "stalled"
    measure: Measure


class Start(NamedTuple):
    """Points to start from, and the objective there."""

    points: list[Any]
    values: Floats  # (n,)
    gradients: Floats  # (n, P)
    num_evals: int

    @property
    def finite(self) -> Any:
        """Where values and gradients are finite, (n,)."""
        return np.isfinite(self.values) & np.isfinite(self.gradients).all(1)


def finite_start(
    points: Sequence[Any], objective: Objective, retreat: Callable[[Any], Any], most: int
) -> Stage[Start]:
    """Evaluate an objective, at points further back while it is not finite there.

    Parameters
    ----------
    points
        Where to start.
    objective
        Stage that returns the values and the gradients at some points.
    retreat
        Point to the next one to try.
    most
        Evaluations at most.
    """
    points = list(points)
    start = Start(points, *(yield from objective(points)), 1)
    while start.num_evals < most and len(missing := np.flatnonzero(~start.finite)):
        for k in missing:
            points[k] = retreat(points[k])
        again = yield from objective([points[k] for k in missing])
        for kept, new in zip(start[1:3], again, strict=True):
            kept[missing] = new
        start = start._replace(num_evals=start.num_evals + 1)
    return start


def minimise(
    start: Start,
    objective: Objective,
    retract: Callable[[Any, Floats], Any],
    metric: Callable[[Any], Floats],
    *,
    cap: float,
    max_evals: int,
    done: Callable[[Measure], bool],
    eps: float,
    accepted: Callable[[int, Any, float], None],
    first_cap: float | None = None,
) -> Stage[list[Minimum | None]]:
    """Minimise by L-BFGS with backtracking, from several points side by side.

    Parameters
    ----------
    start
        Where to start. From a point that is not finite there is no minimisation, None.
    objective
        Stage that returns values and gradients. In a moving frame a gradient is that of the frame
        at its point.
    retract
        (point, step (P,)) to a new point.
    metric
        Point to H0 (P,), the diagonal of the initial inverse Hessian: a Fisher metric's inverse.
    cap
        Largest step in that metric, max |p / sqrt(H0)|.
    max_evals
        Evaluations of each, those of the start included.
    done
        Stopping rule.
    eps
        Machine epsilon of the objective.
    accepted
        Called with the number of a minimisation, every point that it accepts, and the value.
    first_cap
        Largest step along a gradient that no curvature is known beside; by default `cap`.
    """
    points, value, g, num_evals = start
    num = len(points)
    running, ended = start.finite, {}
    values: list[list[float]] = [[v] for v in value.tolist()]
    for k in np.flatnonzero(running):
        accepted(int(k), points[k], float(value[k]))
    history = InverseHessian(*g.shape)
    h0, p = np.ones_like(g), np.zeros_like(g)
    t, slope, shortest, largest, length = np.zeros((5, num))
    turning = running.copy()  # those that need a new direction

    def end(k: int, reason: str) -> None:
        measure = Measure(values[k], float(largest[k]), float(length[k]))
        ended[k] = Minimum(points[k], float(value[k]), reason, measure)
        running[k] = turning[k] = False

    while running.any():
        if turning.any():
            turned = np.flatnonzero(turning)
            for k in turned:
                h0[k] = metric(points[k])
            ahead = -history.times(g, h0)
            uphill = turned[~(np.vecdot(g[turned], ahead[turned]) < 0)]
            if len(uphill):
                history.forget(uphill)
                ahead[uphill] = -h0[uphill] * g[uphill]
            p[turned], root = ahead[turned], np.sqrt(h0[turned])
            slope[turned] = np.vecdot(g[turned], p[turned])
            largest[turned] = np.abs(root * g[turned]).max(1, initial=0)
            length[turned] = np.abs(p[turned] / root).max(1, initial=0)
            caps = np.full(len(turned), cap)
            if first_cap is not None:
                caps[history.count[turned] == 0] = first_cap
            t[turned] = caps / np.maximum(caps, length[turned])
            shortest[turned] = MIN_SHRINKAGE * t[turned]
            turning[:] = False
            for k in turned:
                if done(Measure(values[k], float(largest[k]), float(length[k]))):
                    end(k, "converged")
        if num_evals >= max_evals:
            for k in np.flatnonzero(running):
                end(k, "budget")
        if not running.any():
            break
        now = np.flatnonzero(running)
        trials = [retract(points[k], t[k] * p[k]) for k in now]
        trial_value, trial_g = yield from objective(trials)
        num_evals += 1
        finite = np.isfinite(trial_value) & np.isfinite(trial_g).all(1)
        slack = 20 * eps * np.abs(value[now])  # a rise that is taken for rounding
        lower = finite & (trial_value <= value[now] + ARMIJO * t[now] * slope[now] + slack)

        went = now[lower]
        history.add(went, t[went, None] * p[went], trial_g[lower] - g[went], eps)
        value[went], g[went] = trial_value[lower], trial_g[lower]
        for k, trial in zip(now[lower], np.flatnonzero(lower), strict=True):
            points[k] = trials[trial]
            values[k].append(float(value[k]))
            accepted(int(k), points[k], float(value[k]))
        turning[went] = True

        back = now[~lower]
        rise = (trial_value - value[now])[~lower]
        t[back] = _backtracked(t[back], slope[back], rise, finite[~lower])
        for k in back[t[back] < shortest[back]]:
            if history.count[k]:
                turning[k] = True  # a stale history can point uphill: once more along the metric
                history.forget(np.array([k]))
            else:
                end(k, "stalled")
    return [ended.get(k) for k in range(num)]


def _backtracked(t: Floats, slope: Floats, rise: Floats, finite: Any) -> Floats:
    """Return the lengths to try after steps that did not descend enough.

    Parameters
    ----------
    t
        Lengths of those steps, in steps p.
    slope
        The objective's derivatives along p, negative.
    rise
        Its values after the steps less those before.
    finite
        Whether value and gradient after the step are finite.
    """
    # minimiser of the parabola through both values, with that slope
    parabola = np.clip(-0.5 * t * slope / (rise - t * slope), 0.1, 0.5)
    return t * np.where(finite, parabola, SHRINK_NON_FINITE)


class InverseHessian:
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
        # a ring, in which a step takes the place of the oldest; zeros stand for none
        self._s, self._y = np.zeros((2, num, HISTORY, size))
        self._sy = np.zeros((num, HISTORY))
        self._inverse = np.zeros((num, HISTORY, HISTORY))

    def add(self, which: Indices, s: Floats, y: Floats, eps: float) -> None:
        """Keep steps (n, P) of some minimisations (n,), where the curvature is positive.

        Parameters
        ----------
        which
            Their numbers, each once.
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

    def forget(self, which: Indices) -> None:
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
            (num, P) diagonals of the initial inverse Hessians, before their scaling s'y / y'H0y.
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
