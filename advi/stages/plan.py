"""The automatic plan: start, mean field, coupled blocks, held-out check, polish."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi import draws
from advi.density import Density
from advi.gaussian import Floats, Gaussian, Structure
from advi.stages.full_rank import full_rank
from advi.stages.lockstep import Stage, lockstep
from advi.stages.mean_field import Fitted, mean_field
from advi.stages.polish import polish
from advi.stages.start import Started, start
from advi.status import Estimate, Progress, Status

NUM_STARTS = 4
START_RADIUS = 2.0
MIN_DRAWS = 64
MAX_DRAW_ELEMENTS = 2**24  # memory cap: draws times dimension
HELD_OUT_DRAWS = 256
MAX_DOUBLINGS = 3
OVERFIT_NATS, OVERFIT_ERRORS = 1.0, 3.0
# with 64 fixed draws a roughness of 0.1 costs the order of 1e-3 nats
POLISH_ROUGHNESS = 0.1
NEARLY = 0.1  # a search stalled by rounding counts as converged below this scaled gradient


class Outcome(NamedTuple):
    """What the plan returns."""

    gaussian: Gaussian
    elbo: Estimate
    status: Status
    trace: list[Progress]


class HeldOut(NamedTuple):
    """A Gaussian on draws that no stage has seen."""

    elbos: Floats  # (HELD_OUT_DRAWS / 2,) log p - log q, means of antithetic pairs
    roughness: float  # summed variance of the gradient's even part, zero for a Gaussian target


class NotFiniteError(ValueError):
    """No starting point had a finite log density."""


class _StopError(Exception):
    """The budget is spent, or the callback asked to stop."""


class _Runner:
    """Evaluates the stages' requests; keeps the latest Gaussian, the trace and the budget."""

    def __init__(
        self,
        density: Density,
        structure: Structure,
        held_out_draws: Floats,
        gaussian: Gaussian,
        max_evals: int | None,
        callback: Callable[[Progress], object] | None,
    ) -> None:
        self.density, self.gaussian = density, gaussian
        self._structure, self._held_out_draws = structure, held_out_draws
        self._held_out: tuple[Gaussian, HeldOut] | None = None
        self.max_evals, self.callback = max_evals, callback
        self.evals, self.stage = 0, "start"
        self.trace: list[Progress] = []

    def run(self, stage: str, *stages: Stage) -> list:
        self.stage = stage
        return lockstep(stages, self._evaluate)

    def accepted(self, gaussian: Gaussian, elbo: float) -> None:
        self.gaussian = gaussian
        progress = Progress(self.stage, self.evals, elbo)
        self.trace.append(progress)
        if self.callback is not None and self.callback(progress):
            raise _StopError("interrupted", "the callback asked to stop")

    def held_out(self, gaussian: Gaussian) -> HeldOut:
        """Evaluate a Gaussian on antithetic draws that no stage has seen."""
        if self._held_out is None or self._held_out[0] is not gaussian:
            E = self._held_out_draws
            log_p, gradients = self.density.value_and_grad(gaussian.points(E))
            elbos = self._structure.elbos(log_p, E, gaussian).reshape(2, -1).mean(0)
            even = gaussian.in_frame(gradients.reshape(2, len(elbos), -1).mean(0))
            roughness = float((even - even.mean(0))[:, self._structure.noisy].var(0).sum())
            self._held_out = gaussian, HeldOut(elbos, roughness)
        return self._held_out[1]

    def restore(self, gaussian: Gaussian, held_out: HeldOut) -> None:
        """Go back to a Gaussian evaluated before."""
        self.gaussian, self._held_out = gaussian, (gaussian, held_out)

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
    max_evals: int | None = None,
    callback: Callable[[Progress], object] | None = None,
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
    max_evals
        Budget of batched evaluations; None for none.
    callback
        Called with a `Progress` at every accepted step; a true result stops the fit.

    Returns
    -------
    Outcome

    Raises
    ------
    NotFiniteError
        If no start has a finite log density.
    """
    eps = float(np.finfo(density.dtype).eps)
    held_out_draws = structure.spread(draws.antithetic(rng, HELD_OUT_DRAWS, structure.dim))
    runner = _Runner(density, structure, held_out_draws, first, max_evals, callback)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            status = _run(runner, structure, rng, first, warm, eps)
    except _StopError as stop:
        status = Status(*stop.args)
    except KeyboardInterrupt:
        status = Status(
            "interrupted", f"interrupted in stage {runner.stage!r}; this is the fit so far"
        )
    elbo = _estimate(runner.held_out(runner.gaussian).elbos)
    return Outcome(runner.gaussian, elbo, status, runner.trace)


def _run(
    runner: _Runner,
    structure: Structure,
    rng: np.random.Generator,
    first: Gaussian,
    warm: bool,
    eps: float,
) -> Status:
    dim = len(first.loc)
    if not warm:
        centers = [first.loc] + [
            first.loc + rng.uniform(-START_RADIUS, START_RADIUS, dim) for _ in range(NUM_STARTS - 1)
        ]
        paths = [
            start(x0, first.loc, structure, child, eps)
            for x0, child in zip(centers, rng.spawn(NUM_STARTS), strict=True)
        ]
        started: list[Started] = runner.run("start", *paths)
        best = max(started, key=lambda s: s.elbo)
        if not np.isfinite(best.elbo):
            raise NotFiniteError
        runner.accepted(best.gaussian, best.elbo)
    fitted = None
    if not (warm and structure.coupled):
        E = structure.fixed_draws(rng, _even(max(MIN_DRAWS, 2 * structure.dim), dim))
        [fitted] = runner.run(
            "mean_field", mean_field(runner.gaussian, E, structure, eps, runner.accepted)
        )
    if structure.coupled:
        fitted = _coupled(runner, structure, rng, eps)
    assert fitted is not None
    _polish(runner, structure, rng)
    return _status(fitted, runner, eps)


def _coupled(runner: _Runner, structure: Structure, rng: np.random.Generator, eps: float) -> Fitted:
    """Fit coupled blocks, with twice the draws as long as the fixed ones are overfitted."""
    dim = len(runner.gaussian.loc)
    num, doublings = max(MIN_DRAWS, 4 * structure.dim), 0
    while True:
        E = structure.fixed_draws(rng, _even(num, dim))
        [fitted] = runner.run(
            "full_rank", full_rank(runner.gaussian, E, structure, eps, runner.accepted)
        )
        held_out = _estimate(runner.held_out(runner.gaussian).elbos)
        bound = max(OVERFIT_NATS, OVERFIT_ERRORS * held_out.mcse)
        if doublings == MAX_DOUBLINGS or fitted.elbo - held_out.value <= bound:
            return fitted
        num, doublings = 2 * num, doublings + 1


def _polish(runner: _Runner, structure: Structure, rng: np.random.Generator) -> None:
    """Polish, unless the target is as good as Gaussian; keep the better on common draws."""
    before = runner.gaussian
    current = runner.held_out(before)
    if not current.roughness > POLISH_ROUGHNESS:
        return  # the fixed draws' optimum is the optimum
    [after] = runner.run("polish", polish(before, structure, rng))
    polished = runner.held_out(after)
    if polished.elbos.mean() > current.elbos.mean():
        runner.accepted(after, float(polished.elbos.mean()))
    else:
        runner.restore(before, current)


def _estimate(per_draw: Floats) -> Estimate:
    return Estimate(float(per_draw.mean()), float(per_draw.std(ddof=1) / np.sqrt(len(per_draw))))


def _status(fitted: Fitted, runner: _Runner, eps: float) -> Status:
    spent = f"{runner.evals} evaluations, {runner.density.num_gradients} gradients"
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


def _even(num: int, dim: int) -> int:
    return 2 * max(2, min(num, MAX_DRAW_ELEMENTS // max(dim, 1)) // 2)
