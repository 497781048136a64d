"""A fit's report about itself: its status, estimates with their error, and progress."""

import math
from typing import NamedTuple

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


class Progress(NamedTuple):
    """The progress of a fit, as passed to `callback`."""

    stage: str
    step: int  # evaluations of the plan, or optimiser steps
    elbo: float  # nats, on the draws of the stage or the last chunk of steps
    eval_elbo: float = math.nan  # nats, of the model with the held-out rows in place of its own
