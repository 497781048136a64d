"""Searches for modes of the log density from several points at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.lbfgs import Measure, finite_start, minimise

MAX_EVALS = 100
STEP_CAP = 5.0
FIRST_STEP = 0.1  # along the gradient, whose size is unrelated to the distance
GAIN_WINDOW, GAIN_NATS = 5, 0.5  # a climb ends when its last 5 steps gain less than half a nat
MAX_TRIES = 10
# Points of a path that are kept: all, or in many dimensions some, evenly spaced.
PATH_ELEMENTS, MIN_PATH = 2**18, 12


class Climb(NamedTuple):
    """The path of a climb, and the log density in nats at its end; no path if none was finite."""

    path: list[Floats]  # (D,) each
    log_p: float


class _Path:
    """The points of a climb as they come: the first, the last, and up to `most` between."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._num = most, 1, 0
        self._kept: list[Floats] = []
        self._last: Floats | None = None

    def append(self, x: Floats) -> None:
        if self._num % self._every == 0:
            self._kept.append(x)
        if len(self._kept) > self._most:
            self._kept, self._every = self._kept[::2], 2 * self._every
        self._last, self._num = x, self._num + 1

    @property
    def points(self) -> list[Floats]:
        if self._last is None or self._last is self._kept[-1]:
            return self._kept
        return [*self._kept, self._last]


def climb(
    points: Floats, center: Floats, eps: float, max_evals: int = MAX_EVALS
) -> Stage[list[Climb]]:
    """Climb the log density from several points (n, D), by L-BFGS with a metric of ones.

    A point whose value is not finite is halved towards `center` (D,). `max_evals` counts the
    evaluations of each climb from its first finite point on; `eps` is the log density's epsilon.
    """

    def objective(points: Sequence[Floats]) -> Stage[tuple[Floats, Floats]]:
        log_p, gradients = yield np.stack(points)
        return -log_p, -gradients

    start = yield from finite_start(list(points), objective, lambda x: (x + center) / 2, MAX_TRIES)
    most = max(MIN_PATH, PATH_ELEMENTS // max(len(center), 1))
    paths = [_Path(most) for _ in points]
    ends = yield from minimise(
        start._replace(num_evals=1),
        objective,
        retract=lambda x, step: x + step,
        metric=np.ones_like,
        cap=STEP_CAP,
        first_cap=FIRST_STEP,
        max_evals=max_evals,
        done=_levelled_off,
        eps=eps,
        accepted=lambda k, x, _: paths[k].append(x),
    )
    log_p = [-end.value if end else -np.inf for end in ends]
    return [Climb(path.points, end) for path, end in zip(paths, log_p, strict=True)]


def _levelled_off(measure: Measure) -> bool:
    values = measure.values
    return len(values) > GAIN_WINDOW and values[-1 - GAIN_WINDOW] - values[-1] < GAIN_NATS


def highest(log_p: Floats, num: int) -> NDArray[np.int_]:
    """Return the indices of the highest of some log densities (n,), the best first."""
    finite = np.where(np.isfinite(log_p), log_p, -np.inf)
    return np.argsort(-finite, kind="stable")[:num]
