"""Climbs of the log density from several points at once, by L-BFGS: where a fit may begin."""

from typing import NamedTuple

import numpy as np

from advi.inference.plan.lbfgs import ARMIJO, MIN_SHRINKAGE, rounding, shortened
from advi.inference.plan.lockstep import Stage
from advi.inference.plan.secants import Secants
from advi.variational.gaussian import Floats

MAX_EVALS = 100
STEP_CAP = 5.0
FIRST_STEP = 0.1  # along the gradient, whose size says nothing of the distance to go
GAIN_WINDOW, GAIN_NATS = 5, 0.5  # a climb ends when its last 5 steps gain less than half a nat
MAX_HALVINGS = 10


class Climbed(NamedTuple):
    """The path of a climb, and the log density in nats at its end; no path if none was finite."""

    path: list[Floats]  # (D,) each
    top: float


def climb(
    places: Floats, center: Floats, eps: float, max_evals: int = MAX_EVALS
) -> Stage[list[Climbed]]:
    """Climb the log density from several places.

    Each climb is a minimisation as `lbfgs.minimise` does it, with a metric of ones; all take their
    steps together, as arrays with a row each.

    Parameters
    ----------
    places
        (n, D) where to start, or from nearer to `center` until the value there is finite.
    center
        (D,) the point to fall back to.
    eps
        Machine epsilon of the log density.
    max_evals
        Evaluations, of every place that is still climbed from.
    """
    x, value, g = yield from _finite_starts(places, center)
    climbing = np.isfinite(value)
    paths = [[place] if known else [] for place, known in zip(x.copy(), climbing, strict=True)]
    recent = np.full((len(x), GAIN_WINDOW + 1), np.inf)  # values of the last steps, the newest last
    recent[:, -1] = value
    secants = Secants(*x.shape)
    p, (t, slope, shortest) = np.zeros_like(x), np.zeros((3, len(x)))
    turning = climbing
    for _ in range(max_evals - 1):
        if turning.any():
            ahead = -secants.times(g, np.ones(1))
            uphill = np.flatnonzero(turning & ~(np.vecdot(g, ahead) < 0))
            if len(uphill):
                secants.forget(uphill)
                ahead[uphill] = -g[uphill]
            p = np.where(turning[:, None], ahead, p)
            slope = np.vecdot(g, p)
            longest = np.where(secants.count > 0, STEP_CAP, FIRST_STEP)
            whole = longest / np.maximum(longest, np.abs(p).max(1))
            t, shortest = np.where(turning, [whole, MIN_SHRINKAGE * whole], [t, shortest])
        a = np.flatnonzero(climbing)
        if not len(a):
            break
        trial = x[a] + t[a, None] * p[a]
        heights, gradients = yield trial
        trial_value, trial_g = -heights, -gradients
        finite = np.isfinite(trial_value) & np.isfinite(trial_g).all(1)
        enough = value[a] + ARMIJO * t[a] * slope[a] + rounding(value[a], eps)
        lower = finite & (trial_value <= enough)

        went = a[lower]
        secants.add(went, trial[lower] - x[went], trial_g[lower] - g[went], eps)
        x[went], value[went], g[went] = trial[lower], trial_value[lower], trial_g[lower]
        for k, place in zip(went, trial[lower], strict=True):
            paths[k].append(place)
        recent[went, :-1], recent[went, -1] = recent[went, 1:], value[went]
        ended = went[recent[went, 0] - value[went] < GAIN_NATS]

        back = a[~lower]
        t[back] = shortened(t[back], slope[back], (trial_value - value[a])[~lower], finite[~lower])
        stuck = back[t[back] < shortest[back]]
        climbing[ended] = climbing[stuck[secants.count[stuck] == 0]] = False
        if len(stuck):
            secants.forget(stuck)  # a stale history can point uphill: once more along the gradient
        turning = np.zeros_like(climbing)
        turning[went] = turning[stuck] = True
        turning &= climbing
    return [Climbed(path, -v if path else -np.inf) for path, v in zip(paths, value, strict=True)]


def _finite_starts(places: Floats, center: Floats) -> Stage[tuple[Floats, Floats, Floats]]:
    """Return places, minus the log density there and its gradients; inf where none is finite."""
    x, value, g = places.copy(), np.full(len(places), np.inf), np.zeros_like(places)
    for _ in range(MAX_HALVINGS):
        missing = np.flatnonzero(~np.isfinite(value))
        if not len(missing):
            break
        heights, gradients = yield x[missing]
        finite = np.isfinite(heights) & np.isfinite(gradients).all(1)
        found, lost = missing[finite], missing[~finite]
        value[found], g[found] = -heights[finite], -gradients[finite]
        x[lost] = (x[lost] + center) / 2
    return x, value, g
