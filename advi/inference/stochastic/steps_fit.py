"""One fit by steps, from its start to its end."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from advi.core import interrupts
from advi.core.errors import describe_error
from advi.core.keys import Stream, host_rng
from advi.core.progress_bar import ProgressBar
from advi.core.status import MAX_DRIFT, Estimate, Progress, Snapshot, Status
from advi.core.step_keys import step_key
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
    gradient_norm,
    last_drift,
    run_steps,
    stopped,
    windows,
)
from advi.inference.stochastic.steps import State, Steps
from advi.inference.stochastic.validation import Best, Validation, with_kept
from advi.inference.stochastic.warm_start import Found
from advi.model.checks.first_points import refuse_unmoved
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.variational.gaussian import project
from advi.variational.objective import Elbo

WORSE_NATS = 0.1  # of the ELBO, per coordinate, by which steps may end below their start
GAIN_NATS = 1.0  # of the ELBO, per coordinate, that a converged fit cannot still gain
LAST_ELBOS = 128  # steps whose ELBO is that of an interrupted fit
UNKNOWN = Estimate(math.nan, math.nan)


class StepsFit:
    """One fit by steps: its start, the steps, and its end."""

    def __init__(
        self,
        max_steps: int | None,
        steps: Steps,
        density: Density,
        found: Found,
        init: Any,
        key: Any,
        held_out: Validation | None = None,
    ) -> None:
        self.held_out = held_out
        self.max_steps, self.steps, self.density = max_steps, steps, density
        self.found, self.init, self.key = found, init, key
        self.step_key, self.rng = step_key(key), host_rng(key, Stream.ENDS)
        self.guide = steps.guide  # for all rows, not those of a batch
        if steps.guide.local and steps.batching is not None:
            self.guide = steps.guide.with_rows(steps.batching.num_rows)
        self.ends: Ends = GlobalEnds((density,), self.guide, self.rng, found.sampler)
        if self.guide.local:
            self.ends = LocalEnds.of(density, self.guide, key)
        self.start, self.control = None, ()
        if found.start is not None:
            q = project(found.start.gaussian, self.guide.structure)
            self.start, self.control = self.guide.params_of(q, density.dtype), found.start.control

    def take_steps(
        self, checkpoint: Checkpoint, blocks: Blocks, bar: ProgressBar
    ) -> tuple[State | None, History, Status]:
        """Take the steps; return the state, None before the first, the history and the status."""
        state, history, status = None, History([], []), self.found.stopped
        try:
            if status is None:
                for state, history, status in self._states(checkpoint, blocks, bar):  # noqa: B007
                    checkpoint.offer(state, history)
        except KeyboardInterrupt as stop:
            status = stopped(_num_steps(state), "this is the fit so far", stop)
        except BrokenStreamError as broken:
            step = _num_steps(state)
            if not step and self.start is None and not isinstance(self.init, FitRecord):
                raise broken.error from None  # there is no fit yet
            status = stopped(step, describe_error(broken.error), broken.error)
        assert status is not None
        if status.cause is not None:
            blocks.abandon()
        return state, history, status

    def _states(
        self, checkpoint: Checkpoint, blocks: Blocks, bar: ProgressBar
    ) -> Iterator[tuple[State, History, Status | None]]:
        interrupts.check()
        params, max_steps = self.start, self.max_steps
        if params is None:
            params = self.ends.start(self.init)
            if not self.guide.local and not self.density.is_partial:
                refuse_unmoved(self.density, self.guide.to_gaussian(params).loc)
        start = self.steps.init(params, self.step_key, self.rng, self.control)
        held_out, data = self.held_out, self.density.data
        history = History([], [], 0 if held_out is None else held_out.next_due(0))
        resumed = checkpoint.resume(self.steps, start, history, data, self.key, max_steps, held_out)
        if held_out is not None:
            held_out.check_start(resumed[0].params)
        yield resumed
        state, history, status = resumed

        def report(progress: Progress, state: State, history: History, block: Any) -> object:
            snapshot = Snapshot(
                lambda: self.so_far(state, history), lambda: gradient_norm(self.steps, state, block)
            )
            return bar.update(progress, snapshot)

        if status is None:
            num, until_converged = max_steps or MAX_STEPS, max_steps is None
            yield from run_steps(
                self.steps, state, history, blocks, num, until_converged, report, held_out
            )

    def so_far(self, state: State, history: History) -> FitRecord:
        """Return the fit at a state of the steps, without an evaluation of the density."""
        step = _num_steps(state)
        params, elbo = self._unevaluated(state, history, last_drift(self.steps, state, history))
        status = Status("interrupted", f"the fit so far, after step {step}")
        trace = history.trace(step)
        outcome = Outcome(status, elbo, trace, step * self.steps.draws, num_rows=self._num_rows)
        return self._record(params, outcome)

    def finished(
        self,
        state: State | None,
        history: History,
        status: Status,
        checkpoint: Checkpoint,
        kept: list[Any],
    ) -> FitRecord:
        drift, seen = Distance(math.nan, math.nan), self.found.seen if self.control else 0
        batching, step = self.steps.batching, _num_steps(state)
        params, elbo, risen = self.start, UNKNOWN, 0.0
        if state is None and self.start is None:
            params = self.ends.initial_params(self.init)
        if state is not None:
            checkpoint.save(state, history, None if status == "interrupted" else status)
            if step:
                drift = last_drift(self.steps, state, history)
            if batching is not None:
                # one of some rows is right for these alone
                control = state.control if self.found.seen == batching.num_rows else ()
                self.ends = self.ends.in_batches(kept, self.steps.spec, batching.scale, control)
            if not isinstance(status.cause, KeyboardInterrupt):
                try:
                    params, elbo, status = self._selected(state, status)
                    risen = self._risen(state, drift, status)
                    if history.best is not None:
                        params, elbo, status = self._better(history.best, params, elbo, status)
                except KeyboardInterrupt as stop:
                    why = f"{status.message}; interrupted in the last evaluation"
                    status = Status(str(status), why, stop.with_traceback(None))
            if isinstance(status.cause, KeyboardInterrupt):
                params, elbo = self._unevaluated(state, history, drift)
                if (best := history.best) is not None:
                    params, elbo = (
                        jax.device_get(best.params),
                        self._elbo_of_steps(history, best.step),
                    )
                    status = with_kept(status, f"step {best.step}")
            if batching is not None:
                seen = max(seen, min(batching.num_rows, step * batching.batch_size))
        # while the ELBO still rises much, no distance so far bounds the remaining one
        to_go = math.inf if risen else drift.most
        left = distance_of_unread(batching.num_rows, seen) if batching is not None and seen else 0.0
        if self.held_out is not None:
            status = self.held_out.told(status, history.evals)
        trace = history.trace(step)
        outcome = Outcome(
            _with_drift(status, drift, risen, left, seen, batching),
            elbo,
            trace,
            len(trace) * self.steps.draws,
            drift=to_go if math.isnan(to_go) else max(to_go, left),
            alarms=() if self.found.start is None else self.found.start.alarms,
            num_rows=self._num_rows,
        )
        return self._record(params, outcome)

    def _record(self, params: Any, outcome: Outcome) -> FitRecord:
        if self.guide.local:
            return FitRecord(LocalPosterior.of(self.guide, params, self.density), outcome, self.key)
        posterior = GlobalPosterior(self.guide, params, self.density)
        self.density.place_window(posterior.gaussian.loc, posterior.gaussian.sds)
        return FitRecord(posterior, outcome, self.key)

    @property
    def _num_rows(self) -> int:
        """Number of rows of the log-joint; 0 where it returns a scalar."""
        batching = self.steps.batching
        return self.density.log_joint.num_rows or 0 if batching is None else batching.num_rows

    def _selected(self, state: State, status: Status) -> tuple[Any, Estimate, Status]:
        """Return the final parameters, their ELBO and the new status."""
        moved = _num_steps(state) > 0 and any(self.steps.averaged)
        average = jax.device_get(averaged_params(self.steps, state)) if moved else None
        params, elbo = self.ends.select(average, jax.device_get(state.params))
        if self.start is not None and self._fell(params):
            before = self.ends.elbo(self.start)
            why = "the steps led away from where the plan on some rows had ended, which is kept; "
            return self.start, before, Status("diverged", why + status.message, status.cause)
        if status == "diverged":
            found = self.ends.nonfinite(params)
            status = Status("diverged", f"{status.message}; {found}")
        return params, elbo, status

    def _fell(self, params: Any) -> bool:
        """Return whether the ELBO is lower than at the start, beyond the noise of the steps."""
        nats = -WORSE_NATS * (1 + self.guide.structure.dim)
        gain = self.ends.gain(self.start, params, threshold=nats)
        return not gain.value > nats - GAIN_ERRORS * gain.mcse

    def _better(
        self, best: Best, params: Any, elbo: Estimate, status: Status
    ) -> tuple[Any, Estimate, Status]:
        """Return the parameters of the highest held-out ELBO, those of the end or the best so far.

        With their ELBO and the new status.
        """
        assert self.held_out is not None
        if self.held_out.elbo(jax.device_put(params)) > best.elbo:
            return params, elbo, with_kept(status, "the end")
        params = jax.device_get(best.params)
        return params, self.ends.elbo(params), with_kept(status, f"step {best.step}")

    def _unevaluated(self, state: State, history: History, drift: Distance) -> tuple[Any, Estimate]:
        """Return final parameters, and an ELBO, without evaluating the density.

        While means still move by more than an sd the last ones are the best, later the average. The
        ELBO is that of the last steps, if it is their objective.
        """
        params = averaged_params(self.steps, state) if drift.most < 1 else state.params
        return jax.device_get(params), self._elbo_of_steps(history, _num_steps(state))

    def _elbo_of_steps(self, history: History, step: int) -> Estimate:
        """Return the ELBO of the steps that end with one, if it is their objective."""
        last = history.elbos(step)[-LAST_ELBOS:].astype(float)
        last = last[np.isfinite(last)]
        return Estimate.of(last) if len(last) > 1 and self._maximises_elbo else UNKNOWN

    @property
    def _maximises_elbo(self) -> bool:
        return isinstance(self.steps.objective, Elbo) and self.steps.objective.beta == 1

    def _risen(self, state: State, drift: Distance, status: Status) -> float:
        """Return the nats by which the ELBO still rose; 0 if it did not, or is unknown.

        The windows of a fit that is far too wide are near in its own sds, however far it is from
        the optimum. The ELBOs of its steps are then noisy, so the windows' averages are compared,
        on common draws.
        """
        both = windows(self.steps, state)
        known = drift.most > MAX_DRIFT or status in ("converged", "diverged")
        # points and local latents are of networks, which are often trained while it pays
        trained = self.guide.estimated or self.guide.local
        if not self._maximises_elbo or both is None or known or trained:
            return 0.0
        nats = GAIN_NATS * self.guide.structure.dim
        gain = self.ends.gain(*both, threshold=nats)
        return gain.value if gain.value > nats + GAIN_ERRORS * gain.mcse else 0.0


def _num_steps(state: State | None) -> int:
    return 0 if state is None else int(jax.device_get(state.step))


def _with_drift(
    status: Status, drift: Distance, risen: float, left: float, seen: int, batching: Batching | None
) -> Status:
    """Return the status with the estimated distance from the optimum, if that is large."""
    told = []
    if risen:
        rise = f"the ELBO rose by {risen:.2g} nats"
        told.append(f"still moving at the end: {rise} over the last half of the steps")
    elif drift.most > MAX_DRIFT:
        told.append(f"still moving at the end: {drift} over the last half of the steps")
    if batching is not None and left > MAX_DRIFT and not math.isnan(drift.most):
        told.append(
            f"{seen:,} of {batching.num_rows:,} rows were read: if the others are like them, the "
            f"means are some {left:.2g} sd from those of all"
        )
    if not told or status == "diverged":
        return status
    return Status(str(status), "; ".join([status.message, *told, "give more steps"]), status.cause)
