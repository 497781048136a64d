"""When a stochastic fit has settled: two windows of its course are compared."""

import math

import numpy as np
from numpy.typing import NDArray

from advi.gaussian import Gaussian

Floats = NDArray[np.float64]

FIRST_CHECK = 1024  # steps; then at every power of two
MAX_SHIFT = 0.05  # sds that a mean may differ between the windows, and log sds a scale may
RISE_ERRORS = 2.0  # standard errors of the ELBO's rise that count as still rising
MIN_BATCHES = 8


def due(step: int) -> bool:
    """Return whether the windows end at this step: a power of two, late enough."""
    return step >= FIRST_CHECK and step & (step - 1) == 0


def settled(older: Gaussian, newer: Gaussian, elbos: Floats) -> bool:
    """Return whether a fit has settled after ``step = len(elbos)`` steps, a power of two.

    The averages over steps [step / 4, step / 2) and [step / 2, step) must agree, the means to a
    fraction of an sd and the scales to the same in logs, and the ELBO must not rise between them
    by more than its noise. The windows double, so that a slow drift is the easier to see the
    longer it lasts; noise alone, however large, does not keep a fit from settling, and a rise
    hidden by noise is one that the parameters do not show either.

    Parameters
    ----------
    older, newer
        Averages of the two windows.
    elbos
        (step,) ELBO of every step, nats; higher is better. Steps that are not finite are skipped.
    """
    return agree(older, newer) and not rising(elbos)


def agree(older: Gaussian, newer: Gaussian) -> bool:
    """Return whether two Gaussians have the same means and marginal sds, within `MAX_SHIFT`."""
    live = newer.sds > 0  # a point has no scale to measure by
    shift = np.abs(newer.loc - older.loc)[live] / newer.sds[live]
    stretch = np.abs(np.log(newer.sds[live] / older.sds[live]))
    return bool(np.all(shift <= MAX_SHIFT) and np.all(stretch <= MAX_SHIFT))


def rising(elbos: Floats) -> bool:
    """Return whether the last half of a course lies above the quarter before it, beyond noise."""
    step = len(elbos)
    older, newer = elbos[step // 4 : step // 2], elbos[step // 2 :]
    older, newer = older[np.isfinite(older)], newer[np.isfinite(newer)]
    if len(older) < MIN_BATCHES**2 or len(newer) < MIN_BATCHES**2:
        return True  # too few finite steps to tell
    rise = newer.mean() - older.mean()
    error = math.hypot(_standard_error(older), _standard_error(newer))
    return bool(rise > RISE_ERRORS * error)


def _standard_error(values: Floats) -> float:
    """Return the standard error of a correlated series' mean, by batch means (Geyer 1992)."""
    num = max(MIN_BATCHES, int(math.sqrt(len(values))))
    means = np.array([batch.mean() for batch in np.array_split(values, num)])
    return float(means.std(ddof=1) / math.sqrt(num))
