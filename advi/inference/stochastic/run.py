"""A fit by the steps of an optimiser, from its start to what it ends with."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core import interrupts
from advi.core.errors import describe_error
from advi.core.keys import Stream, host_rng
from advi.core.progress_bar import Bar
from advi.core.status import Estimate, Status
from advi.data.arrays import Rows
from advi.data.streams import BrokenStreamError, Reader
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.convergence import MAX_DRIFT, Distance, unread
from advi.inference.stochastic.pilot import near
from advi.inference.stochastic.steps import Course, State, Stochastic, run_steps, stopped
from advi.inference.stochastic.validation import HeldOut
from advi.inference.stochastic.warm_start import Planned
from advi.model.checks.first_points import refuse_unmoved
from advi.model.density import Density
from advi.posterior.global_ends import FlatEnds
from advi.posterior.local_ends import LAST_ERRORS, RowEnds
from advi.results.fit import Fit
from advi.variational.gaussian import structure_of
from advi.variational.objective import Elbo

MAX_STEPS = 100_000  # of a stochastic fit that is left to settle
LOST_NATS = 0.1  # of the ELBO, for every coordinate, that steps may end below their start
GAIN_NATS = 1.0  # of the ELBO, for every coordinate, that no fit which has arrived has to gain
LAST_ELBOS = 128  # steps whose ELBO stands for that of a fit which nobody waited for
UNJUDGED = Estimate(math.nan, math.nan)
NO_START = Planned()


def fit_steps(
    density: Density,
    settings: Stochastic,
    init: Any,
    key: Any,
    step_key: Array,
    max_steps: int | None,
    bar: Bar,
    checkpoint: Checkpoint,
    held_out: HeldOut | None = None,
    reader: Reader | None = None,
    found: Planned = NO_START,
) -> Fit:
    """Fit by the steps of an optimiser, until they have settled where `max_steps` is None.

    The steps are on the density's data, or on what a reader reads: then the density is that of
    the first rows of the stream. They begin at a start found by the plan, or else at `init`.
    `step_key` is that of the rows of each step, and of its noise.

    After Ctrl-C, whenever it comes, the fit so far is returned without a further evaluation.

    Raises
    ------
    TypeError, ValueError
        If `init` is not as `initial` takes it, or nothing around it has finite log densities, or
        the checkpoint is of another fit.
    Exception
        What a stream raises before the first steps.
    """
    guide, rng, rows = settings.guide, host_rng(key, Stream.ENDS), settings.rows
    if guide.local and rows is not None:
        guide = guide.with_rows(rows.num_rows)
        ends = RowEnds.of(density, guide, key)
    else:
        ends = FlatEnds((density,), guide, rng)
    begun, anchor = None, ()
    if found.start is not None:
        q = near(found.start.gaussian, structure_of(guide))
        begun, anchor = guide.params_of((q.loc, q.scale), density.dtype), found.start.anchor

    def states() -> Iterator[tuple[State, Course, Status | None]]:
        interrupts.check()
        params = begun
        if begun is None:
            params = ends.start(init)
            if isinstance(ends, FlatEnds) and reader is None:
                refuse_unmoved(density, guide.to_gaussian(params)[0])
        first = settings.init(params, step_key, rng, anchor)
        every = 0 if held_out is None else held_out.every
        resumed = checkpoint.resume(
            settings, first, Course([], [], every), density.data, key, max_steps
        )
        yield resumed
        if resumed.status is None:
            blocks = itertools.repeat(density.data) if reader is None else reader
            most, settle = max_steps or MAX_STEPS, max_steps is None
            yield from run_steps(
                settings, resumed.state, resumed.course, blocks, most, settle, bar.update, held_out
            )

    state, course, status = None, Course([], []), found.stopped
    try:
        if status is None:
            for state, course, status in states():  # noqa: B007
                checkpoint.offer(state, course)
    except KeyboardInterrupt as stop:
        step = 0 if state is None else int(state.step)
        status = stopped(step, "this is the fit so far", stop)
    except BrokenStreamError as broken:
        step = 0 if state is None else int(jax.device_get(state.step))
        if not step and begun is None and not isinstance(init, Fit):
            raise broken.error from None  # there is no fit yet
        status = stopped(step, describe_error(broken.error), broken.error)
    assert status is not None
    if reader is not None and status.cause is not None:
        reader.abandon()  # what it waits for may never come
    drift, seen = Distance(math.nan, math.nan), found.seen if anchor else 0
    params, elbo, risen = begun, UNJUDGED, 0.0
    if state is None:
        params = ends.unjudged_start(init) if begun is None else begun
    else:
        checkpoint.save(state, course, None if status == "interrupted" else status)
        if int(jax.device_get(state.step)):
            drift = settings.last_drift(state, course)
        if reader is not None and reader.kept and rows is not None:
            ends = ends.judged_by(reader.kept, settings.spec, rows.scale)
        if not isinstance(status.cause, KeyboardInterrupt):
            try:
                params, elbo, status = _judged(settings, ends, state, begun, status)
                risen = _risen(settings, ends, state, drift, status)
            except KeyboardInterrupt as stop:
                why = f"{status.message}; interrupted in the last evaluation"
                status = Status(str(status), why, stop.with_traceback(None))
        if isinstance(status.cause, KeyboardInterrupt):
            params, elbo = _unjudged(settings, state, course, drift)
        if rows is not None:
            seen = max(seen, min(rows.num_rows, int(jax.device_get(state.step)) * rows.batch_size))
    # how far there is to go when the ELBO still rises much no distance so far tells
    to_go = math.inf if risen else drift.most
    trace_ = course.trace(0 if state is None else int(jax.device_get(state.step)))
    left = 0.0 if rows is None or not seen else unread(rows.num_rows, seen)
    fit = Fit(
        guide=guide,
        params=params,
        status=_with_drift(status, drift, risen, left, seen, rows),
        elbo=elbo,
        trace=trace_,
        num_gradients=len(trace_) * settings.draws,
        density=density,
        key=key,
        drift=to_go if math.isnan(to_go) else max(to_go, left),
        alarms=() if found.start is None else found.start.alarms,
    )
    if not guide.local:
        density.place_window(fit.gaussian.loc, fit.gaussian.sds)
    return fit


def _judged(
    settings: Stochastic, ends: FlatEnds | RowEnds, state: State, of_plan: Any, status: Status
) -> tuple[Any, Estimate, Status]:
    """Return the parameters that the fit ends with, their ELBO and what the status has become."""
    moved = int(jax.device_get(state.step)) > 0 and any(settings.averaged)
    average = jax.device_get(settings.average(state)) if moved else None
    params, elbo = ends.better(average, jax.device_get(state.params))
    before = None if of_plan is None else ends.better(None, of_plan)[1]
    if before is not None and _lost(before, elbo, structure_of(settings.guide).dim):
        why = "the steps led away from where the plan on some rows had ended, which is kept; "
        return of_plan, before, Status("diverged", why + status.message, status.cause)
    if status == "diverged":
        status = Status("diverged", f"{status.message}; {ends.blame(params)}")
    return params, elbo, status


def _unjudged(
    settings: Stochastic, state: State, course: Course, drift: Distance
) -> tuple[Any, Estimate]:
    """Return parameters to end with, and an ELBO, without evaluating the density.

    While means still move by more than an sd, the last ones are the best; at rest the average is.
    The ELBO is that of the last steps, where it is what they maximise.
    """
    step = int(jax.device_get(state.step))
    arrays = settings.average(state) if drift.most < 1 else state.params
    last = course.elbos(step)[-LAST_ELBOS:].astype(float)
    last = last[np.isfinite(last)]
    objective = settings.objective
    known = len(last) > 1 and isinstance(objective, Elbo) and objective.beta == 1
    return jax.device_get(arrays), Estimate.of(last) if known else UNJUDGED


def _risen(
    settings: Stochastic, ends: FlatEnds | RowEnds, state: State, drift: Distance, status: Status
) -> float:
    """Return by how many nats the ELBO still rose, or 0 where it did not or nothing can be told.

    The windows of a fit that is far too wide are near in its own sds, however far it has to go.
    The ELBOs of its steps are then as noisy as it is wide, so the windows' averages are compared,
    on common draws.
    """
    objective, guide = settings.objective, settings.guide
    if not isinstance(objective, Elbo) or objective.beta != 1:
        return 0.0
    windows = settings.windows(state)
    known = drift.most > MAX_DRIFT or status in ("converged", "diverged")
    # points and local latents are of networks, which are often trained for as long as it pays
    if windows is None or known or guide.estimated or guide.local or isinstance(ends, RowEnds):
        return 0.0
    gain = ends.gain(*windows)
    nats = GAIN_NATS * structure_of(guide).dim + LAST_ERRORS * gain.mcse
    return gain.value if gain.value > nats else 0.0


def _with_drift(
    status: Status, drift: Distance, risen: float, left: float, seen: int, rows: Rows | None
) -> Status:
    """Return the status with what the fit had still before it, where that is much."""
    told = []
    if risen:
        told.append(
            f"still moving at the end: the ELBO rose by {risen:.2g} nats over the last half of the "
            "steps"
        )
    elif drift.most > MAX_DRIFT:
        told.append(f"still moving at the end: {drift} over the last half of the steps")
    if rows is not None and left > MAX_DRIFT and not math.isnan(drift.most):
        told.append(
            f"{seen:,} of {rows.num_rows:,} rows were read: if the others are like them, the means "
            f"are some {left:.2g} sd from those of all"
        )
    if not told or status == "diverged":
        return status
    message = "; ".join([status.message, *told, "give more steps"])
    return Status(str(status), message, status.cause)


def _lost(before: Estimate, after: Estimate, dim: int) -> bool:
    """Return whether an ELBO is lower than before by more than noise of the steps explains."""
    errors = LAST_ERRORS * math.hypot(before.mcse, after.mcse)
    return not before.value - after.value < LOST_NATS * (1 + dim) + errors
