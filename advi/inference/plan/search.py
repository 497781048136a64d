"""The search for a start: mode searches from many points, and a wider one where they disagree."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, together
from advi.inference.plan.maximise_elbo import Accepted, StageResult, fit_mean_fields, ignore
from advi.inference.plan.mode_search import Climb, climb, highest
from advi.inference.plan.start import Start, ascend, basins, best_first, select, share_at_best
from advi.model.density import Density
from advi.variational.draws import even_draws
from advi.variational.gaussian import MANY, Gaussian, Structure

# Random points in two boxes are screened by their log density, and the best of each are climbed
# from: most optima lie in the small box, some only in the large one.
SCREENED, SCREENED_ELEMENTS = 32, 2**23  # of each box; points times dimension
NUM_CLIMBS = 8
NUM_STARTS = 3  # climbs for which a scale is chosen
START_RADIUS, WIDE_RADIUS = 2.0, 6.0
UNSCREENED, UNSCREENED_RADII = 10, (6.0, 10.0)  # further points of each box to climb from,
UNSCREENED_DIMS = 64  # in more than few dimensions, up to this
MAX_DEFICIT_NATS = 20.0  # a start is dropped if both its log density and its ELBO are lower by this
SAME_START_SDS = 2.0  # starts that are nearer count as one optimum
# In few dimensions these climbs suffice. In more, the result is ambiguous if fewer of the climbs
# from the large box end at the best optimum, and the search goes on, the longer the more
# dimensions there are.
FEW_DIMS, MIN_AGREEING = 10, 7
WIDER_RADII = (2.0, 6.0)
WIDER_PER_DIM, MAX_WIDER = 8, 128  # points to climb from
WIDER_ROUNDS = ((8, 0.25), (30, 0.25), (100, 1.0))  # evaluations of a round, share that goes on
ASCENTS_PER_DIM, MAX_ASCENTS, ASCENT_SD = 2, 30, 0.1  # from random points
ASCENT_DRAWS, ASCENT_EVALS = 4, 120
# Points times dimension of all climbs, and of all ascents: in many dimensions a search costs as
# much as the fit, and a few points tell as much as many.
MAX_ELEMENTS, ASCENT_ELEMENTS = 2**16, 2**14
SCREEN_DRAWS, SCREEN_EVALS = 32, 60  # of the best of these, and the best start beside them
LAST_RADII = (0.1, 0.5, 1.0, 2.0, 6.0, 20.0)  # boxes of the last search for a finite value
LAST_POINTS = 50  # in each of these boxes


Inspect = Callable[[Floats, Floats, Floats], None]  # points, log densities, gradients


class Found(NamedTuple):
    """The result of a search."""

    starts: list[StageResult]  # the best first
    ambiguous: bool  # whether climbs disagreed, so that none may be near an optimum


class Search(NamedTuple):
    """A search for a start."""

    center: Floats  # (D,) the first point
    candidates: Floats  # (n, D) further points to try
    shapes: Sequence[tuple[int, ...]]  # of the latents on the real scale
    structure: Structure
    rng: np.random.Generator
    eps: float  # machine epsilon of the log density
    inspect: Inspect | None = None  # called with the first random points
    show: Accepted = ignore  # called with Gaussians on the way
    farthest: float = LAST_RADII[-1]  # largest radius of the last search for a finite value

    def run(self) -> Stage[Found]:
        """Return the starts that may win, the best first; none if no point was finite."""
        dim = len(self.center)
        alone = dim > ASCENT_ELEMENTS and not len(self.candidates)  # climbs are few and dear
        ascended = (yield from self._ascended(alone)) if dim > MANY else []
        if ascended and alone:
            return Found([s.result for s in ascended], ambiguous=False)
        climbs, wide = yield from self._climbs()
        found = yield from basins(climbs, NUM_STARTS)
        more = dim - FEW_DIMS
        agreeing = MIN_AGREEING / NUM_CLIMBS
        ambiguous = len(found) > 1 and more > 0 and share_at_best(found[0], wide) < agreeing
        if ambiguous:
            wide = yield from self._wider(min(WIDER_PER_DIM * more, MAX_WIDER))
            found = yield from basins(climbs + wide, NUM_STARTS)
        scaled = best_first(ascended + (yield from self._scaled(found)))
        if scaled:
            self.show(scaled[0].gaussian, scaled[0].elbo)
        starts = [s.result for s in _plausible(scaled)]
        if ambiguous and (len(starts) > 1 or share_at_best(found[0], wide) < 0.5):
            fits = yield from self._ascents(scaled, min(ASCENTS_PER_DIM * more, MAX_ASCENTS))
            screened = yield from self._screened(fits + starts[:1])
            return Found(screened or starts, ambiguous)
        return Found(starts, ambiguous)

    def again(self) -> Stage[list[StageResult]]:
        """Return other starts, the best first, where those of a first search have failed."""
        climbs = yield from self._wider(MAX_WIDER)
        scaled = yield from self._scaled((yield from basins(climbs, NUM_STARTS)))
        ascended = yield from self._ascents(scaled, MAX_ASCENTS)
        return (yield from self._screened(ascended))

    def optima(self, num: int, points: Floats) -> Stage[list[Start]]:
        """Return the starts at up to `num` optima, of climbs from further points (n, D) too."""
        climbs, _ = yield from self._climbs()
        climbs += yield from self._wider(MAX_WIDER)
        climbs += yield from climb(points, self.center, self.eps)
        starts = yield from self._scaled((yield from basins(climbs, num)))
        return _plausible(starts) if starts else []

    def _scaled(self, found: list[list[Climb]]) -> Stage[list[Start]]:
        """Choose a scale for the best climb to each optimum; return the starts, the best first."""
        rngs = self.rng.spawn(len(found))
        starts = yield from together(
            *(select(group[0], self.structure, g) for group, g in zip(found, rngs, strict=True))
        )
        return best_first(starts)

    def _ascended(self, first: bool) -> Stage[list[Start]]:
        """Return the end of an ascent of the ELBO, `first` of all; none if no value is finite."""
        if first and self.inspect is not None:
            points = np.concatenate(self._boxes(self._num_screened))
            self.inspect(points, *(yield points))
        start = yield from ascend(self.center, self.structure, self.rng, self.eps, self.show)
        return best_first([start])

    def _climbs(self) -> Stage[tuple[list[Climb], list[Climb]]]:
        """Climb from the best points of both boxes; return all climbs, and those of the large."""
        dim = len(self.center)
        screened, num = self._num_screened, _fitting(MAX_ELEMENTS // 2, dim, 1, NUM_CLIMBS)
        near, wide = self._boxes(screened)
        points = np.concatenate([near, wide, self.candidates])
        log_p, gradients = yield points
        if self.inspect is not None:
            self.inspect(points, log_p, gradients)
        of_near, of_wide, given = np.split(log_p, [screened, 2 * screened])
        near, wide = near[highest(of_near, num)], wide[highest(of_wide, num)]
        given = self.candidates[highest(given, num)]
        points = np.concatenate([self.center[None], near, wide, given, self._unscreened()])
        climbs = yield from climb(points, self.center, self.eps)
        if not any(c.path for c in climbs):
            points = yield from self.finite_points()
            if len(points):
                climbs = yield from climb(points, points[0], self.eps)
        return climbs, climbs[1 + len(near) : 1 + len(near) + len(wide)]

    def _boxes(self, num: int) -> list[Floats]:
        """Return random points (num, D) of the small box and of the large."""
        size = num, len(self.center)
        return [self.center + self.rng.uniform(-r, r, size) for r in (START_RADIUS, WIDE_RADIUS)]

    def _unscreened(self) -> Floats:
        """Return random points of two large boxes, high or not, in a middling number of dimensions.

        An optimum whose basin is small is missed where all climbs begin at high points. They are
        drawn apart, so that all other draws are as they were.
        """
        dim = len(self.center)
        apart = np.random.Generator(self.rng.bit_generator.jumped())  # type: ignore[attr-defined]
        num = UNSCREENED if FEW_DIMS < dim <= UNSCREENED_DIMS else 0
        boxes = [apart.uniform(-radius, radius, (num, dim)) for radius in UNSCREENED_RADII]
        return self.center + np.concatenate(boxes)

    def finite_points(self) -> Stage[Floats]:
        """Return the highest finite points (n, D) of many in smaller and larger boxes."""
        points = np.concatenate([self._scattered(self._num_last, r) for r in self._last_radii])
        log_p, gradients = yield points
        finite = np.isfinite(log_p) & np.isfinite(gradients).all(1)
        best = highest(np.where(finite, log_p, -np.inf), min(NUM_CLIMBS, int(finite.sum())))
        return points[best]

    @property
    def _num_screened(self) -> int:
        return _fitting(SCREENED_ELEMENTS, len(self.center), NUM_CLIMBS, SCREENED)

    @property
    def _num_last(self) -> int:
        return _fitting(SCREENED_ELEMENTS, len(self.center), NUM_CLIMBS, LAST_POINTS)

    @property
    def _last_radii(self) -> list[float]:
        return [radius for radius in LAST_RADII if radius <= self.farthest]

    @property
    def tried(self) -> str:
        """The points of the search, in words."""
        num = 2 * self._num_screened + self._num_last * len(self._last_radii)
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
        """Return random points around the center, (num, D), some with entries that are equal.

        Entries along an axis of a latent are often exchangeable, such as those of groups, and then
        a point with independent entries is far less likely.
        """
        points = []
        for k in range(num):
            parts = []
            for shape in self.shapes:
                equal = np.zeros(len(shape), bool)
                if k % 3 == 1:
                    equal = np.arange(len(shape)) < max(1, len(shape) - 1)
                elif k % 3 == 2:
                    equal = self.rng.random(len(shape)) < 0.5
                drawn = self.rng.uniform(-radius, radius, np.where(equal, 1, shape).astype(int))
                parts.append(np.broadcast_to(drawn, shape).ravel())
            points.append(np.concatenate(parts))
        return self.center + np.stack(points)

    def _ascents(self, scaled: list[Start], num: int) -> Stage[list[StageResult]]:
        """Climb the ELBO on a few draws instead: it has no poles and a slope on plateaus."""
        structure = self.structure.uncoupled()
        most = max(ASCENT_ELEMENTS // len(self.center), 1)
        num = min(num, most)
        starts = [s.gaussian for s in scaled[:most]]
        starts += [Gaussian.diagonal(x, ASCENT_SD) for x in self._scattered(num, WIDE_RADIUS)]
        E = structure.fixed_draws(self.rng, ASCENT_DRAWS)
        fits = yield from fit_mean_fields(starts, E, structure, self.eps, ASCENT_EVALS)
        fits = [f for f in fits if f.elbo >= fits[0].elbo - MAX_DEFICIT_NATS]
        return _distinct(fits)[: NUM_STARTS - 1]

    def _screened(self, starts: list[StageResult]) -> Stage[list[StageResult]]:
        """Return short mean-field fits from the starts on common draws, the best first."""
        structure = self.structure.uncoupled()
        E = structure.fixed_draws(self.rng, even_draws(SCREEN_DRAWS, len(self.center)))
        gaussians = [s.gaussian for s in starts]
        fits = yield from fit_mean_fields(
            gaussians, E, structure, self.eps, SCREEN_EVALS, self.show
        )
        return _distinct(fits)


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


def _fitting(elements: int, dim: int, least: int, most: int) -> int:
    """Return a number of points that hold about as many elements."""
    return max(least, min(most, elements // max(dim, 1)))


def _distinct(fits: list[StageResult]) -> list[StageResult]:
    """Return the fits, the best first, without those that are near a better one."""
    kept: list[StageResult] = []
    for f in fits:
        if is_apart(f.gaussian, [k.gaussian for k in kept]):
            kept.append(f)
    return kept


def is_apart(q: Gaussian, others: Sequence[Gaussian]) -> bool:
    """Return whether a mean differs from all others, in their marginal sds."""
    distances = (np.abs(q.loc - other.loc) / other.sds for other in others)
    return all(distance.max() > SAME_START_SDS for distance in distances)


def _plausible(starts: list[Start]) -> list[Start]:
    """Return the distinct starts that are high enough, the best ELBO first."""
    kept: list[Start] = []
    for s in starts:
        # by the ELBO too: nats of the log density may be lost in rounding
        high = (
            s.log_p >= max(s.log_p for s in starts) - MAX_DEFICIT_NATS
            or s.elbo >= starts[0].elbo - MAX_DEFICIT_NATS
        )
        if high and is_apart(s.gaussian, [k.gaussian for k in kept]):
            kept.append(s)
    return kept
