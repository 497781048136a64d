"""What is known of a fit: the approximation, how it was found, and what an examination found."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from advi.core.status import Estimate, Progress, Status
from advi.core.types import Bools, Floats
from advi.core.verdict import Verdict
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior

# Half-way to what "good" promises (.25 sd, a factor 1.25), so that the error of the better
# moments themselves does not break the promise.
MAX_SHIFT, MAX_RATIO = 0.15, 1.15


class Comparison(NamedTuple):
    """The fit's moments against better ones."""

    shift: Floats  # (K,) |better mean - fit's mean| in sds, the worst estimate
    log_ratio: Floats  # (K,) log of better sd over the fit's, the one farthest from zero
    method: str  # the last method used

    @property
    def off_mean(self) -> Bools:
        """Which means are off, (K,)."""
        return self.shift > MAX_SHIFT

    @property
    def off_sd(self) -> Bools:
        """Which sds are off, (K,)."""
        return np.abs(self.log_ratio) > np.log(MAX_RATIO)


class Examination(NamedTuple):
    """What an examination of a fit found."""

    verdict: Verdict
    khat: float
    comparison: Comparison | None  # None where nothing reliable was found to compare with


class OtherMode(NamedTuple):
    """Where another start was carried to: its ELBO less the winner's, and its distance."""

    elbo_difference: float  # nats
    distance: Floats  # (D,) difference of the means in the winner's sds


@dataclass(frozen=True)
class Outcome:
    """How a fit ended.

    Attributes
    ----------
    status
        Why it ended.
    elbo
        Evidence lower bound in nats on fresh draws. After Ctrl-C that of the last steps, since
        nothing more was evaluated; NaN if there were none.
    trace
        Progress after every step of the plan, or of an optimiser.
    num_gradients
        Gradients of the log density, one per draw, that were used.
    held_out_gap
        ELBO on the plan's fixed draws less that on fresh ones, nats: by what they are overfitted.
    other_modes
        Other starts that were carried to their end.
    drift
        How far a fit by steps had still to go at its end, about, sds: the largest difference of
        means, or of log sds, between the averages over the last half of the steps and over the
        quarter before; or, where not all rows were read, how far the posterior of those that were
        is from that of all. Infinite where the ELBO still rose by more than a nat for each
        coordinate, which no sd tells. NaN for the automatic plan, and where nothing has an sd.
    alarms
        What was found to be wrong with the log density, a sentence each.
    """

    status: Status
    elbo: Estimate
    trace: Sequence[Progress]
    num_gradients: int
    held_out_gap: float = math.nan
    other_modes: tuple[OtherMode, ...] = ()
    drift: float = math.nan
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FitRecord:
    """A fit without methods: diagnostics, plots, files and exports take it, and algorithms make it.

    Attributes
    ----------
    posterior
        The approximation.
    outcome
        How it was found.
    key
        What the random draws of examinations and corrections are seeded from.
    examination
        What the verdict is based on; None if nothing was examined.
    """

    posterior: GlobalPosterior | LocalPosterior
    outcome: Outcome
    key: Any = field(default=0)
    examination: Examination | None = None

    @property
    def global_posterior(self) -> GlobalPosterior:
        """The approximation of latents that all rows share.

        Raises
        ------
        ValueError
            If every data row has parameters of its own.
        """
        if isinstance(self.posterior, LocalPosterior):
            _ = self.posterior.gaussian  # which raises
        assert isinstance(self.posterior, GlobalPosterior)
        return self.posterior

    @property
    def khat(self) -> float:
        """Pareto k-hat of q as an importance proposal; NaN if it was not examined."""
        return math.nan if self.examination is None else self.examination.khat

    def with_outcome(self, **changes: Any) -> "FitRecord":
        """Return the record with another outcome."""
        return dataclasses.replace(self, outcome=dataclasses.replace(self.outcome, **changes))
