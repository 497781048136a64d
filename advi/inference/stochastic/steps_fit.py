"""One fit by steps, from where it starts to what it ends with."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from advi.core import interrupts
from advi.core.errors import describe_error
from advi.core.keys import Stream, device_key, host_rng
from advi.core.progress_bar import ProgressBar
from advi.core.status import MAX_DRIFT, Estimate, Status
from advi.data.batching import Batching
from advi.data.reader import BrokenStreamError
from advi.data.source import Blocks
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.convergence import Distance, distance_of_unread
from advi.inference.stochastic.defaults import MAX_STEPS
from advi.inference.stochastic.ends import GAIN_ERRORS, Ends
from advi.inference.stochastic.global_ends import GlobalEnds
from advi.inference.stochastic.local_ends import LocalEnds
from advi.inference.stochastic.loop import (
    History,
    averaged_params,
    last_drift,
    run_steps,
    stopped,
    windows,
)
from advi.inference.stochastic.steps import State, Steps
from advi.inference.stochastic.validation import Validation
from advi.inference.stochastic.warm_start import Found, project
from advi.model.checks.first_points import refuse_unmoved
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.variational.objective import Elbo

LOST_NATS = 0.1  # of the ELBO, for every coordinate, that steps may end below their start
GAIN_NATS = 1.0  # of the ELBO, for every coordinate, that no fit which has arrived has to gain
LAST_ELBOS = 128  # steps whose ELBO stands for that of a fit which nobody waited for
UNKNOWN = Estimate(math.nan, math.nan)


class StepsFit:
    """One fit by steps: where it starts, the steps, and what they end with."""

    def __init__(
        self,
        max_steps: int | None,
        steps: Steps,
        density: Density,
        found: Found,
        init: Any,
        key: Any,
    ) -> None:
        self.max_steps, self.steps, self.density = max_steps, steps, density
        self.found, self.init, self.key = found, init, key
        self.step_key, self.rng = device_key(key, Stream.STEPS), host_rng(key, Stream.ENDS)
        self.guide = steps.guide  # for all rows, not those of a batch
        if steps.guide.local and steps.batching is not None:
            self.guide = steps.guide.with_rows(steps.batching.num_rows)
        self.ends: Ends = GlobalEnds((density,), self.guide, self.rng)
        if self.guide.local:
            self.ends = LocalEnds.of(density, self.guide, key)
        self.begun, self.control = None, ()
        if found.start is not None:
            q = project(found.start.gaussian, self.guide.structure)
            self.begun, self.control = self.guide.params_of(q, density.dtype), found.start.control

    def take_steps(
        self,
        checkpoint: Checkpoint,
        blocks: Blocks,
        bar: ProgressBar,
        validation: Validation | None,
    ) -> tuple[State | None, History, Status]:
        """Take the steps; return the state, None before there is one, and why they ended."""
        state, history, status = None, History([], []), self.found.stopped
        try:
            if status is None:
                for state, history, status in self._states(checkpoint, blocks, bar, validation):  # noqa: B007
                    checkpoint.offer(state, history)
        except KeyboardInterrupt as stop:
            status = stopped(_num_steps(state), "this is the fit so far", stop)
        except BrokenStreamError as broken:
            step = _num_steps(state)
            if not step and self.begun is None and not isinstance(self.init, FitRecord):
                raise broken.error from None  # there is no fit yet
            status = stopped(step, describe_error(broken.error), broken.error)
        assert status is not None
        if status.cause is not None:
            blocks.abandon()
        return state, history, status

    def _states(
        self,
        checkpoint: Checkpoint,
        blocks: Blocks,
        bar: ProgressBar,
        validation: Validation | None,
    ) -> Iterator[tuple[State, History, Status | None]]:
        interrupts.check()
        params, max_steps = self.begun, self.max_steps
        if params is None:
            params = self.ends.start(self.init)
            if not self.guide.local and not self.density.is_partial:
                refuse_unmoved(self.density, self.guide.to_gaussian(params).loc)
        start = self.steps.init(params, self.step_key, self.rng, self.control)
        history = History([], [], 0 if validation is None else validation.every)
        data = self.density.data
        resumed = checkpoint.resume(self.steps, start, history, data, self.key, max_steps)
        yield resumed
        if resumed.status is None:
            yield from run_steps(
                self.steps,
                resumed.state,
                resumed.history,
                blocks,
                max_steps or MAX_STEPS,
                max_steps is None,
                bar.update,
                validation,
            )

    def finished(
        self,
        state: State | None,
        history: History,
        status: Status,
        checkpoint: Checkpoint,
        kept: list[Any],
    ) -> FitRecord:
        """Return the fit that the steps end with."""
        drift, seen = Distance(math.nan, math.nan), self.found.seen if self.control else 0
        batching, step = self.steps.batching, _num_steps(state)
        params, elbo, risen = self.begun, UNKNOWN, 0.0
        if state is None:
            if self.begun is None:
                params = self.ends.initial_params(self.init)
        else:
            checkpoint.save(state, history, None if status == "interrupted" else status)
            if step:
                drift = last_drift(self.steps, state, history)
            if kept and batching is not None:
                self.ends = self.ends.judged_by(kept, self.steps.spec, batching.scale)
            if not isinstance(status.cause, KeyboardInterrupt):
                try:
                    params, elbo, status = self._selected(state, status)
                    risen = self._risen(state, drift, status)
                except KeyboardInterrupt as stop:
                    why = f"{status.message}; interrupted in the last evaluation"
                    status = Status(str(status), why, stop.with_traceback(None))
            if isinstance(status.cause, KeyboardInterrupt):
                params, elbo = self._unevaluated(state, history, drift)
            if batching is not None:
                seen = max(seen, min(batching.num_rows, step * batching.batch_size))
        # how far there is to go when the ELBO still rises much no distance so far tells
        to_go = math.inf if risen else drift.most
        left = distance_of_unread(batching.num_rows, seen) if batching is not None and seen else 0.0
        trace = history.trace(step)
        outcome = Outcome(
            _with_drift(status, drift, risen, left, seen, batching),
            elbo,
            trace,
            len(trace) * self.steps.draws,
            drift=to_go if math.isnan(to_go) else max(to_go, left),
            alarms=() if self.found.start is None else self.found.start.alarms,
        )
        if self.guide.local:
            return FitRecord(LocalPosterior.of(self.guide, params, self.density), outcome, self.key)
        posterior = GlobalPosterior(self.guide, params, self.density)
        self.density.place_window(posterior.gaussian.loc, posterior.gaussian.sds)
        return FitRecord(posterior, outcome, self.key)

    def _selected(self, state: State, status: Status) -> tuple[Any, Estimate, Status]:
        """Return the parameters to end with, their ELBO and what the status has become."""
        moved = _num_steps(state) > 0 and any(self.steps.averaged)
        average = jax.device_get(averaged_params(self.steps, state)) if moved else None
        params, elbo = self.ends.select(average, jax.device_get(state.params))
        before = None if self.begun is None else self.ends.elbo(self.begun)
        if before is not None and _lost(before, elbo, self.steps.guide.structure.dim):
            why = "the steps led away from where the plan on some rows had ended, which is kept; "
            return self.begun, before, Status("diverged", why + status.message, status.cause)
        if status == "diverged":
            found = self.ends.nonfinite(params)
            status = Status("diverged", f"{status.message}; {found}")
        return params, elbo, status

    def _unevaluated(self, state: State, history: History, drift: Distance) -> tuple[Any, Estimate]:
        """Return parameters to end with, and an ELBO, without evaluating the density.

        While means still move by more than an sd, the last ones are the best; at rest the average
        is. The ELBO is that of the last steps, where it is what they maximise.
        """
        params = averaged_params(self.steps, state) if drift.most < 1 else state.params
        last = history.elbos(_num_steps(state))[-LAST_ELBOS:].astype(float)
        last = last[np.isfinite(last)]
        known = len(last) > 1 and self._maximises_elbo
        return jax.device_get(params), Estimate.of(last) if known else UNKNOWN

    @property
    def _maximises_elbo(self) -> bool:
        return isinstance(self.steps.objective, Elbo) and self.steps.objective.beta == 1

    def _risen(self, state: State, drift: Distance, status: Status) -> float:
        """Return by how many nats the ELBO still rose, or 0 where not, or nothing can be told.

        The windows of a fit that is far too wide are near in its own sds, however far it has to
        go. The ELBOs of its steps are then as noisy as it is wide, so the windows' averages are
        compared, on common draws.
        """
        both = windows(self.steps, state)
        known = drift.most > MAX_DRIFT or status in ("converged", "diverged")
        # points and local latents are of networks, which are often trained for as long as it pays
        trained = self.guide.estimated or self.guide.local
        if not self._maximises_elbo or both is None or known or trained:
            return 0.0
        gain = self.ends.gain(*both)
        nats = GAIN_NATS * self.guide.structure.dim + GAIN_ERRORS * gain.mcse
        return gain.value if gain.value > nats else 0.0


def _num_steps(state: State | None) -> int:
    return 0 if state is None else int(jax.device_get(state.step))


def _with_drift(
    status: Status,
    drift: Distance,
    risen: float,
    left: float,
    seen: int,
    batching: Batching | None,
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
    if batching is not None and left > MAX_DRIFT and not math.isnan(drift.most):
        told.append(
            f"{seen:,} of {batching.num_rows:,} rows were read: if the others are like them, the "
            f"means are some {left:.2g} sd from those of all"
        )
    if not told or status == "diverged":
        return status
    message = "; ".join([status.message, *told, "give more steps"])
    return Status(str(status), message, status.cause)


def _lost(before: Estimate, after: Estimate, dim: int) -> bool:
    """Return whether an ELBO is lower than before by more than noise of the steps explains."""
    errors = GAIN_ERRORS * math.hypot(before.mcse, after.mcse)
    return not before.value - after.value < LOST_NATS * (1 + dim) + errors
