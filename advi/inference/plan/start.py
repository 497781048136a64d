"""The start of a fit: a point on the path of a climb, and the best diagonal scale there."""

from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.charts import DiagonalChart
from advi.inference.plan.maximise_elbo import Accepted, StageResult, maximise_in_rounds
from advi.inference.plan.mode_search import Climb
from advi.variational.gaussian import Gaussian, Structure

SCALES = (1.0, 0.1, 0.01, 0.001)
PATH_POINTS = 6
SHORTLIST = 3
SHORT_NATS = 1.0  # climbs stop this far below their optimum
SAME_LOG_P_NATS = 2.0  # climbs that end this near are as high
BETWEEN = (0.25, 0.5, 0.75)
SCREEN_DRAWS, SELECT_DRAWS = 4, 16
ASCENT_DRAWS, ASCENT_EVALS = 4, 300  # of a mean field of many coordinates
NEAR_RADIUS = 0.1
MAX_HALVINGS = 10
MAX_ELEMENTS = 2**22  # of the points of an evaluation


class Start(NamedTuple):
    """A first Gaussian and an estimate of its ELBO in nats; -inf where no value was finite."""

    gaussian: Gaussian
    elbo: float
    log_p: float  # at the end of the climb, nats

    @property
    def result(self) -> StageResult:
        return StageResult(self.gaussian, self.elbo, "started", np.inf)


def basins(climbs: list[Climb], num: int) -> Stage[list[list[Climb]]]:
    """Return the climbs to at most `num` optima, the highest optimum and climb first.

    Two ends belong to one optimum if no valley lies between them: on the line between them the log
    density nowhere falls below the lower end by more than a climb stops short.
    """
    waiting = sorted((c for c in climbs if c.path), key=lambda c: -c.log_p)
    found: list[list[Climb]] = []
    while waiting and len(found) < num:
        best, *waiting = waiting
        found.append([best])
        if not waiting:
            break
        ends = np.stack([c.path[-1] for c in waiting])
        between = [best.path[-1] + t * (ends - best.path[-1]) for t in BETWEEN]
        log_p, _ = yield np.concatenate(between)
        lowest = log_p.reshape(len(BETWEEN), -1).min(0)
        others, waiting = waiting, []
        for c, low in zip(others, lowest, strict=True):
            connected = low > min(c.log_p, best.log_p) - SHORT_NATS
            (found[-1] if connected else waiting).append(c)
    return found


def share_at_best(best: list[Climb], climbs: list[Climb]) -> float:
    """Return the share of climbs that ended at the best optimum, or as high."""
    at_best = {id(c) for c in best}
    same = [id(c) in at_best or c.log_p > best[0].log_p - SAME_LOG_P_NATS for c in climbs]
    return sum(same) / max(len(same), 1)


def select(climb: Climb, structure: Structure, rng: np.random.Generator) -> Stage[Start]:
    """Choose, by ELBO, a point of a climb and a diagonal scale.

    The mode alone is not enough: where the density is unbounded (centred hierarchies) the climb
    diverges, and the ELBO selects an earlier point.
    """
    path = climb.path
    chosen = np.unique(np.linspace(0, len(path) - 1, PATH_POINTS).round().astype(int))
    factor = 1.0
    for _ in range(MAX_HALVINGS):
        candidates = [Gaussian.diagonal(path[k], factor * s) for k in chosen for s in SCALES]
        elbos, _ = yield from _elbos(candidates, structure, SCREEN_DRAWS, rng)
        if np.any(np.isfinite(elbos)):
            break
        factor *= SCALES[-1]
    else:
        return Start(Gaussian.diagonal(path[0], factor), -np.inf, climb.log_p)
    candidates = [candidates[k] for k in np.argsort(elbos)[::-1][:SHORTLIST]]
    elbos, curvatures = yield from _elbos(candidates, structure, SELECT_DRAWS, rng)
    best = int(np.argmax(elbos))
    gaussian, elbo = candidates[best], float(elbos[best])
    before = gaussian.sds
    with np.errstate(divide="ignore"):
        sd = np.clip(1 / np.sqrt(np.abs(curvatures[best])), before / 100, before * 100)
    tuned = Gaussian.diagonal(gaussian.loc, np.where(structure.random, sd, before))
    elbos, _ = yield from _elbos([tuned], structure, SELECT_DRAWS, rng)
    if elbos[0] > elbo:
        gaussian, elbo = tuned, float(elbos[0])
    return Start(gaussian, elbo, climb.log_p)


def ascend(
    x: Floats, structure: Structure, rng: np.random.Generator, eps: float, accepted: Accepted
) -> Stage[Start]:
    """Climb the ELBO of a mean field on few draws from near a point (D,), at the best scale there.

    A climb of the log density of many coordinates ends at a pole, such as where the effects of a
    hierarchy are equal and their scale vanishes, and no point of its path may be far enough from
    it: the ELBO has no pole, but near that of the density so slight a slope that hundreds of steps
    do not lead out. It begins off the point itself, where a slope may vanish by symmetry.
    """
    x = x + rng.uniform(-NEAR_RADIUS, NEAR_RADIUS, len(x))
    [log_p], _ = yield x[None]
    start = yield from select(Climb([x], float(log_p)), structure, rng)
    if not np.isfinite(start.elbo):
        return start
    structure = structure.uncoupled()
    chart = DiagonalChart(structure.fixed_draws(rng, ASCENT_DRAWS), structure)
    end = yield from maximise_in_rounds(
        start.gaussian, chart, structure, eps, accepted, ASCENT_EVALS
    )
    [elbo], _ = yield from _elbos([end.gaussian], structure, SELECT_DRAWS, rng)
    if not elbo > start.elbo:  # its few draws may be overfitted
        return start
    return start._replace(gaussian=end.gaussian, elbo=float(elbo))


def best_first(starts: list[Start]) -> list[Start]:
    """Return the starts of finite ELBO, the best first."""
    return sorted((s for s in starts if np.isfinite(s.elbo)), key=lambda s: -s.elbo)


def _elbos(
    gaussians: list[Gaussian], structure: Structure, num: int, rng: np.random.Generator
) -> Stage[tuple[Floats, list[Floats]]]:
    """Return every Gaussian's ELBO (n,), and the diagonal curvature of -log p there (D,).

    The curvature is Stein's identity, -E[g_k e_k] / s_k for antithetic draws e.
    """
    E = structure.fixed_draws(rng, num)
    elbos, curvatures, together = [], [], max(1, MAX_ELEMENTS // E.size)
    for first in range(0, len(gaussians), together):
        some = gaussians[first : first + together]
        values, gradients = yield np.concatenate([q.points(E) for q in some])
        for k, q in enumerate(some):
            part = slice(k * len(E), (k + 1) * len(E))
            per_draw = structure.elbos(values[part], E, q)
            elbos.append(per_draw.mean() if np.all(np.isfinite(per_draw)) else -np.inf)
            curvatures.append(-(gradients[part] * E).mean(0) / q.sds)
    return np.array(elbos), curvatures
