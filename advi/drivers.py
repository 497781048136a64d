"""The two ways to a fit: the automatic plan, and the steps of an optimiser."""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advi import draws
from advi.all_rows import AllRows
from advi.checkpoint import Checkpoint
from advi.density import Density
from advi.failures import blame, not_finite_at_start
from advi.families import Family
from advi.gaussian import Floats, Gaussian, structure_of
from advi.guide import Guide
from advi.held_out import HeldOut
from advi.initial import initial
from advi.keys import device_key, host_rng
from advi.prior_starts import finite_first, prior_starts
from advi.progress import Bar
from advi.result import Fit
from advi.row_fit import LAST_ERRORS, START_SCALES, RowEnds
from advi.stages.frame import framed
from advi.stages.plan import NotFiniteError, run_plan
from advi.stages.some_rows import (
    MAX_PASSES,
    Start,
    can_start,
    near,
    num_some,
    some_rows,
    start_on_rows,
)
from advi.stages.stochastic import Course, Stochastic, run_steps
from advi.status import Estimate, Status
from advi.streams import EndlessError, Reader, StreamError

MAX_STEPS = 100_000  # of a stochastic fit that is left to settle
START_STREAM = 4
LOST_NATS = 0.1  # of the ELBO, for every coordinate, that steps may end below their start
MIN_PASSES = 4  # over a stream, that its start may take
LEARNING_RATE, RATE_STEPS = 0.02, 1000
FINAL_DRAWS = 256
MIN_FINAL_DRAWS = 16
FINAL_WORK = 2**32  # elements read by the final ELBO, which bounds its draws


def fit_plan(
    density: Density,
    guide: Guide,
    first: Gaussian,
    warm: bool,
    restarts: int,
    key: Any,
    max_steps: int | None,
    bar: Bar,
) -> Fit:
    """Fit by the automatic plan; `first` is where it starts, and with `warm` a fit to go on from.

    Raises
    ------
    ValueError
        If no starting point has a finite log density.
    """
    structure = structure_of(guide)
    candidates = None if warm else prior_starts(density, first)
    try:
        outcome = run_plan(
            density,
            structure,
            host_rng(key),
            first,
            warm=warm,
            restarts=restarts,
            max_evals=max_steps,
            callback=bar.update,
            candidates=candidates,
        )
    except NotFiniteError:
        raise not_finite_at_start(density, first.loc) from None
    return Fit(
        guide=guide,
        params=guide.params_of(outcome.gaussian, density.dtype),
        status=outcome.status,
        elbo=outcome.elbo,
        trace=outcome.trace,
        num_gradients=density.num_gradients,
        density=density,
        key=key,
        held_out_gap=outcome.held_out_gap,
        rivals=outcome.rivals,
    )


def fit_steps(
    density: Density,
    settings: Stochastic,
    init: Any,
    key: Any,
    max_steps: int | None,
    bar: Bar,
    checkpoint: Checkpoint,
    held_out: HeldOut | None = None,
    reader: Reader | None = None,
    start: Start | None = None,
) -> Fit:
    """Fit by the steps of an optimiser, until they have settled where `max_steps` is None.

    The steps are on the density's data, or on what a reader reads: then the density is that of
    the first rows of the stream. They begin at a start found by the plan, or else at `init`.

    Raises
    ------
    TypeError, ValueError
        If `init` is not as `initial` takes it, or nothing around it has finite log densities, or
        the checkpoint is of another fit.
    """
    guide, rng = settings.guide, host_rng(key)
    if guide.local and settings.rows is not None:
        guide = guide.with_rows(settings.rows.num_rows)
        ends = RowEnds.of(density, guide, key)
    else:
        ends = FlatEnds((density,), guide, rng)
    planned_params = None
    if start is None:
        state = settings.init(ends.start(init), device_key(key, 1), rng)
    else:
        q = near(start.gaussian, structure_of(guide))
        planned_params = guide.params_of((q.loc, q.scale), density.dtype)
        state = settings.init(planned_params, device_key(key, 1), rng, start.anchor)
    course = Course([], [], 0 if held_out is None else held_out.every)
    state, course, ended = checkpoint.resume(settings, state, course, density.data, key, max_steps)
    steps = run_steps(
        settings,
        state,
        course,
        itertools.repeat(density.data) if reader is None else reader,
        max_steps or MAX_STEPS,
        max_steps is None,
        bar.update,
        held_out,
    )
    stopped = ""
    try:
        while ended is None:
            state, course, ended = next(steps)
            checkpoint.offer(state, course)
    except KeyboardInterrupt:
        pass
    except StreamError as error:
        if not int(state.step):
            raise
        stopped = f": {error}"
    checkpoint.save(state, course, None if ended == "interrupted" else ended)
    step = int(state.step)
    status = ended or Status(
        "interrupted",
        f"interrupted after step {step}{stopped or '; this is the fit so far'}"
        if step
        else "interrupted before the first chunk of steps ended",
    )
    trace_ = course.trace(step)
    if reader is not None:
        ends = ends.judged_by(reader.kept)
    moved = int(state.step) > 0 and any(settings.averaged)
    average = jax.tree.map(np.asarray, settings.average(state)) if moved else None
    params, elbo = ends.better(average, jax.tree.map(np.asarray, state.params))
    of_plan = None if planned_params is None else ends.better(None, planned_params)[1]
    if of_plan is not None and _lost(of_plan, elbo, structure_of(guide).dim):
        status = Status(
            "diverged",
            f"the steps led away from where the plan on some rows had ended, which is kept; "
            f"{status.message}",
        )
        params, elbo = planned_params, of_plan
    elif status == "diverged":
        status = Status("diverged", f"{status.message}; {ends.blame(params)}")
    fit = Fit(
        guide=guide,
        params=params,
        status=status,
        elbo=elbo,
        trace=trace_,
        num_gradients=len(trace_) * settings.draws,
        density=density,
        key=key,
    )
    if not guide.local:
        density.place_window(fit.gaussian.loc, fit.gaussian.sds)
    return fit


def _lost(before: Estimate, after: Estimate, dim: int) -> bool:
    """Return whether an ELBO is lower than before by more than noise of the steps explains."""
    errors = LAST_ERRORS * math.hypot(before.mcse, after.mcse)
    return not before.value - after.value < LOST_NATS * (1 + dim) + errors


def planned(
    settings: Stochastic, all_rows: Density | AllRows, init: Any, key: Any, max_steps: int | None
) -> Start | None:
    """Return a start for steps on minibatches by the plan on some rows, or None.

    There is none for latents that it is not for, where it ends at nothing finite, or where to read
    a stream for it would take longer than the steps. Nor is there of a stream without end, which
    need not give every row as often as every other.

    Raises
    ------
    TypeError, ValueError
        If `init` is not as `initial` takes it.
    StreamError
        If a stream is not what its first batch and `num_rows` said.
    """
    guide, rows, passes = settings.guide, settings.rows, MAX_PASSES
    if rows is None or not can_start(guide):
        return None
    if isinstance(all_rows, AllRows):
        passes = min(passes, (max_steps or MAX_STEPS) // rows.steps_per_epoch)
    if passes < MIN_PASSES:
        return None
    first, warm = initial(guide.model, init)
    rng = host_rng(key, START_STREAM)
    try:
        if isinstance(all_rows, AllRows):
            some = all_rows.some(num_some(rows, guide.model.size), rng)
        else:
            some = some_rows(all_rows, rows, rng)
        first = first if warm else finite_first(some, first)
        return start_on_rows(all_rows, some, rng, first, warm, passes)
    except (NotFiniteError, EndlessError):
        return None


class FlatEnds(NamedTuple):
    """Where a stochastic fit starts and what it ends with, by points of R^D on the host."""

    densities: tuple[Density, ...]  # of all data, or of batches that each stand for all
    guide: Guide
    rng: np.random.Generator

    def judged_by(self, batches: list[Any]) -> "FlatEnds":
        """Return the ends of a fit to a stream, of which some batches were kept."""
        [first] = self.densities
        return self._replace(
            densities=tuple(
                Density(first.model, batch, first.spec, first.estimated, first.scale)
                for batch in batches
            )
        )

    def start(self, init: Any) -> Any:
        """Return the parameters to start from, their scale small enough for finite values."""
        first, warm = initial(self.guide.model, init)
        if warm:
            return self.guide.from_gaussian(*first)
        first = finite_first(self.densities[0], first)
        E = structure_of(self.guide).fixed_draws(self.rng, MIN_FINAL_DRAWS)
        for scale in START_SCALES:
            q = Gaussian(first.loc, np.full(len(first.loc), scale))
            if np.all(np.isfinite(self.densities[0].value(q.points(E)))):
                return self.guide.from_gaussian(*q)
        raise not_finite_at_start(self.densities[0], first.loc)

    def better(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        """Return the averaged parameters, or the last if common draws show them to be better.

        The last are better while a fit still improves; at rest the average is, by less than
        shows. There is no average, None, where nothing was averaged. Several densities are those
        of batches, each with draws of its own: what they say of the whole differs by their rows
        too, and so does the error.
        """
        work = sum(density.log_joint.cost for density in self.densities)
        num = int(np.clip(FINAL_WORK // work, MIN_FINAL_DRAWS, FINAL_DRAWS)) // 2 * 2
        structure = structure_of(self.guide)
        noise = [
            structure.spread(draws.antithetic(self.rng, num, structure.dim)) for _ in self.densities
        ]

        def elbos(params: Any) -> Floats:
            q = Gaussian(*self.guide.to_gaussian(params))
            for density in self.densities:
                density.place_window(q.loc, q.sds)
            values = [
                structure.paired_elbos(density.value(q.points(E)), E, q)
                for density, E in zip(self.densities, noise, strict=True)
            ]
            return values[0] if len(values) == 1 else np.array([v.mean() for v in values])

        with np.errstate(all="ignore"):
            of_last = elbos(last)
            if average is None:
                return last, Estimate.of(of_last)
            of_average = elbos(average)
            gain = Estimate.of(of_last - of_average)
            if gain.value > LAST_ERRORS * gain.mcse or not np.all(np.isfinite(of_average)):
                return last, Estimate.of(of_last)
        return average, Estimate.of(of_average)

    def blame(self, params: Any) -> str:
        """Return what makes the log density or its gradient non-finite, in words."""
        q = Gaussian(*self.guide.to_gaussian(params))
        return blame(self.densities[0], self.guide, q, self.rng)


def default_optimizer(guide: Guide) -> optax.GradientTransformation:
    """Return Adam with a rate that falls as one over the root of the steps: averages converge.

    Where all latents are shared its steps are in the frame of the scale that they have, so that
    neither their units nor their correlations matter.
    """
    families = tuple(b.family for b in guide.blocks if isinstance(b.family, Family))
    return framed(_adam(), families) if len(families) == len(guide.blocks) else _adam()


@functools.lru_cache(maxsize=1)
def _adam() -> optax.GradientTransformation:
    return optax.adam(lambda step: LEARNING_RATE / jnp.sqrt(1 + step / RATE_STEPS))
