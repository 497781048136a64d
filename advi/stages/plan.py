"""The automatic plan: several starts in lockstep, the best of them to the end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi import draws
from advi.density import Density
from advi.gaussian import Floats, Gaussian, Structure
from advi.stages.angles import at_home, distance, elsewhere, height, on_their_turns
from advi.stages.climb import climb
from advi.stages.lockstep import Stage, lockstep
from advi.stages.mean_field import Fitted, mean_field
from advi.stages.path import MIN_DRAWS, Path, evaluate_held_out, even, path
from advi.stages.start import Started, distinct, select
from advi.status import Estimate, Progress, Status

# Random points are screened by their log density in two boxes, and the best of each are climbed
# from: the small one is where optima usually are, the large one is for those that hide.
SCREENED = 32
NUM_CLIMBS = 8
NUM_STARTS = 3  # climbs that a scale is chosen for
START_RADIUS, WIDE_RADIUS = 2.0, 6.0
HELD_OUT_DRAWS = 256
RACE_EVALS = 20  # mean-field evaluations of every start that may still win
HOPELESS_NATS = 20.0  # a start so much lower, both in height and in ELBO, is given up
SAME_START_SDS = 2.0  # climbs that end nearer than this have found one optimum
SAME_SDS = 0.5  # and fits, whose means are better known
RIVAL_NATS = 3.0  # a start this close to the winner, elsewhere, is fitted too
NEARLY = 0.1  # a search stalled by rounding counts as converged below this scaled gradient


class Rival(NamedTuple):
    """Another start carried to its end: its ELBO less the winner's, and where it ended."""

    elbo_difference: float  # nats
    distance: Floats  # (D,) difference of the means in the winner's sds


class Outcome(NamedTuple):
    """What the plan returns."""

    gaussian: Gaussian
    elbo: Estimate
    status: Status
    trace: list[Progress]
    held_out_gap: float  # nats: ELBO on the fixed draws less that on fresh ones, before polish
    rivals: tuple[Rival, ...]


class NotFiniteError(ValueError):
    """No starting point had a finite log density."""


class _StopError(Exception):
    """The budget is spent, or the callback asked to stop."""


class _Runner:
    """Evaluates the stages' requests; keeps the latest Gaussian, the trace and the budget."""

    def __init__(
        self,
        density: Density,
        gaussian: Gaussian,
        max_evals: int | None,
        callback: Callable[[Progress], object] | None,
    ) -> None:
        self.density, self.gaussian = density, gaussian
        self.max_evals, self.callback = max_evals, callback
        self.evals = 0
        self.stage = "start"
        self.trace: list[Progress] = []

    def run(self, *stages: Stage[Any]) -> list[Any]:
        return lockstep(stages, self._evaluate)

    def accepted(self, stage: str, gaussian: Gaussian, elbo: float) -> None:
        self.stage, self.gaussian = stage, gaussian
        progress = Progress(stage, self.evals, float(elbo))
        self.trace.append(progress)
        if self.callback is not None and self.callback(progress):
            raise _StopError("interrupted", "the callback asked to stop")

    def _evaluate(self, points: Floats) -> tuple[Floats, Floats]:
        if self.max_evals is not None and self.evals >= self.max_evals:
            raise _StopError("max_steps", f"stopped after max_steps={self.max_evals} evaluations")
        self.evals += 1
        return self.density.value_and_grad(points)


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
    candidates: Floats | None = None,
) -> Outcome:
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
        Starts to carry through the whole plan; the best ELBO is kept.
    max_evals
        Budget of batched evaluations; None for none.
    callback
        Called with a `Progress` at every accepted step; a true result stops the fit.
    candidates
        (n, D) further points that a start is looked for at, on the real scale.

    Returns
    -------
    Outcome

    Raises
    ------
    NotFiniteError
        If no start has a finite log density.
    """
    held_out_draws = structure.spread(draws.antithetic(rng, HELD_OUT_DRAWS, structure.dim))
    plan = _Plan(_Runner(density, first, max_evals, callback), structure, rng, held_out_draws)
    runner, ended, gap, rivals = plan.runner, None, 0.0, ()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            if warm:
                density.place_window(first.loc, first.sds)
            else:
                first = on_their_turns(density, first, rng, plan.eps, runner.run)
            if candidates is None:
                candidates = np.zeros((0, len(first.loc)))
            ended, rivals = plan.run(first, warm, restarts, candidates)
            ended = at_home(density, ended, lambda q: plan.carry([q], warm=True)[0])
            status = _status(ended.fitted, runner, plan.eps)
        except _StopError as stop:
            status = Status(*stop.args)
        except KeyboardInterrupt:
            status = Status(
                "interrupted", f"interrupted in stage {runner.stage!r}; this is the fit so far"
            )
        if ended is not None:
            held_out = ended.held_out
            gap = ended.fitted.elbo - held_out.elbo.value
        else:
            density.place_window(runner.gaussian.loc, runner.gaussian.sds)
            unfinished = evaluate_held_out(runner.gaussian, structure, held_out_draws)
            [held_out] = lockstep([unfinished], density.value_and_grad)
    return Outcome(held_out.gaussian, held_out.elbo, status, runner.trace, gap, rivals)


class _Plan:
    """The starts, the race between them, and the paths of those that go on."""

    def __init__(
        self,
        runner: _Runner,
        structure: Structure,
        rng: np.random.Generator,
        held_out_draws: Floats,
    ) -> None:
        self.runner, self.structure, self.rng = runner, structure, rng
        self.held_out_draws = held_out_draws
        self.eps = float(np.finfo(runner.density.dtype).eps)

    def run(
        self, first: Gaussian, warm: bool, restarts: int, candidates: Floats
    ) -> tuple[Path, tuple[Rival, ...]]:
        """Return the winning path, and the others that were carried to their end."""
        if warm:
            [only] = self.carry([first], warm=True)
            return only, ()
        entrants = self.start(first, restarts, candidates)
        if len(entrants) > 1:
            entrants = self.race(entrants)
        carried = [fitted.gaussian for fitted in entrants[: max(restarts, 1)]]
        paths = self.carry(carried)
        best = max(paths, key=self.height)
        near = [
            e.gaussian
            for e in entrants[len(carried) :]
            if e.elbo > entrants[0].elbo - RIVAL_NATS
            and _distance(e.gaussian, best.held_out.gaussian).max() > SAME_SDS
        ]
        if near:
            paths += self.carry(near)
            best = max(paths, key=self.height)
        density = self.runner.density
        others = elsewhere(density, best, [p for p in paths if p is not best])
        return best, tuple(
            Rival(
                self.height(p) - self.height(best),
                distance(density, p.held_out.gaussian, best.held_out.gaussian),
            )
            for p in others
        )

    def height(self, ended: Path) -> float:
        """Return the ELBO of a path's end in nats."""
        return height(self.runner.density, ended)

    def start(self, first: Gaussian, restarts: int, candidates: Floats) -> list[Fitted]:
        """Climb from several points; return those that may win, the best first."""
        center, dim = first.loc, len(first.loc)
        near, wide = (
            center + self.rng.uniform(-radius, radius, (SCREENED, dim))
            for radius in (START_RADIUS, WIDE_RADIUS)
        )
        [(heights, _)] = self.runner.run(_once(np.concatenate([near, wide, candidates])))
        num = max(NUM_CLIMBS, restarts)
        places = [
            center,
            *near[_highest(heights[:SCREENED], num)],
            *wide[_highest(heights[SCREENED : 2 * SCREENED], num)],
            *candidates[_highest(heights[2 * SCREENED :], num)],
        ]
        [climbs] = self.runner.run(climb(np.stack(places), center, self.eps))
        [chosen] = self.runner.run(distinct(climbs, max(NUM_STARTS, restarts)))
        started: list[Started] = self.runner.run(
            *(
                select(climbed, self.structure, child)
                for climbed, child in zip(chosen, self.rng.spawn(len(chosen)), strict=True)
            )
        )
        started = sorted((s for s in started if np.isfinite(s.elbo)), key=lambda s: -s.elbo)
        if not started:
            raise NotFiniteError
        self.runner.accepted("start", started[0].gaussian, started[0].elbo)
        top, elbo = max(s.top for s in started), started[0].elbo
        kept: list[Started] = []
        for s in started:
            hopeful = s.top > top - HOPELESS_NATS or s.elbo > elbo - HOPELESS_NATS
            elsewhere = all(_distance(s.gaussian, k.gaussian).max() > SAME_START_SDS for k in kept)
            if hopeful and elsewhere:
                kept.append(s)
        return [Fitted(s.gaussian, s.elbo, "started", np.inf) for s in kept]

    def race(self, entrants: list[Fitted]) -> list[Fitted]:
        """Run a short mean-field stage from every entrant; return them, the best first."""
        dim = len(entrants[0].gaussian.loc)
        # common draws make the ELBOs comparable
        E = self.structure.fixed_draws(self.rng, even(max(MIN_DRAWS, 2 * self.structure.dim), dim))

        def accepted(q: Gaussian, elbo: float) -> None:
            self.runner.accepted("mean_field", q, elbo)

        raced = self.runner.run(
            *(
                mean_field(
                    entrant.gaussian,
                    E,
                    self.structure,
                    self.eps,
                    accepted if entrant is entrants[0] else lambda q, elbo: None,
                    RACE_EVALS,
                )
                for entrant in entrants
            )
        )
        return sorted(raced, key=lambda fitted: -fitted.elbo)

    def carry(self, gaussians: list[Gaussian], warm: bool = False) -> list[Path]:
        """Take Gaussians to the end of the plan, in lockstep; the first one is shown."""
        return self.runner.run(
            *(
                path(
                    gaussian,
                    self.structure,
                    child,
                    self.held_out_draws,
                    self.eps,
                    self.runner.accepted if gaussian is gaussians[0] else _ignore,
                    warm=warm,
                )
                for gaussian, child in zip(gaussians, self.rng.spawn(len(gaussians)), strict=True)
            )
        )


def _highest(heights: Floats, num: int) -> NDArray[np.int_]:
    finite = np.where(np.isfinite(heights), heights, -np.inf)
    return np.argsort(-finite, kind="stable")[:num]


def _once(points: Floats) -> Stage[tuple[Floats, Floats]]:
    """Evaluate points (n, D)."""
    return (yield points)


def _ignore(stage: str, gaussian: Gaussian, elbo: float) -> None:
    """Report nothing of a path that is not shown."""


def _distance(a: Gaussian, b: Gaussian) -> Floats:
    """Return the differences of the means in the marginal sds of `b`, (D,)."""
    return np.abs(a.loc - b.loc) / b.sds


def _status(fitted: Fitted, runner: _Runner, eps: float) -> Status:
    spent = f"{runner.evals} evaluations, {runner.density.num_gradients} gradients"
    if not np.isfinite(fitted.gradient):
        return Status(
            "diverged",
            "the gradient of the log density overflows where it is highest: the density may have "
            "no bound there, as where a scale that goes to zero makes data certain; give that "
            f"scale a prior that keeps it away from zero, or other coordinates ({spent})",
        )
    if fitted.reason == "converged":
        return Status("converged", f"the ELBO has settled ({spent})")
    if fitted.reason == "stalled" and fitted.gradient < NEARLY:
        return Status("converged", f"as far as the precision of {eps:.0e} allows ({spent})")
    if fitted.reason == "stalled":
        remedy = "; x64=True may go further" if eps > 1e-10 else ""
        return Status(
            "max_steps",
            f"stopped before convergence: rounding noise hides the descent at a scaled gradient "
            f"of {fitted.gradient:.2g}{remedy} ({spent})",
        )
    return Status(
        "max_steps",
        f"a stage used all its evaluations at a scaled gradient of {fitted.gradient:.2g} ({spent})",
    )
