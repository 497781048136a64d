"""L-BFGS with a changing diagonal metric, on a vector space or in a moving frame."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.inference.plan.lockstep import Stage
from advi.inference.plan.secants import Secants

Floats = NDArray[np.float64]

ARMIJO = 1e-4
SHRINK_NON_FINITE = 0.15
MIN_SHRINKAGE = 1e-8  # of the first step tried, below which a search gives up
MAX_RETREATS = 20  # from a start that is not finite


class Measure(NamedTuple):
    """What a stopping rule sees, in the metric of the current point."""

    values: list[float]  # objective at every accepted point, the current one last
    gradient: float  # max |sqrt(H0) g|
    step: float  # max |p / sqrt(H0)| of the next step p


class Minimum(NamedTuple):
    """Where a minimisation ended."""

    point: Any
    value: float
    reason: str  # "converged" | "budget" | "stalled" | "not finite"
    measure: Measure


def rounding(value: Any, eps: float) -> Any:
    """Return the rise of an objective that is taken for rounding."""
    return 20 * eps * np.abs(value)


def shortened(t: Any, slope: Any, rise: Any, finite: Any) -> Any:
    """Return the length to try after a step that did not descend enough.

    Parameters
    ----------
    t
        Length of that step, in steps p; numbers or arrays, like all that follow.
    slope
        The objective's derivative along p, negative.
    rise
        Its value after the step less that before.
    finite
        Whether value and gradient after the step are finite.
    """
    # minimiser of the parabola through both values, with that slope
    parabola = np.clip(-0.5 * t * slope / (rise - t * slope), 0.1, 0.5)
    return t * np.where(finite, parabola, SHRINK_NON_FINITE)


def minimise(
    point: Any,
    objective: Callable[[Any], Stage[tuple[float, Floats]]],
    retract: Callable[[Any, Floats], Any],
    metric: Callable[[Any], Floats],
    *,
    cap: float,
    max_evals: int,
    done: Callable[[Measure], bool],
    eps: float,
    accepted: Callable[[Any, float], None],
    retreat: Callable[[Any], Any] | None = None,
) -> Stage[Minimum]:
    """Minimise by L-BFGS with backtracking.

    Parameters
    ----------
    point
        Where to start.
    objective
        Stage that returns the value and the gradient (P,) at a point. In a moving frame the
        gradient is that of the frame at the point.
    retract
        (point, step (P,)) to a new point.
    metric
        Point to H0 (P,), the diagonal of the initial inverse Hessian: a Fisher metric's inverse.
    cap
        Largest step in that metric, max |p / sqrt(H0)|.
    max_evals
        Evaluations of the objective.
    done
        Stopping rule.
    eps
        Machine epsilon of the objective.
    accepted
        Called with every accepted point and its value.
    retreat
        Point to the next one to start from where the objective, or its gradient, is not finite;
        without it, there is no other.
    """
    value, g = yield from objective(point)
    evals = 1
    while not _finite(value, g):
        if retreat is None or evals > MAX_RETREATS:
            return Minimum(point, value, "not finite", Measure([value], np.inf, np.inf))
        point = retreat(point)
        value, g = yield from objective(point)
        evals += 1
    accepted(point, value)
    values = [value]
    secants = Secants(1, len(g))
    only = np.zeros(1, int)
    while True:
        h0 = metric(point)
        p = -secants.times(g[None], h0)[0]
        slope = g @ p
        if not slope < 0:
            secants.forget(only)
            p = -h0 * g
            slope = g @ p
        root = np.sqrt(h0)
        measure = Measure(values, _largest(root * g), _largest(p / root))
        if done(measure):
            return Minimum(point, value, "converged", measure)
        t = min(1.0, cap / measure.step) if measure.step > 0 else 1.0
        shortest = MIN_SHRINKAGE * t
        slack = rounding(value, eps)
        while True:
            if evals >= max_evals:
                return Minimum(point, value, "budget", measure)
            trial = retract(point, t * p)
            trial_value, trial_g = yield from objective(trial)
            evals += 1
            finite = _finite(trial_value, trial_g)
            if finite and trial_value <= value + ARMIJO * t * slope + slack:
                break
            t = float(shortened(t, slope, trial_value - value, finite))
            if t < shortest:
                break
        if t < shortest:
            if not secants.count[0]:
                return Minimum(point, value, "stalled", measure)
            secants.forget(only)  # a stale history can point uphill: once more along the metric
            continue
        secants.add(only, t * p[None], (trial_g - g)[None], eps)
        point, value, g = trial, trial_value, trial_g
        values.append(value)
        accepted(point, value)


def _finite(value: float, g: Floats) -> bool:
    return bool(np.isfinite(value) and np.all(np.isfinite(g)))


def _largest(x: Floats) -> float:
    return float(np.max(np.abs(x), initial=0.0))
