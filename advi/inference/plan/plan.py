"""The automatic plan: a search for starts, short fits from them, and the best to the end."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate, Progress, Status
from advi.core.types import Floats
from advi.inference.plan.angles import (
    distance,
    start_at_mode,
    windowed_elbo,
    with_settled_window,
    without_other_turns,
)
from advi.inference.plan.batched_calls import Stage, run_batched, together
from advi.inference.plan.ending import Ending
from advi.inference.plan.maximise_elbo import StageResult, fit_mean_fields, ignore
from advi.inference.plan.refine import Refined, Refinement, fresh_elbo, mean_field_draws
from advi.inference.plan.runner import Runner, StopError
from advi.inference.plan.search import Inspect, start_search
from advi.model.checks.labels import exchangeable, is_a_copy
from advi.model.density import Density
from advi.posterior.record import SAME_SDS, OtherMode
from advi.variational.gaussian import MANY, Gaussian, Structure

FRESH_DRAWS = 256
MIN_FRESH_DRAWS, FRESH_ELEMENTS = 32, 2**24  # where these are too many numbers
SCREEN_EVALS = 20  # mean-field evaluations of every start that may still win
# Of a restart's draws, far from the numbers of other generators; 0 is that of the plan by rows.
RESTART_KEY = 2**31
# Where climbs disagree the plan is repeated until its two best attempts agree to this.
MAX_ATTEMPTS, SAME_ELBO_NATS = 4, 0.5
ATTEMPTS_DIM = 2**12  # up to which it is: an attempt costs as much as the fit
LABEL_POINTS = 3  # where exchanges of labels are tried
SECOND_NATS = 3.0  # another start this close to the best is fitted too


class PlanResult(NamedTuple):
    """The result of the plan."""

    gaussian: Gaussian
    elbo: Estimate
    status: Status
    trace: list[Progress]
    held_out_gap: float  # nats: ELBO on the fixed draws less that on fresh ones, before polish
    other_modes: tuple[OtherMode, ...]


class NotFiniteError(ValueError):
    """No starting point had a finite log density; `tried` describes them."""

    def __init__(self, tried: str) -> None:
        super().__init__(f"no finite log density at {tried}")
        self.tried = tried


def run_plan(
    density: Density,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,  # its mean is the first start; with `warm` all of it
    *,
    warm: bool,  # begin at `first`, without a search for a start and without restarts
    restarts: int = 1,  # runs of the plan with different draws; the best ELBO is kept
    max_evals: int | None = None,  # batched evaluations
    callback: Callable[[Progress], object] | None = None,  # at accepted steps; if true, stop
    evaluated: Callable[[str, int], None] | None = None,  # stage and number of every evaluation
    inspect: Inspect | None = None,  # called with random points around the start
    candidates: Callable[[], Floats | None] | None = None,  # further points (n, D) to start from
    known: Sequence[Gaussian] = (),  # at other optima; with `warm` each is fitted too
) -> PlanResult:
    """Fit a Gaussian to a density without any setting.

    NotFiniteError if no start has a finite log density and gradient.
    """
    fitting = FRESH_ELEMENTS // max(len(structure.random), 1) // 2 * 2
    fresh_draws = structure.antithetic_draws(rng, max(MIN_FRESH_DRAWS, min(FRESH_DRAWS, fitting)))
    runner = Runner(density, first, max_evals, callback, evaluated)
    plan = _Plan(runner, structure, fresh_draws, inspect)
    ended, gap, other_modes, further = None, 0.0, (), None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            if warm:
                density.place_window(first.loc, first.sds)
                [ends] = runner.run(plan.refined([first, *known], rng, shown=True, warm=True))
            else:
                if candidates is not None:
                    further = candidates()
                first = start_at_mode(density, first, rng, plan.eps, runner.run)
                rngs = [rng, *(independent(rng, k) for k in range(1, restarts))]
                attempts = [plan.attempt(first, further, own, shown=own is rng) for own in rngs]
                found = runner.run(*attempts)
                while plan.is_unsure(found):
                    own = independent(rng, len(found))
                    found += runner.run(plan.attempt(first, further, own, shown=False))
                ends = [end for attempt in found for end in attempt]
            if not ends:
                search = start_search(density, structure, first.loc, rng, further)
                raise NotFiniteError(search.tried)
            best = max(ends, key=plan.elbo)
            others = without_other_turns(density, best, [end for end in ends if end is not best])
            other_modes = plan.other_modes(best, others)
            ended = with_settled_window(
                density, best, lambda q: runner.run(plan.refined([q], rng, warm=True))[0][0]
            )
            [status] = runner.run(plan.ending(ended, first).status())
        except (StopError, KeyboardInterrupt) as stop:
            status = runner.stopped(stop)
        if status.cause is not None:
            # nobody waits for draws to be evaluated after Ctrl-C
            last = runner.trace[-1].elbo if runner.trace else np.nan
            elbo = Estimate(last, np.nan)
            return PlanResult(runner.gaussian, elbo, status, runner.trace, np.nan, other_modes)
        if ended is not None:
            fresh = ended.fresh
            gap = ended.fitted.elbo - fresh.elbo.value
        else:
            density.place_window(runner.gaussian.loc, runner.gaussian.sds)
            unfinished = fresh_elbo(runner.gaussian, structure, fresh_draws)
            [fresh] = run_batched([unfinished], density.value_and_grad)
        return PlanResult(fresh.gaussian, fresh.elbo, status, runner.trace, gap, other_modes)


class _Plan:
    """The attempts of one plan: starts, short fits from them, and the ends of the best."""

    def __init__(
        self, runner: Runner, structure: Structure, fresh_draws: Floats, inspect: Inspect | None
    ) -> None:
        self.runner, self.structure = runner, structure
        self.fresh_draws, self.inspect = fresh_draws, inspect
        self.ambiguous = False  # whether the climbs of some attempt disagreed
        self.eps = float(np.finfo(runner.density.dtype).eps)

    def attempt(
        self, first: Gaussian, candidates: Floats | None, rng: np.random.Generator, shown: bool
    ) -> Stage[list[Refined]]:
        """Return the ends of all fits from one search; none without a start."""
        search = start_search(self.runner.density, self.structure, first.loc, rng, candidates)
        if shown:
            search = search._replace(inspect=self.inspect)
            if len(first.loc) > MANY:  # whose search takes as long as the fit
                search = search._replace(show=partial(self.runner.accepted, "start"))
        starts, ambiguous = yield from search.run()
        self.ambiguous |= ambiguous
        if not starts:
            return []
        if shown:
            self.runner.accepted("start", starts[0].gaussian, starts[0].elbo)
        if len(starts) > 1 and not ambiguous:
            starts = yield from self.screened(starts, rng, shown)
        best = starts[0]
        ends = yield from self.refined([best.gaussian], rng, shown, settle=ambiguous)
        at = ends[0].fresh.gaussian
        near, rest = [], []
        for s in starts[1:]:
            apart = not distance(self.runner.density, s.gaussian, at).max() <= SAME_SDS
            (near if s.elbo > best.elbo - SECOND_NATS and apart else rest).append(s)
        if near:
            ends += yield from self.refined([s.gaussian for s in near], rng, settle=ambiguous)
        # a fit may fail, or end far below where another start already was
        for s in rest:
            if not max(map(self.elbo, ends)) >= s.elbo:
                ends += yield from self.refined([s.gaussian], rng, settle=ambiguous)
        end = max(ends, key=self.elbo)
        if not end.settled and not (yield from self.ending(end, first).without_maximum()):
            others = yield from search.again()
            ends += yield from self.refined([s.gaussian for s in others[:1]], rng, settle=True)
        return ends

    def is_unsure(self, attempts: list[list[Refined]]) -> bool:
        """Return whether another attempt is due: climbs disagree, and no two attempts agree."""
        elbos = sorted((max(map(self.elbo, ends)) for ends in attempts if ends), reverse=True)
        if not (self.ambiguous and elbos and len(attempts) < MAX_ATTEMPTS):
            return False
        if len(self.structure.random) > ATTEMPTS_DIM:
            return False
        return len(elbos) < 2 or not elbos[0] - elbos[1] <= SAME_ELBO_NATS

    def elbo(self, end: Refined) -> float:
        """Return the held-out ELBO in nats; -inf if it is not finite."""
        elbo = windowed_elbo(self.runner.density, end)
        return elbo if np.isfinite(elbo) else -np.inf

    def other_modes(self, best: Refined, others: list[Refined]) -> tuple[OtherMode, ...]:
        density, q = self.runner.density, best.fresh.gaussian
        ends = [(self.elbo(end) - self.elbo(best), end.fresh.gaussian) for end in others]
        ends = [(less, other) for less, other in ends if np.isfinite(less)]
        copies = [_may_be_a_copy(density, less, other, q) for less, other in ends]
        labels = None
        if any(copies):
            labels = exchangeable(density, q.points(self.fresh_draws[:LABEL_POINTS]))
        found = []
        for (less, other), copy in zip(ends, copies, strict=True):
            same = copy and labels and is_a_copy(density, labels, q.loc, other.loc, other.sds)
            apart = distance(density, other, q)
            found.append(OtherMode(less, apart, other, labels.names if same and labels else ()))
        return tuple(found)

    def ending(self, ended: Refined, first: Gaussian) -> Ending:
        return Ending(ended, first.loc, self.structure, self.fresh_draws, self.runner)

    def screened(
        self, starts: list[StageResult], rng: np.random.Generator, shown: bool
    ) -> Stage[list[StageResult]]:
        """Return short mean-field fits from the starts, the best first; the starts if all fail."""
        structure = self.structure.uncoupled()
        E = mean_field_draws(structure, rng)  # common draws make the ELBOs comparable

        def accepted(q: Gaussian, elbo: float) -> None:
            self.runner.accepted("mean_field", q, elbo)

        gaussians, show = [s.gaussian for s in starts], accepted if shown else ignore
        fits = yield from fit_mean_fields(gaussians, E, structure, self.eps, SCREEN_EVALS, show)
        return fits or starts

    def refined(
        self,
        gaussians: Sequence[Gaussian],
        rng: np.random.Generator,
        shown: bool = False,  # the first one
        warm: bool = False,
        settle: bool = False,
    ) -> Stage[list[Refined]]:
        """Run the rest of the plan from Gaussians, together."""
        stages = []
        for q, own in zip(gaussians, rng.spawn(len(gaussians)), strict=True):
            show = self.runner.accepted if shown and q is gaussians[0] else ignore
            rest = Refinement(self.structure, own, self.fresh_draws, self.eps, show)
            stages.append(rest.run(q, warm=warm, settle=settle))
        return together(*stages)


def _may_be_a_copy(density: Density, less: float, other: Gaussian, q: Gaussian) -> bool:
    """Return whether an end that is `less` nats of ELBO above is as high as the best, elsewhere."""
    return abs(less) < SAME_ELBO_NATS and bool(distance(density, other, q).max() > SAME_SDS)


def independent(rng: np.random.Generator, k: int) -> np.random.Generator:
    """Return the k-th further generator, which leaves the draws of the first one as they are."""
    seeds = rng.bit_generator.seed_seq
    key = (*seeds.spawn_key, RESTART_KEY, k)  # type: ignore[attr-defined]
    return np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=key))  # type: ignore[attr-defined]
