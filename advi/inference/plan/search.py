"""The search for a start: climbs from many points, and where they disagree a wider one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, together
from advi.inference.plan.charts import DiagonalChart
from advi.inference.plan.maximise_elbo import StageResult, maximise_elbo
from advi.inference.plan.mode_search import Climb, climb
from advi.inference.plan.start import Start, basins, select
from advi.model.density import Density
from advi.variational.gaussian import Gaussian, Structure

# Random points are screened by their log density in two boxes, and the best of each are climbed
# from: the small one is where optima usually are, the large one is for those that hide.
SCREENED = 32
NUM_CLIMBS = 8
NUM_STARTS = 3  # climbs that a scale is chosen for
START_RADIUS, WIDE_RADIUS = 2.0, 6.0
HOPELESS_NATS = 20.0  # a start so much lower, both in height and in ELBO, is given up
SAME_START_SDS = 2.0  # climbs that end nearer than this have found one optimum
# In few dimensions these climbs leave little to find. In more, the optimum found is doubted where
# fewer of the climbs from the large box come to it, and the search goes on with more the more
# dimensions there are.
FEW_DIMS, WITNESSES, SAME_HEIGHT_NATS = 10, 7, 2.0
WIDER_RADII = (2.0, 6.0)
WIDER_PER_DIM, MAX_WIDER = 8, 128  # points to climb from
WIDER_ROUNDS = ((8, 0.25), (30, 0.25), (100, 1.0))  # evaluations of each, and what share goes on
ASCENTS_PER_DIM, MAX_ASCENTS, ASCENT_SD = 2, 30, 0.1  # from random points
ASCENT_DRAWS, ASCENT_EVALS = 4, 120
MAX_ELEMENTS = 2**20  # memory cap of either: points times dimension
RACE_DRAWS, RACE_EVALS = 32, 60  # of the best of these, and the best start beside them
LAST_RADII = (0.1, 0.5, 1.0, 2.0, 6.0, 20.0)  # where else a finite value is looked for
LAST_POINTS = 50  # in each of these boxes


Look = Callable[[Floats, Floats, Floats], None]


class Found(NamedTuple):
    """What a search found."""

    starts: list[StageResult]  # the best first
    doubted: bool  # whether climbs disagreed, so that none may be near an optimum


class Search(NamedTuple):
    """What a search for a start needs to know.

    Attributes
    ----------
    center
        (D,) the point to begin at.
    candidates
        (n, D) further points to try.
    shapes
        Shapes of the latents on the real scale, in the order of their coordinates.
    structure
        Which coordinates have noise.
    rng
        Generator of all draws.
    eps
        Machine epsilon of the log density.
    look
        Called with the first random points and the log densities and gradients there, or nothing.
    farthest
        How far from the center a finite value is looked for at the last.
    """

    center: Floats
    candidates: Floats
    shapes: Sequence[tuple[int, ...]]
    structure: Structure
    rng: np.random.Generator
    eps: float
    look: Look | None = None
    farthest: float = LAST_RADII[-1]

    def run(self) -> Stage[Found]:
        """Return the starts that may win, the best first; none if no point was finite."""
        climbs, wide = yield from self._climbs()
        found = yield from basins(climbs, NUM_STARTS)
        more = len(self.center) - FEW_DIMS
        doubted = len(found) > 1 and more > 0 and _share(found[0], wide) < WITNESSES / NUM_CLIMBS
        if doubted:
            wide = yield from self._wider(min(WIDER_PER_DIM * more, MAX_WIDER))
            found = yield from basins(climbs + wide, NUM_STARTS)
        started = yield from self._started(found)
        hopeful = [StageResult(s.gaussian, s.elbo, "started", np.inf) for s in _hopeful(started)]
        if doubted and (len(hopeful) > 1 or _share(found[0], wide) < 0.5):
            ascended = yield from self._ascents(started, min(ASCENTS_PER_DIM * more, MAX_ASCENTS))
            raced = yield from self._raced(ascended + hopeful[:1])
            return Found(raced or hopeful, doubted)
        return Found(hopeful, doubted)

    def again(self) -> Stage[list[StageResult]]:
        """Return other starts, the best first, where those of a first search came to nothing."""
        climbs = yield from self._wider(MAX_WIDER)
        started = yield from self._started((yield from basins(climbs, NUM_STARTS)))
        ascended = yield from self._ascents(started, MAX_ASCENTS)
        return (yield from self._raced(ascended))

    def _started(self, found: list[list[Climb]]) -> Stage[list[Start]]:
        """Choose a scale for the best climb to each optimum; return the starts, the best first."""
        started = yield from together(
            *(
                select(group[0], self.structure, child)
                for group, child in zip(found, self.rng.spawn(len(found)), strict=True)
            )
        )
        return sorted((s for s in started if np.isfinite(s.elbo)), key=lambda s: -s.elbo)

    def _climbs(self) -> Stage[tuple[list[Climb], list[Climb]]]:
        """Climb from the best points of both boxes; return all climbs, and those of the large."""
        dim = len(self.center)
        near, wide = (
            self.center + self.rng.uniform(-radius, radius, (SCREENED, dim))
            for radius in (START_RADIUS, WIDE_RADIUS)
        )
        points = np.concatenate([near, wide, self.candidates])
        heights, gradients = yield points
        if self.look is not None:
            self.look(points, heights, gradients)
        of_near, of_wide, given = np.split(heights, [SCREENED, 2 * SCREENED])
        near, wide = near[_highest(of_near, NUM_CLIMBS)], wide[_highest(of_wide, NUM_CLIMBS)]
        given = self.candidates[_highest(given, NUM_CLIMBS)]
        climbs = yield from climb(
            np.concatenate([self.center[None], near, wide, given]), self.center, self.eps
        )
        if not any(c.path for c in climbs):
            points = yield from self.anywhere()
            if len(points):
                climbs = yield from climb(points, points[0], self.eps)
        return climbs, climbs[1 + len(near) : 1 + len(near) + len(wide)]

    def anywhere(self) -> Stage[Floats]:
        """Return the highest points (n, D) that are finite, of many in smaller and larger boxes."""
        points = np.concatenate(
            [self._scattered(LAST_POINTS, radius) for radius in self._last_radii]
        )
        heights, gradients = yield points
        finite = np.isfinite(heights) & np.isfinite(gradients).all(1)
        best = _highest(np.where(finite, heights, -np.inf), min(NUM_CLIMBS, int(finite.sum())))
        return points[best]

    @property
    def _last_radii(self) -> list[float]:
        return [radius for radius in LAST_RADII if radius <= self.farthest]

    @property
    def tried(self) -> str:
        """Where a finite value is looked for, in words."""
        num = 2 * SCREENED + LAST_POINTS * len(self._last_radii)
        given = f", {len(self.candidates)} candidates" if len(self.candidates) else ""
        farthest = self._last_radii[-1]
        return (
            f"{num} random points, up to {farthest:g} from the start in every coordinate on "
            f"the real scale{given}, and points half-way and nearer from the best of them"
        )

    def _wider(self, num: int) -> Stage[list[Climb]]:
        """Climb from many points, in rounds of which the best go on; return those of the last."""
        num = max(min(num, MAX_ELEMENTS // len(self.center)) // len(WIDER_RADII), 1)
        points = np.concatenate([self._scattered(num, radius) for radius in WIDER_RADII])
        climbs: list[Climb] = []
        for max_evals, share in WIDER_ROUNDS:
            climbs = yield from climb(points, self.center, self.eps, max_evals)
            climbs = sorted((c for c in climbs if c.path), key=lambda c: -c.log_p)
            if not climbs:
                break
            climbs = climbs[: max(1, round(share * len(climbs)))]
            points = np.stack([c.path[-1] for c in climbs])
        return climbs

    def _scattered(self, num: int, radius: float) -> Floats:
        """Return random points around the center, (num, D), some with entries that are alike.

        Entries along an axis of a latent are often exchangeable, as those of groups are, and then
        far less likely where they have nothing to do with each other.
        """
        points = []
        for k in range(num):
            parts = []
            for shape in self.shapes:
                alike = np.zeros(len(shape), bool)
                if k % 3 == 1:
                    alike = np.arange(len(shape)) < max(1, len(shape) - 1)
                elif k % 3 == 2:
                    alike = self.rng.random(len(shape)) < 0.5
                drawn = self.rng.uniform(-radius, radius, np.where(alike, 1, shape).astype(int))
                parts.append(np.broadcast_to(drawn, shape).ravel())
            points.append(np.concatenate(parts))
        return self.center + np.stack(points)

    def _ascents(self, started: list[Start], num: int) -> Stage[list[StageResult]]:
        """Climb the ELBO instead, on few draws: it knows no poles and sees across plateaus."""
        structure, dim = self.structure.uncoupled(), len(self.center)
        entrants = [s.gaussian for s in started]
        num = max(min(num, MAX_ELEMENTS // dim), 1)
        entrants += [Gaussian.diagonal(x, ASCENT_SD) for x in self._scattered(num, WIDE_RADIUS)]
        E = structure.fixed_draws(self.rng, ASCENT_DRAWS)
        ascended = yield from together(*(self._short_fit(q, E, ASCENT_EVALS) for q in entrants))
        fitted = sorted((f for f in ascended if np.isfinite(f.elbo)), key=lambda f: -f.elbo)
        fitted = [f for f in fitted if f.elbo >= fitted[0].elbo - HOPELESS_NATS]
        return _elsewhere(fitted)[: NUM_STARTS - 1]

    def _short_fit(self, q: Gaussian, E: Floats, max_evals: int) -> Stage[StageResult]:
        structure = self.structure.uncoupled()
        chart = DiagonalChart(E, structure)
        return maximise_elbo(q, chart, structure, self.eps, _ignore, max_evals)

    def _raced(self, entrants: list[StageResult]) -> Stage[list[StageResult]]:
        """Run a short mean-field stage of every entrant on common draws; return the best first."""
        structure = self.structure.uncoupled()
        E = structure.fixed_draws(self.rng, RACE_DRAWS)
        raced = yield from together(*(self._short_fit(e.gaussian, E, RACE_EVALS) for e in entrants))
        raced = [f for f in raced if np.isfinite(f.elbo)]
        return _elsewhere(sorted(raced, key=lambda f: -f.elbo))


def start_search(
    density: Density,
    structure: Structure,
    center: Floats,
    rng: np.random.Generator,
    candidates: Floats | None = None,
) -> Search:
    """Return the search for a start around a center (D,), with further candidates (n, D)."""
    if candidates is None:
        candidates = np.zeros((0, len(center)))
    shapes = [latent.unconstrained_shape for latent in density.model.latents.values()]
    eps = float(np.finfo(density.dtype).eps)
    search = Search(center, candidates, shapes, structure, rng, eps)
    # far out, such as where an equation is stiff, a loop until convergence may not end
    return search._replace(farthest=WIDE_RADIUS) if density.log_joint.open_ended else search


def _elsewhere(fits: list[StageResult]) -> list[StageResult]:
    """Return the fits, the best first, that are not where a better one is."""
    kept: list[StageResult] = []
    for f in fits:
        if all(distance(f.gaussian, k.gaussian).max() > SAME_START_SDS for k in kept):
            kept.append(f)
    return kept


def distance(a: Gaussian, b: Gaussian) -> Floats:
    """Return the differences of the means in the marginal sds of `b`, (D,)."""
    return np.abs(a.loc - b.loc) / b.sds


def _share(best: list[Climb], climbs: list[Climb]) -> float:
    """Return the share of climbs that came to the best optimum, or as high."""
    inside = {id(c) for c in best}
    same = [id(c) in inside or c.log_p > best[0].log_p - SAME_HEIGHT_NATS for c in climbs]
    return sum(same) / max(len(same), 1)


def _hopeful(started: list[Start]) -> list[Start]:
    """Return the starts, the best ELBO first, that are high enough, each elsewhere."""
    kept: list[Start] = []
    if not started:
        return kept
    top, elbo = max(s.log_p for s in started), started[0].elbo
    for s in started:
        # not below by so much: nats may be lost in the rounding of a height
        high = s.log_p >= top - HOPELESS_NATS or s.elbo >= elbo - HOPELESS_NATS
        if high and all(distance(s.gaussian, k.gaussian).max() > SAME_START_SDS for k in kept):
            kept.append(s)
    return kept


def _highest(heights: Floats, num: int) -> NDArray[np.int_]:
    finite = np.where(np.isfinite(heights), heights, -np.inf)
    return np.argsort(-finite, kind="stable")[:num]


def _ignore(gaussian: Gaussian, elbo: float) -> None:
    """Report nothing of a start that may not be taken."""
