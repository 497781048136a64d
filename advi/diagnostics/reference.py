"""Reference moments of a posterior, and their distance from the proposal that they began at."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics.long_hmc import Segment
from advi.diagnostics.monte_carlo_error import MonteCarloError
from advi.diagnostics.target import Moments, Target
from advi.variational.gaussian import Gaussian

STATES = 512  # kept, where chains may begin
NESTED = "nested importance sampling"
# A correction begins at the fit, and short runs stay in its neighbourhood. Of hierarchies with
# known moments, all corrections within these limits, in both together, were complete; others may
# lack a part of a neck or a tail. Nested draws have no such limit: their effects have their own
# Gaussian at any values of the hubs, and the few hubs have proposals that adapt.
MAX_FAR_SHIFT, MAX_FAR_STRETCH = 0.5, 2.0


class ReferenceMoments(NamedTuple):
    """Draws nearer to the posterior than the fit's, and their moments."""

    method: str  # "importance sampling" | `NESTED` | "HMC"
    draws: WeightedDraws  # points on R^D
    moments: Moments
    # The fit's moments to compare with; of the same draws if these are weighted draws of the fit,
    # so that the Monte Carlo errors cancel.
    own: Callable[[], Moments]
    khat: float  # of the weights, -inf without
    confident: bool  # whether the moments are reliable
    failed: bool  # whether they are useless: collapsed weights, chains that had not converged
    states: Floats  # (n, dim) of some of the draws, where chains may begin
    chains: Segment | None = None  # of chains that went on until they converged, or the end
    error: MonteCarloError | None = None  # known where the columns are very many

    @property
    def size(self) -> str:
        """The number of draws, as printed."""
        num = len(self.draws.weights)
        if self.chains is not None:
            steps, chains, _ = self.chains.points.shape
            return f"{chains} chains of {steps:,} steps, R-hat {self.chains.convergence.rhat:.3f}"
        if self.method == "HMC":
            return f"{num} draws of {len(self.states)} chains"
        return f"{self.draws.ess:.0f} effective of {num} draws, k-hat {self.khat:.2f}"


class Shift(NamedTuple):
    """The distance of a correction from its proposal, on the real scale."""

    shift: float  # largest difference of means in the proposal's sds
    stretch: float  # largest ratio of sds, either way

    @property
    def far(self) -> bool:
        """Whether a correction by draws of the joint density may be incomplete."""
        of_both = self.shift / MAX_FAR_SHIFT, np.log(self.stretch) / np.log(MAX_FAR_STRETCH)
        return not np.hypot(*of_both) <= 1  # nor if they are NaN

    def __str__(self) -> str:
        return (
            f"means moved by up to {self.shift:.2g} sd and sds changed by up to a factor "
            f"{self.stretch:.2g}"
        )


def shift_from(target: Target, better: ReferenceMoments, first: Gaussian) -> Shift:
    """Return the distance of a correction from its first proposal, or a fit that is no Gaussian."""
    first = first if target.transport is None else target.marginal
    Y = better.draws.points[:, target.structure.random]
    mean, sd = weighted_moments(Y, better.draws.weights)
    with np.errstate(divide="ignore", invalid="ignore"):  # of coordinates whose draws are all one
        stretch = np.exp(np.max(np.abs(np.log(sd / first.sds))))
        shift = np.max(np.abs(mean - first.loc) / first.sds)
    return Shift(float(shift), float(stretch))
