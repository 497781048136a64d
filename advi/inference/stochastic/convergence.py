"""Convergence of a stochastic fit, by two windows of its steps."""

import math
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.variational.gaussian import Gaussian

FIRST_CHECK = 1024  # steps; then at every power of two
MAX_DISTANCE = 0.05  # sds that a mean may differ between the windows, and log sds a scale may
MAX_CONTROLLED_DISTANCE = 0.03  # the same for the less noisy steps with a control variate
MAX_GROWTH = 1.2  # of that distance from one check to the next: a drift grows by 1.4 to 2
RISE_ERRORS = 2.0  # standard errors of the ELBO's rise that count as still rising
MIN_BATCHES = 8


def check_due(step: int) -> bool:
    """Return whether the windows end at this step: a power of two, late enough."""
    return step >= FIRST_CHECK and step & (step - 1) == 0


def has_converged(
    distance: float, previous: float | None, elbos: Floats, most: float = MAX_DISTANCE
) -> bool:
    """Return whether a fit has converged after ``step = len(elbos)`` steps, a power of two.

    The averages over the last half of the steps and over the quarter before it must agree to
    `most`, and their distance must not have grown since the `previous` check, None at the first: as
    the windows double, that of a drift grows, however slow it is, and that of noise shrinks. The
    ELBOs of the steps must not rise beyond their noise, unless the distance shrinks: then only the
    noise of the steps falls, as with a learning rate.
    """
    if previous is None or distance > most or distance > MAX_GROWTH * previous:
        return False
    return distance < previous or not rising(elbos)


class Distance(NamedTuple):
    """The distance of two Gaussians."""

    shift: float  # largest difference of their means, sds
    stretch: float  # largest difference of their log sds

    @property
    def most(self) -> float:
        return max(self)

    def __str__(self) -> str:
        if self.stretch > self.shift:
            return f"the sds changed by up to a factor {math.exp(min(self.stretch, 99)):.2g}"
        return f"the means drifted by up to {self.shift:.2g} sd"


def distance(older: Gaussian, newer: Gaussian) -> Distance:
    """Return the distance of two Gaussians; NaN if no coordinate has a scale."""
    random = newer.sds > 0
    if not random.any():
        return Distance(math.nan, math.nan)
    shift = np.abs(newer.loc - older.loc)[random] / newer.sds[random]
    stretch = np.abs(np.log(newer.sds[random] / older.sds[random]))
    return Distance(float(shift.max()), float(stretch.max()))


def distance_of_unread(num_rows: int, seen: int) -> float:
    """Return about how many sds the posterior of some of the rows is from that of all.

    Each is about its own sds from the truth, and that of some rows is wider.
    """
    return math.sqrt(num_rows / seen - 1)


def rising(elbos: Floats) -> bool:
    """Return whether the last half of a series lies above the quarter before it, beyond noise."""
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
