"""The two ends of a fit by steps: the parameters that it starts from, and those that it ends with.

What they need to know of a posterior is its ELBO at some parameters on common draws, and where that
is finite. Latents that all rows share and local ones differ in both.
"""

from typing import Any, Protocol, Self

import numpy as np

from advi.core.status import Estimate
from advi.data.spec import DataSpec

START_SDS = (0.1, 0.01, 0.001, 1e-4, 1e-6)
GAIN_ERRORS = 2.0  # standard errors of a difference of ELBOs that count as one
NOTHING_FOUND = "the log density is finite where the fit is now: the step size is too large"


class Ends(Protocol):
    """Where a fit starts and what it ends with."""

    def judged_by(self, batches: list[Any], spec: DataSpec, scale: float) -> Self:
        """Return the ends of a fit to rows of which only some batches were kept."""
        ...

    def initial_params(self, init: Any) -> Any:
        """Return the parameters to start from, whatever the log density there."""

    def start(self, init: Any) -> Any:
        """Return the parameters to start from, their scale small enough for finite values.

        Raises
        ------
        TypeError, ValueError
            If `init` is wrong, or no scale gives finite values.
        """

    def elbo(self, params: Any) -> Estimate:
        """Return the ELBO on fresh draws, nats."""
        ...

    def select(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        """Return the averaged parameters, or the last if common draws show them to be better.

        The last are better while a fit still improves; at rest the average is, by less than
        shows. There is no average, None, where nothing was averaged.
        """
        ...

    def gain(self, before: Any, after: Any) -> Estimate:
        """Return by how many nats the ELBO of some parameters is above that of others."""
        ...

    def nonfinite(self, params: Any) -> str:
        """Return what makes the log density or its gradient non-finite, in words."""
        ...


def last_is_better(gain: Estimate, average_elbos: Any) -> bool:
    """Return whether the last parameters are to be taken, by their gain over the average."""
    finite = np.all(np.isfinite(average_elbos))
    return bool(gain.value > GAIN_ERRORS * gain.mcse or not finite)
