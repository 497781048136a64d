"""The automatic plan: a search for a start, a race, and the best of it to the end."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate, Progress, Status
from advi.core.types import Floats
from advi.inference.plan.angles import at_home, distance, elsewhere, height, on_their_turns
from advi.inference.plan.batched_calls import Stage, run_batched, together
from advi.inference.plan.charts import DiagonalChart
from advi.inference.plan.ending import Ending
from advi.inference.plan.maximise_elbo import StageResult, maximise_elbo
from advi.inference.plan.refine import Refined, fresh_elbo, refine
from advi.inference.plan.runner import Runner, StopError
from advi.inference.plan.search import Look, start_search
from advi.model.density import Density
from advi.posterior.record import OtherMode
from advi.variational.draws import MIN_DRAWS, even_draws
from advi.variational.gaussian import Gaussian, Structure

FRESH_DRAWS = 256
RACE_EVALS = 20  # mean-field evaluations of every start that may still win
SAME_SDS = 0.5  # fits whose means are nearer than this have found one optimum
RESTART_KEY = 2**31  # of a restart's draws, far from the numbers that others get
# Where climbs disagree the plan is carried through until its two best attempts end so near.
MAX_ATTEMPTS, SAME_HEIGHT_NATS = 4, 0.5
SECOND_NATS = 3.0  # a start this close to the winner, elsewhere, is fitted too


class PlanResult(NamedTuple):
    """What the plan returns."""

    gaussian: Gaussian
    elbo: Estimate
    status: Status
    trace: list[Progress]
    held_out_gap: float  # nats: ELBO on the fixed draws less that on fresh ones, before polish
    other_modes: tuple[OtherMode, ...]


class NotFiniteError(ValueError):
    """No starting point had a finite log density; `tried` says which there were."""

    def __init__(self, tried: str) -> None:
        super().__init__(f"no finite log density at {tried}")
        self.tried = tried


def run_plan(
    density: Density,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,
    *,
    warm: bool,
    restarts: int = 1,
    max_evals: int | None = None,
    callback: Callable[[Progress], object] | None = None,
    look: Look | None = None,
    candidates: Callable[[], Floats | None] | None = None,
) -> PlanResult:
    """Fit a Gaussian to a density without any setting.

    Parameters
    ----------
    density
        Log density on R^D.
    structure
        Which coordinates have noise and which are coupled.
    rng
        Generator of all draws.
    first
        Where to start: the mean of the first start, and with `warm` the whole Gaussian.
    warm
        Begin at `first` instead of searching for a start.
    restarts
        How often the plan is carried through, each time with draws of its own; the best ELBO is
        kept. With `warm` it is once.
    max_evals
        Budget of batched evaluations; None for none.
    callback
        Called with a `Progress` at every accepted step; a true result stops the fit.
    look
        Called with random points about the start and the log densities and gradients there; what
        it raises ends the fit.
    candidates
        Returns further points (n, D) that a start is looked for at, on the real scale, or None;
        called where a start is looked for.

    Returns
    -------
    PlanResult

    Raises
    ------
    NotFiniteError
        If no start has a finite log density and gradient.
    """
    fresh_draws = structure.antithetic_draws(rng, FRESH_DRAWS)
    plan = _Plan(Runner(density, first, max_evals, callback), structure, fresh_draws, look)
    runner, ended, gap, other_modes, further = plan.runner, None, 0.0, (), None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            if warm:
                density.place_window(first.loc, first.sds)
                [paths] = runner.run(plan.carry([first], rng, shown=True, warm=True))
            else:
                if candidates is not None:
                    further = candidates()
                first = on_their_turns(density, first, rng, plan.eps, runner.run)
                rngs = [rng, *(_apart(rng, k) for k in range(1, restarts))]
                attempts = [plan.attempt(first, further, own, shown=own is rng) for own in rngs]
                found = runner.run(*attempts)
                while plan.unsure(found):
                    more = plan.attempt(first, further, _apart(rng, len(found)), shown=False)
                    found += runner.run(more)
                paths = [p for ends in found for p in ends]
            if not paths:
                search = start_search(density, structure, first.loc, rng, further)
                raise NotFiniteError(search.tried)
            best = max(paths, key=plan.height)
            others = elsewhere(density, best, [p for p in paths if p is not best])
            other_modes = plan.other_modes(best, others)
            ended = at_home(density, best, lambda q: runner.run(plan.again(q, rng))[0])
            ending = plan.ending(ended, first)
            [status] = runner.run(ending.status())
        except StopError as stop:
            status = Status(*stop.args)
        except KeyboardInterrupt:
            where = f"in stage {runner.stage!r}; this is the fit so far"
            if not runner.trace:
                where = "before the first stage had ended; this is where it would have started"
            status = Status("interrupted", f"interrupted {where}", KeyboardInterrupt())
        if status.cause is not None:
            # nobody waits for draws to be evaluated after Ctrl-C
            last = runner.trace[-1].elbo if runner.trace else np.nan
            unjudged = Estimate(last, np.nan)
            return PlanResult(runner.gaussian, unjudged, status, runner.trace, np.nan, other_modes)
        if ended is not None:
            fresh = ended.fresh
            gap = ended.fitted.elbo - fresh.elbo.value
        else:
            density.place_window(runner.gaussian.loc, runner.gaussian.sds)
            unfinished = fresh_elbo(runner.gaussian, structure, fresh_draws)
            [fresh] = run_batched([unfinished], density.value_and_grad)
        return PlanResult(fresh.gaussian, fresh.elbo, status, runner.trace, gap, other_modes)


class _Plan:
    """The starts, the race between them, and the paths of those that go on."""

    def __init__(
        self, runner: Runner, structure: Structure, fresh_draws: Floats, look: Look | None
    ) -> None:
        self.runner, self.structure = runner, structure
        self.fresh_draws, self.look = fresh_draws, look
        self.doubted = False  # whether the climbs of some attempt disagreed
        self.eps = float(np.finfo(runner.density.dtype).eps)

    def attempt(
        self, first: Gaussian, candidates: Floats | None, rng: np.random.Generator, shown: bool
    ) -> Stage[list[Refined]]:
        """Return the paths that were carried to their end from one search; none without a start."""
        search = start_search(self.runner.density, self.structure, first.loc, rng, candidates)
        if shown:
            search = search._replace(look=self.look)
        entrants, doubted = yield from search.run()
        self.doubted |= doubted
        if not entrants:
            return []
        if shown:
            self.runner.accepted("start", entrants[0].gaussian, entrants[0].elbo)
        if len(entrants) > 1 and not doubted:
            entrants = yield from self.race(entrants, rng, shown)
        winner, others = entrants[0], entrants[1:]
        paths = yield from self.carry([winner.gaussian], rng, shown, settle=doubted)
        best = paths[0]
        near, rest = [], []
        for e in others:
            apart = (
                not distance(self.runner.density, e.gaussian, best.fresh.gaussian).max() <= SAME_SDS
            )
            (near if e.elbo > winner.elbo - SECOND_NATS and apart else rest).append(e)
        if near:
            paths += yield from self.carry([e.gaussian for e in near], rng, False, settle=doubted)
        # a path may come to nothing, or run out far below where another start already was
        for e in rest:
            if not max(map(self.height, paths)) >= e.elbo:
                paths += yield from self.carry([e.gaussian], rng, False, settle=doubted)
        best = max(paths, key=self.height)
        if not best.settled and not (yield from self.ending(best, first).without_maximum()):
            others = yield from search.again()
            paths += yield from self.carry(
                [e.gaussian for e in others[:1]], rng, False, settle=True
            )
        return paths

    def unsure(self, attempts: list[list[Refined]]) -> bool:
        """Return whether another attempt is due: climbs disagree, and no two attempts agree."""
        heights = sorted((max(map(self.height, ends)) for ends in attempts if ends), reverse=True)
        if not (self.doubted and heights and len(attempts) < MAX_ATTEMPTS):
            return False
        return len(heights) < 2 or not heights[0] - heights[1] <= SAME_HEIGHT_NATS

    def again(self, gaussian: Gaussian, rng: np.random.Generator) -> Stage[Refined]:
        """Take a fit to the end of the plan once more, and show nothing of it."""
        [path] = yield from self.carry([gaussian], rng, shown=False, warm=True)
        return path

    def height(self, p: Refined) -> float:
        """Return the held-out ELBO of a path in nats, below all others where it is not finite."""
        elbo = height(self.runner.density, p)
        return elbo if np.isfinite(elbo) else -np.inf

    def other_modes(self, best: Refined, others: list[Refined]) -> tuple[OtherMode, ...]:
        """Return the paths that ended elsewhere."""
        return tuple(
            OtherMode(
                self.height(p) - self.height(best),
                distance(self.runner.density, p.fresh.gaussian, best.fresh.gaussian),
            )
            for p in others
            if np.isfinite(self.height(p))
        )

    def ending(self, ended: Refined, first: Gaussian) -> Ending:
        """Return what the status of a plan is told from."""
        runner = self.runner

        def spent() -> str:
            return f"{runner.evals} evaluations, {runner.density.num_gradients} gradients"

        return Ending(ended, first.loc, self.structure, self.fresh_draws, runner.density, spent)

    def race(
        self, entrants: list[StageResult], rng: np.random.Generator, shown: bool
    ) -> Stage[list[StageResult]]:
        """Run a short mean-field stage from every entrant; return them, the best first."""
        dim = len(entrants[0].gaussian.loc)
        # common draws make the ELBOs comparable
        structure = self.structure.uncoupled()
        E = structure.fixed_draws(rng, even_draws(max(MIN_DRAWS, 2 * structure.dim), dim))
        chart = DiagonalChart(E, structure)

        def accepted(q: Gaussian, elbo: float) -> None:
            self.runner.accepted("mean_field", q, elbo)

        raced = yield from together(
            *(
                maximise_elbo(
                    entrant.gaussian,
                    chart,
                    structure,
                    self.eps,
                    accepted if shown and entrant is entrants[0] else lambda q, elbo: None,
                    RACE_EVALS,
                )
                for entrant in entrants
            )
        )
        finite = [fitted for fitted in raced if np.isfinite(fitted.elbo)]
        return sorted(finite or entrants, key=lambda fitted: -fitted.elbo)

    def carry(
        self,
        gaussians: Sequence[Gaussian],
        rng: np.random.Generator,
        shown: bool,
        warm: bool = False,
        settle: bool = False,
    ) -> Stage[list[Refined]]:
        """Take Gaussians to the end of the plan, together; of those shown it is the first."""
        return together(
            *(
                refine(
                    gaussian,
                    self.structure,
                    child,
                    self.fresh_draws,
                    self.eps,
                    self.runner.accepted if shown and gaussian is gaussians[0] else _ignore,
                    warm=warm,
                    settle=settle,
                )
                for gaussian, child in zip(gaussians, rng.spawn(len(gaussians)), strict=True)
            )
        )


def _apart(rng: np.random.Generator, k: int) -> np.random.Generator:
    """Return a generator of its own, which changes nothing of what the first one draws."""
    seeds = rng.bit_generator.seed_seq
    key = (*seeds.spawn_key, RESTART_KEY, k)  # type: ignore[attr-defined]
    return np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=key))  # type: ignore[attr-defined]


def _ignore(stage: str, gaussian: Gaussian, elbo: float) -> None:
    """Report nothing of a path that is not shown."""
