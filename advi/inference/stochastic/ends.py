"""The two ends of a fit by steps: the parameters that it starts from, and those that it ends with.

Both need ELBOs on common draws, which differ between global and local latents.
"""

from typing import Any, Protocol, Self

from advi.core.status import Estimate
from advi.data.spec import DataSpec
from advi.inference.stochastic.control_variate import Control

START_SDS = (0.1, 0.01, 0.001, 1e-4, 1e-6)
GAIN_ERRORS = 2.0  # standard errors beyond which a difference of ELBOs counts
NOTHING_FOUND = "the log density is finite where the fit is now: the step size is too large"


class Ends(Protocol):
    """The start and the end of a fit.

    `start` raises TypeError or ValueError if `init` is wrong, or no scale gives finite values. The
    last parameters are better than their average while a fit still improves; after convergence the
    average is, by less than the noise of the comparison.
    """

    # the ends of a fit in batches, of which some were kept unless all rows are in memory; `control`
    # is of all rows, or ()
    def in_batches(
        self, kept: list[Any], spec: DataSpec, scale: float, control: Control
    ) -> Self: ...
    # the parameters to start from, whatever the log density there
    def initial_params(self, init: Any) -> Any: ...
    # the same with a scale small enough for finite values
    def start(self, init: Any) -> Any: ...
    # the ELBO on fresh draws, nats
    def elbo(self, params: Any) -> Estimate: ...
    # the average, if there is one, or the last if common draws show them to be better
    def select(self, average: Any, last: Any) -> tuple[Any, Estimate]: ...
    # the ELBO of `after` less that of `before`, nats, on as many common draws as tell it from a
    # threshold
    def gain(self, before: Any, after: Any, threshold: float) -> Estimate: ...
    # the cause of a non-finite log density or gradient, in words
    def nonfinite(self, params: Any) -> str: ...


def last_is_better(gain: Estimate) -> bool:
    """Return whether the last parameters are better, by their gain over the average."""
    return gain.value > GAIN_ERRORS * gain.mcse
