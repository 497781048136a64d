"""The window over the turns of angles: at a mode before the plan starts, at its end after it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.mode_search import climb
from advi.inference.plan.refine import Refined
from advi.model.density import Density
from advi.transforms import wrapped
from advi.variational.gaussian import Gaussian

NUM_CLIMBS = 8
SAME_SDS = 2.0  # ends that are nearer than this are one optimum
MAX_WINDOWS = 5  # times that the window is moved


def start_at_mode(
    density: Density,
    first: Gaussian,
    rng: np.random.Generator,
    eps: float,
    run: Callable[..., list[Any]],
) -> Gaussian:
    """Return the start with angles at a mode, around which their window is placed.

    The mode is searched for without a window, so that it does not depend on where the angles are
    cut. `run` runs stages.
    """
    if not density.angles.any():
        return first
    density.lift_window()
    reach = np.where(density.angles, np.pi, 1.0)
    points = first.loc + rng.spawn(1)[0].uniform(-reach, reach, (NUM_CLIMBS, len(reach)))
    points[0] = first.loc
    [climbs] = run(climb(points, first.loc, eps))
    highest = max(climbs, key=lambda climbed: climbed.log_p)
    if highest.path:
        loc = np.where(density.angles, wrapped(highest.path[-1]), first.loc)
        first = first._replace(loc=loc)
    density.place_window(first.loc, first.sds)
    return first


def with_settled_window(
    density: Density, ended: Refined, refit: Callable[[Gaussian], Refined]
) -> Refined:
    """Return the end of the plan after refits under the window that suits each end."""
    for _ in range(MAX_WINDOWS):
        q = ended.fresh.gaussian
        if not density.place_window(q.loc, q.sds):
            break
        ended = refit(q)
    return ended


def distance(density: Density, a: Gaussian, b: Gaussian) -> Floats:
    """Return the differences of the means in sds of `b`, (D,), those of angles on the circle."""
    difference = a.loc - b.loc
    return np.abs(np.where(density.angles, wrapped(difference), difference)) / b.sds


def without_other_turns(density: Density, best: Refined, others: list[Refined]) -> list[Refined]:
    """Return the other ends, without those that equal a better one but for turns of angles."""
    if not density.angles.any():
        return others
    kept = [best]
    for end in sorted(others, key=lambda other: -windowed_elbo(density, other)):
        q = end.fresh.gaussian
        if all(distance(density, q, k.fresh.gaussian).max() > SAME_SDS for k in kept):
            kept.append(end)
    return kept[1:]


def windowed_elbo(density: Density, ended: Refined) -> float:
    """Return the held-out ELBO of an end in nats, under the window that suits it."""
    q = ended.fresh.gaussian
    return ended.fresh.elbo.value + density.window.gain(q.loc, q.sds)
