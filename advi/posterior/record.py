"""The record of a fit: the approximation, how it was found, and its examination."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from advi.core.status import Estimate, Progress, Status
from advi.core.types import Bools, Floats
from advi.core.verdict import Verdict
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.variational.gaussian import Gaussian
from advi.variational.mixture import Mixture
from advi.variational.scale import TriangularScale

# Three fifths of what "good" promises (.25 sd, a factor 1.25), so that the error of the
# reference moments does not break the promise.
MAX_SHIFT, MAX_RATIO = 0.15, 1.15
MAX_NATS = 7.0  # below the best ELBO, beyond which an optimum does not count
MODE_NATS = 3.0  # below the fit's, beyond which an optimum does not speak against it
SAME_SDS = 0.5  # optima whose means are nearer than this are one


class Comparison(NamedTuple):
    """The fit's moments against reference moments."""

    shift: Floats  # (K,) |reference mean - fit's mean| in sds, of the worst estimate
    log_ratio: Floats  # (K,) log of reference sd over the fit's, the one farthest from zero
    method: str  # the last method used

    @property
    def off_mean(self) -> Bools:
        """(K,) whether a mean is off."""
        return self.shift > MAX_SHIFT

    @property
    def off_sd(self) -> Bools:
        """(K,) whether an sd is off."""
        return np.abs(self.log_ratio) > np.log(MAX_RATIO)


class Examination(NamedTuple):
    """The result of an examination of a fit."""

    verdict: Verdict
    khat: float
    comparison: Comparison | None  # None without reliable reference moments
    # the `ReferenceMoments` of thousands of latents, which a correction can take; not in files
    reference: Any = None


class OtherMode(NamedTuple):
    """The optimum of another start, relative to that of the fit."""

    elbo_difference: float  # nats
    distance: Floats  # (D,) difference of the means in the sds of the fit
    gaussian: Gaussian | None = None  # its fit; None in a fit from a file
    labels: tuple[str, ...] = ()  # latents by whose exchange of entries it is a copy of the fit

    @property
    def counts(self) -> bool:
        """Whether it is nearly as high as the fit's optimum, or higher, and elsewhere."""
        return self.elbo_difference > -MODE_NATS and self.distance.max(initial=0) > SAME_SDS


@dataclass(frozen=True)
class Outcome:
    """How a fit ended."""

    status: Status
    # nats on fresh draws; after Ctrl-C that of the last steps, NaN if there were none
    elbo: Estimate
    trace: Sequence[Progress]  # after every step of the plan, or of an optimiser
    num_gradients: int  # of the log density, one per draw
    held_out_gap: float = math.nan  # ELBO on the plan's fixed draws less that on fresh ones, nats
    other_modes: tuple[OtherMode, ...] = ()
    # Estimated distance of a fit by steps from convergence, sds: the largest difference of means,
    # or of log sds, between averages over the last half of the steps and over the quarter before;
    # or, where not all rows were read, between the posteriors of these and of all rows. Infinite
    # where the ELBO still rose by more than a nat for each coordinate. NaN for the automatic plan,
    # and where nothing has an sd.
    drift: float = math.nan
    alarms: tuple[str, ...] = ()  # faults of the log density, a sentence each
    family_alarms: tuple[str, ...] = ()  # faults of a family of the user's own, a sentence each
    num_rows: int = 0  # of the log-joint of a fit by steps; 0 where it returns a scalar
    num_chains: int = 0  # whose draws, one chain after another, are the corrected ones; 0: none
    route: tuple[str, ...] = ()  # the rungs by which the draws were made, if more than one


@dataclass(frozen=True, eq=False)
class FitRecord:
    """A fit without methods, for algorithms, diagnostics, plots, files and exports."""

    posterior: GlobalPosterior | LocalPosterior
    outcome: Outcome
    key: Any = 0  # for the random draws of examinations and corrections
    examination: Examination | None = None  # the basis of the verdict

    @property
    def global_posterior(self) -> GlobalPosterior:
        """The approximation if no latent is local; ValueError otherwise."""
        if isinstance(self.posterior, LocalPosterior):
            raise self.posterior.no_joint_vector()
        return self.posterior

    @property
    def khat(self) -> float:
        """Pareto k-hat of q as an importance proposal; NaN if it was not examined."""
        return math.nan if self.examination is None else self.examination.khat

    def with_outcome(self, **changes: Any) -> "FitRecord":
        """Return the record with another outcome."""
        return dataclasses.replace(self, outcome=dataclasses.replace(self.outcome, **changes))


def optima_of(record: FitRecord) -> list[Gaussian]:
    """Return the Gaussians at the optima that a fit knows of, its own first.

    Of a mixture its own are its components, the heaviest first. Optima of little weight, or near
    to its own, are left out.
    """
    posterior = record.posterior
    own = [posterior.gaussian]
    if isinstance(posterior.guide.blocks[0].base, Mixture):
        log_weights, locs, trils = (np.asarray(a, np.float64) for a in posterior.params[0])
        heaviest = np.argsort(-log_weights)
        own = [Gaussian(locs[k], TriangularScale(trils[k])) for k in heaviest]
    modes = record.outcome.other_modes
    count = (m.elbo_difference > -MAX_NATS and m.distance.max(initial=0) > SAME_SDS for m in modes)
    others = (mode.gaussian for mode in itertools.compress(modes, count))
    return own + [q for q in others if q is not None]


def rungs_of(record: FitRecord) -> tuple[str, ...]:
    """Return the rungs by which q was made, without a correction of its draws."""
    route = record.outcome.route or (record.posterior.guide.description,)
    return route[:-1] if record.posterior.weighted is not None and len(route) > 1 else route
