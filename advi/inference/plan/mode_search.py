"""Climbs of the log density from several points at once: where a fit may begin."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.lbfgs import Measure, finite_start, minimise

MAX_EVALS = 100
STEP_CAP = 5.0
FIRST_STEP = 0.1  # along the gradient, whose size says nothing of the distance to go
GAIN_WINDOW, GAIN_NATS = 5, 0.5  # a climb ends when its last 5 steps gain less than half a nat
MAX_TRIES = 10


class Climb(NamedTuple):
    """The path of a climb, and the log density in nats at its end; no path if none was finite."""

    path: list[Floats]  # (D,) each
    log_p: float


def climb(
    points: Floats, center: Floats, eps: float, max_evals: int = MAX_EVALS
) -> Stage[list[Climb]]:
    """Climb the log density from several points, by L-BFGS with a metric of ones.

    Parameters
    ----------
    points
        (n, D) where to start, or from nearer to `center` until the value there is finite.
    center
        (D,) the point to fall back to.
    eps
        Machine epsilon of the log density.
    max_evals
        Evaluations of each climb, from the first point that is finite on.
    """

    def objective(points: Sequence[Floats]) -> Stage[tuple[Floats, Floats]]:
        log_p, gradients = yield np.stack(points)
        return -log_p, -gradients

    start = yield from finite_start(list(points), objective, lambda x: (x + center) / 2, MAX_TRIES)
    paths: list[list[Floats]] = [[] for _ in points]
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
    return [
        Climb(path, -end.value if end else -np.inf) for path, end in zip(paths, ends, strict=True)
    ]


def _levelled_off(measure: Measure) -> bool:
    values = measure.values
    return len(values) > GAIN_WINDOW and values[-1 - GAIN_WINDOW] - values[-1] < GAIN_NATS
