"""A fit's report about itself: its status, estimates with their error, and progress."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats

MAX_DRIFT = 0.25  # sds from the end, beyond which a fit counts as still moving

STATUSES = ("converged", "max_steps", "interrupted", "diverged")


class Status(str):
    """Why a fit ended: one of "converged", "max_steps", "interrupted", "diverged".

    A string with two more attributes. `message` is the reason, a sentence. `cause` is the exception
    that interrupted the fit, from a stream or a KeyboardInterrupt after Ctrl-C; None otherwise, and
    once the fit was saved and loaded.

    Examples
    --------
    >>> status = Status("max_steps", "ran the 100 steps asked for")
    >>> status == "max_steps", status.message
    (True, 'ran the 100 steps asked for')
    """

    message: str
    cause: BaseException | None

    def __new__(cls, name: str, message: str, cause: BaseException | None = None) -> "Status":
        """Return the status of that name, with its sentence."""
        if name not in STATUSES:
            raise ValueError(f"status: got {name!r}; expected one of {STATUSES}.")
        status = super().__new__(cls, name)
        status.message = message
        status.cause = cause
        return status

    def __reduce__(self) -> tuple[type["Status"], tuple[str, str]]:
        return Status, (str(self), self.message)

    def __repr__(self) -> str:
        return f"Status({str(self)!r}, {self.message!r})"


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error.

    Examples
    --------
    >>> print(Estimate(-1945.85312, 0.0312))
    -1945.853 ± 0.031
    """

    value: float
    mcse: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Estimate":
        """Return the mean of independent values (n,) and its standard error."""
        with np.errstate(over="ignore", invalid="ignore"):  # values may be infinite
            return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))

    def __str__(self) -> str:
        if not (math.isfinite(self.value) and self.mcse > 0 and math.isfinite(self.mcse)):
            return f"{self.value:.6g} ± {self.mcse:.2g}"
        digits = max(0, 1 - math.floor(math.log10(self.mcse)))  # two digits of the error
        return f"{self.value:.{digits}f} ± {self.mcse:.{digits}f}"


class RowValues(NamedTuple):
    """One number per row, and their mean.

    Examples
    --------
    >>> print(RowValues.of(np.array([1.0, 2.0, 3.0])).mean)
    2.00 ± 0.58
    """

    rows: Floats  # (n,)
    mean: Estimate  # over the rows, with the standard error of a sample of rows

    @classmethod
    def of(cls, rows: Floats) -> "RowValues":
        """Return values with their mean."""
        error = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
        return cls(rows, Estimate(float(rows.mean()), float(error)))


class EvalTrace(NamedTuple):
    """The held-out ELBO over the course of a fit."""

    steps: NDArray[np.int64]  # (E,) steps taken
    values: NDArray[np.float64]  # (E,) nats


class Snapshot(NamedTuple):
    """What a callback may ask for while it runs, of the steps so far."""

    fit: Callable[[], Any]  # or the record of one
    gradient_norm: Callable[[], float]


@dataclass(frozen=True)
class Progress:
    """The progress of a fit, as passed to `callback`.

    Attributes
    ----------
    stage
        The stage of the automatic plan, or "optimize" for steps of an optimiser.
    step
        Evaluations of the plan, or steps of the optimiser.
    elbo
        Nats, of all rows: on the draws of the stage, or the mean over the last chunk of steps.
    eval_elbo
        Nats, of the model with the held-out rows in place of its own, scaled to as many. NaN where
        it was not evaluated after this chunk.
    seconds
        Since this call of `fit` began, with compilation.
    num_rows
        Rows of the log-joint; None where it returns a scalar.

    Examples
    --------
    >>> Progress("optimize", 128, elbo=-250.0, num_rows=100).elbo_per_row
    -2.5
    """

    stage: str
    step: int
    elbo: float
    eval_elbo: float = math.nan
    seconds: float = math.nan
    num_rows: int | None = None
    # one, or none once the callback has returned: a `Progress` that is kept must not keep arrays
    _snapshots: Sequence[Snapshot] = field(default=(), repr=False, compare=False)

    @property
    def elbo_per_row(self) -> float:
        """`elbo` divided by the number of rows, nats; NaN where the log-joint returns a scalar."""
        return self.elbo / (self.num_rows or math.nan)

    @property
    def eval_elbo_per_row(self) -> float:
        """`eval_elbo` divided by the number of rows, nats; NaN where it was not evaluated."""
        return self.eval_elbo / (self.num_rows or math.nan)

    def fit(self) -> Any:
        """Return the fit so far, a `Fit`, of steps of an optimiser; within the callback only.

        It is what Ctrl-C would return now, but for `keep_best`. Nothing is computed unless it is
        asked for. It holds a copy of the parameters, so that it may be kept.

        Raises
        ------
        RuntimeError
            After the callback has returned, and in the automatic plan, which has a fit only at its
            end.
        """
        if not self._snapshots:
            raise RuntimeError(
                "progress.fit(): known while the callback runs that a fit by steps of an optimiser "
                "calls, and neither afterwards nor in the automatic plan. Call it in the callback, "
                "and keep the fit that it returns."
            )
        return self._snapshots[0].fit()

    def gradient_norm(self) -> float:
        """Return the Euclidean norm of the gradient of the objective by all parameters of q.

        The gradient is that of one step at the present parameters, on fresh draws and, with
        minibatches, a batch of rows: the one that the next step takes, where rows are in memory. It
        is computed here, for the time of a step, and compiled at the first call. NaN in the
        automatic plan, and after the callback has returned.
        """
        return self._snapshots[0].gradient_norm() if self._snapshots else math.nan
