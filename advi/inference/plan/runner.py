"""The evaluation of the plan's stages: the budget, the trace and the latest Gaussian."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from advi.core.status import Progress, Status
from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, run_batched
from advi.model.density import Density
from advi.variational.gaussian import Gaussian
from advi.variational.transport import Transport

FARTHEST = 1e18  # on the real scale, beyond which no log density counts as finite


class StopError(Exception):
    """The budget is spent, or the callback asked to stop."""


class Runner:
    """Evaluates the stages' requests; keeps the latest Gaussian, the trace and the budget."""

    def __init__(
        self,
        density: Density,
        gaussian: Gaussian,
        max_evals: int | None,
        callback: Callable[[Progress], object] | None,
        evaluated: Callable[[str, int], None] | None = None,  # told of every evaluation
    ) -> None:
        self.density, self.gaussian = density, gaussian
        self.max_evals, self.callback, self.evaluated = max_evals, callback, evaluated
        self.evals = 0
        self.stage = "start"
        self.trace: list[Progress] = []
        self.transport: Transport | None = None  # the latest one that is no Gaussian

    @classmethod
    def after(
        cls,
        trace: Sequence[Progress],
        stage: str,
        density: Density,
        gaussian: Gaussian,
        max_evals: int | None,
        callback: Callable[[Progress], object] | None,
    ) -> "Runner":
        """Return a runner of a stage after those of a trace, whose evaluations it counts."""
        runner = cls(density, gaussian, max_evals, callback)
        runner.trace, runner.stage = list(trace), stage
        runner.evals = trace[-1].step if trace else 0
        return runner

    def stopped(self, stop: StopError | KeyboardInterrupt) -> Status:
        """Return the status after the budget is spent, the callback asked to stop, or Ctrl-C."""
        if isinstance(stop, StopError):
            return Status(*stop.args)
        where = f"in stage {self.stage!r}; this is the fit so far"
        if not self.trace:
            where = "before the first stage had ended; this is where it would have started"
        return Status("interrupted", f"interrupted {where}", KeyboardInterrupt())

    def run(self, *stages: Stage[Any]) -> list[Any]:
        return run_batched(stages, self._evaluate)

    def accepted_transport(self, transport: Transport, elbo: float) -> None:
        self.transport = transport
        self._progressed(elbo)

    def accepted(self, stage: str, gaussian: Gaussian, elbo: float) -> None:
        self.stage, self.gaussian = stage, gaussian
        self._progressed(elbo)

    def _progressed(self, elbo: float) -> None:
        rows = self.density.log_joint.num_rows
        progress = Progress(self.stage, self.evals, float(elbo), num_rows=rows)
        self.trace.append(progress)
        if self.callback is not None and self.callback(progress):
            raise StopError("interrupted", "the callback asked to stop")

    @property
    def spent(self) -> str:
        return f"{self.evals} evaluations, {self.density.num_gradients} gradients"

    def _evaluate(self, points: Floats) -> tuple[Floats, Floats]:
        if self.max_evals is not None and self.evals >= self.max_evals:
            raise StopError("max_steps", f"stopped after max_steps={self.max_evals} evaluations")
        self.evals += 1
        if self.evaluated is not None:
            self.evaluated(self.stage, self.evals)
        values, gradients = self.density.value_and_grad(points)
        # beyond, squares overflow
        values[~(np.abs(points).max(1, initial=0) < FARTHEST)] = np.nan
        return values, gradients
