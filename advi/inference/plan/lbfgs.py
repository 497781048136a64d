"""L-BFGS with a changing diagonal metric, of several minimisations at once.

Points may be vectors, or anything else that can be retracted along a step, such as a Gaussian.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from advi.core.types import Floats, Indices
from advi.inference.plan.batched_calls import Stage

HISTORY = 10
ARMIJO = 1e-4
SHRINK_NON_FINITE = 0.15
MIN_SHRINKAGE = 1e-8  # of the first step tried, below which a line search fails

Objective = Callable[[Sequence[Any]], Stage[tuple[Floats, Floats]]]  # values (n,), gradients (n, P)


class Measure(NamedTuple):
    """The inputs of a stopping rule, in the metric of the current point."""

    values: list[float]  # objective at every accepted point, the current one last
    gradient: float  # max |sqrt(H0) g|
    step: float  # max |p / sqrt(H0)| of the next step p


class Minimum(NamedTuple):
    """The end of a minimisation."""

    point: Any
    value: float
    reason: str  # "converged" | "budget" | "stalled"
    measure: Measure


class Start(NamedTuple):
    """Starting points, and the objective there."""

    points: list[Any]
    values: Floats  # (n,)
    gradients: Floats  # (n, P)
    num_evals: int

    @property
    def finite(self) -> Any:
        """Whether values and gradients are finite, (n,)."""
        return np.isfinite(self.values) & np.isfinite(self.gradients).all(1)


def finite_start(
    points: Sequence[Any], objective: Objective, retreat: Callable[[Any], Any], most: int
) -> Stage[Start]:
    """Evaluate an objective at points, replaced by `retreat(point)` while it is not finite there.

    At most `most` evaluations are made.
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
    retract: Callable[[Any, Floats], Any],  # (point, step (P,)) to a new point
    metric: Callable[[Any], Floats],  # point to H0 (P,), diagonal of the initial inverse Hessian
    *,
    cap: float,  # largest step in that metric, max |p / sqrt(H0)|
    max_evals: int,  # of each minimisation, including those of the start
    done: Callable[[Measure], bool],
    eps: float,  # machine epsilon of the objective
    accepted: Callable[[int, Any, float], None],  # minimisation, accepted point and its value
    first_cap: float | None = None,  # of a step along a gradient without curvature pairs
) -> Stage[list[Minimum | None]]:
    """Minimise by L-BFGS with backtracking, from several points together.

    From a point that is not finite there is no minimisation: None. Gradients are in the local
    coordinates of each point.
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
    turning = running.copy()  # which need a new direction

    def end(k: Any, reason: str) -> None:
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
        slack = 20 * eps * np.abs(value[now])  # rounding
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
                # a stale history can point uphill: once more along the metric
                turning[k] = True
                history.forget(np.array([k]))
            else:
                end(k, "stalled")
    return [ended.get(k) for k in range(num)]


def _backtracked(t: Floats, slope: Floats, rise: Floats, finite: Any) -> Floats:
    """Return the lengths to try after steps that did not descend enough, in steps p.

    `slope` is the objective's derivative along p, `rise` its change over the failed step, and
    `finite` whether value and gradient after it are finite.
    """
    # minimiser of the parabola through both values, with that slope
    parabola = np.clip(-0.5 * t * slope / (rise - t * slope), 0.1, 0.5)
    return t * np.where(finite, parabola, SHRINK_NON_FINITE)


class InverseHessian:
    """The L-BFGS memory of `num` minimisations over `size` parameters.

    The two loops of the recursion are products with a triangular matrix and its transpose: the
    inverse of that of all s_i'y_j, step i no later than j. It is updated by one product for every
    step, and spares some hundred operations on single vectors.

    References
    ----------
    Nocedal & Wright (2006), Numerical Optimization, algorithm 7.4.
    Byrd, Nocedal & Schnabel (1994), Representations of quasi-Newton matrices and their use in
    limited memory methods.
    """

    def __init__(self, num: int, size: int) -> None:
        self.count = np.zeros(num, int)  # pairs added and not forgotten
        # ring buffers, in which a pair replaces the oldest; zeros stand for none
        self._s, self._y = np.zeros((2, num, HISTORY, size))
        self._sy = np.zeros((num, HISTORY))
        self._inverse = np.zeros((num, HISTORY, HISTORY))

    def add(self, which: Indices, s: Floats, y: Floats, eps: float) -> None:
        """Add steps s and gradient changes y (n, P) of some minimisations (n,), each index once.

        Pairs whose curvature is not positive, beyond the rounding of the objective, are skipped.
        """
        sy = np.vecdot(s, y)
        bent = sy > eps * np.sqrt(np.vecdot(s, s) * np.vecdot(y, y))
        k, sy = which[bent], sy[bent]
        slot = self.count[k] % HISTORY
        self._s[k, slot], self._y[k, slot], self._sy[k, slot] = s[bent], y[bent], sy
        newest = np.zeros((len(self.count), s.shape[1]))
        newest[k] = y[bent]
        products = _times(self._s, newest)[k]  # of all: selecting some would copy their steps
        inverse = self._inverse
        inverse[k, slot] = inverse[k, :, slot] = 0
        inverse[k, :, slot] = -_times(inverse[k], products) / sy[:, None]
        inverse[k, slot, slot] = 1 / sy
        self.count[k] += 1

    def forget(self, which: Indices) -> None:
        for kept in (self._s, self._y, self._sy, self._inverse, self.count):
            kept[which] = 0

    def times(self, g: Floats, h0: Floats) -> Floats:
        """Return the inverse Hessians times gradients g (num, P).

        `h0` (num, P) are the diagonals of the initial ones, before their scaling s'y / y'H0y.
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
