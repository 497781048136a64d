"""The turns of angles: weighed about a mode before the plan starts, and about its end after it."""

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
SAME_SDS = 2.0  # ends of paths that are nearer than this are one optimum
MAX_WINDOWS = 5  # times that the turns are weighed anew, at most


def on_their_turns(
    density: Density,
    first: Gaussian,
    rng: np.random.Generator,
    eps: float,
    run: Callable[..., list[Any]],
) -> Gaussian:
    """Return where to start with angles at a mode, about which their turns are weighed.

    While their mode is looked for all turns count alike, so that it does not depend on where the
    angles are cut.

    Parameters
    ----------
    density
        Log density on R^D.
    first
        Where to start.
    rng
        Generator of the points to climb from.
    eps
        Machine epsilon of the log density.
    run
        Runs stages.
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


def at_home(density: Density, ended: Refined, carry: Callable[[Gaussian], Refined]) -> Refined:
    """Return the end of a path where the turns of angles are weighed as suits it.

    Parameters
    ----------
    density
        Log density on R^D.
    ended
        Where the path ended.
    carry
        Takes a Gaussian that is a fit to the end of the plan.
    """
    for _ in range(MAX_WINDOWS):
        q = ended.fresh.gaussian
        if not density.place_window(q.loc, q.sds):
            break
        ended = carry(q)
    return ended


def distance(density: Density, a: Gaussian, b: Gaussian) -> Floats:
    """Return the differences of the means in sds of `b`, (D,), those of angles on the circle."""
    difference = a.loc - b.loc
    return np.abs(np.where(density.angles, wrapped(difference), difference)) / b.sds


def elsewhere(density: Density, best: Refined, others: list[Refined]) -> list[Refined]:
    """Return the ends that are not those of better ones on another turn, the best first."""
    if not density.angles.any():
        return others
    kept = [best]
    for path in sorted(others, key=lambda p: -height(density, p)):
        q = path.fresh.gaussian
        if all(distance(density, q, k.fresh.gaussian).max() > SAME_SDS for k in kept):
            kept.append(path)
    return kept[1:]


def height(density: Density, ended: Refined) -> float:
    """Return the ELBO of a path's end in nats, turns of angles weighed as suits it."""
    q = ended.fresh.gaussian
    return ended.fresh.elbo.value + density.window.gain(q.loc, q.sds)
