"""Reference moments: importance sampling, then short HMC where that fails."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics import hmc
from advi.diagnostics.importance_sampling import Adapted, importance_sampling
from advi.model.density import Density
from advi.variational.gaussian import Gaussian, Structure

CHECK_ROUNDS, CORRECT_ROUNDS = 5, 8
COSTLY = 2**20  # elements read by one density, above which fewer chains are run
FEW_CHAINS = 96
MAX_ELEMENTS = 2**25  # of the points of all chains
MAX_DIM = MAX_ELEMENTS // (hmc.STEPS * FEW_CHAINS)
# A correction begins at the fit, and short runs stay in its neighbourhood. Of hierarchies with
# known moments, all corrections within these limits, in both together, were complete; others may
# lack a part of a neck or a tail.
MAX_FAR_SHIFT, MAX_FAR_STRETCH = 0.5, 2.0


class Moments(NamedTuple):
    """Means and sds of the columns, (K,)."""

    mean: Floats
    sd: Floats


@dataclass(frozen=True)
class Target:
    """The posterior, its fit, and the columns, scalar quantities on the constrained scale."""

    density: Density
    gaussian: Gaussian  # the fit
    structure: Structure
    columns: Callable[[Floats], Floats]  # of points (n, D): (n, K)
    own_columns: Callable[[], Floats]  # of the fit's own draws: (n, K)

    @cached_property
    def moments(self) -> Moments:
        """Moments of the fit's columns."""
        with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
            columns = self.own_columns()
            return Moments(columns.mean(0), columns.std(0))

    @cached_property
    def marginal(self) -> Gaussian:
        """The fit of the random coordinates."""
        random = np.flatnonzero(self.structure.random)
        return Gaussian(self.gaussian.loc[random], self.gaussian.scale.take(random))

    def points(self, Y: Floats) -> Floats:
        """Return points (n, D) of random coordinates (n, dim), with the others at the fit."""
        if self._all_random:
            return Y
        X = np.tile(self.gaussian.loc, (len(Y), 1))
        X[:, self.structure.random] = Y
        return X

    def value(self, Y: Floats) -> Floats:
        """Return log densities (n,)."""
        return self.density.value(self.points(Y))

    def value_and_grad(self, Y: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) and gradients (n, dim)."""
        values, gradients = self.density.value_and_grad(self.points(Y))
        return values, gradients if self._all_random else gradients[:, self.structure.random]

    @cached_property
    def _all_random(self) -> bool:
        return bool(self.structure.random.all())


class ReferenceMoments(NamedTuple):
    """Draws nearer to the posterior than the fit's, and their moments."""

    method: str  # "importance sampling" | "HMC"
    draws: WeightedDraws  # points on R^D
    moments: Moments
    # The fit's moments to compare with; of the same draws if these are weighted draws of the fit,
    # so that the Monte Carlo errors cancel.
    own: Callable[[], Moments]
    khat: float  # of the weights, -inf without
    confident: bool  # whether the moments are reliable
    failed: bool  # whether they are useless: collapsed weights, chains that had not converged

    @property
    def size(self) -> str:
        """The number of draws, as printed."""
        num = len(self.draws.weights)
        if self.method == "HMC":
            return f"{num} draws of {num // (hmc.STEPS // 2)} chains"
        return f"{self.draws.ess:.0f} effective of {num} draws, k-hat {self.khat:.2f}"


def reference_moments(
    target: Target, first: Gaussian, rng: np.random.Generator, rounds: int, *, early: bool = False
) -> tuple[Adapted, list[ReferenceMoments]]:
    """Return the importance sampling and one or two estimates, the more reliable last.

    HMC gives the second where importance sampling is unreliable. `first` is a Gaussian over the
    random coordinates, `rounds` the largest number of rounds of 1,000 draws; with `early` fewer
    draws suffice if they show that `first` is right.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        adapted = importance_sampling(target.value, first, rng, rounds, early=early)
        found = [_weighted(target, adapted, first is target.marginal)]
        if not adapted.reliable:
            found.append(by_hmc(target, adapted, rng))
    return adapted, found


class Shift(NamedTuple):
    """The distance of a correction from its proposal, on the real scale."""

    shift: float  # largest difference of means in the proposal's sds
    stretch: float  # largest ratio of sds, either way

    @property
    def far(self) -> bool:
        """Whether the correction may be incomplete."""
        of_both = self.shift / MAX_FAR_SHIFT, np.log(self.stretch) / np.log(MAX_FAR_STRETCH)
        return not np.hypot(*of_both) <= 1  # nor if they are NaN

    def __str__(self) -> str:
        return (
            f"means moved by up to {self.shift:.2g} sd and sds changed by up to a factor "
            f"{self.stretch:.2g}"
        )


def shift_from(target: Target, first: Gaussian, better: ReferenceMoments) -> Shift:
    """Return the distance of a correction from its first proposal."""
    Y = better.draws.points[:, target.structure.random]
    mean, sd = weighted_moments(Y, better.draws.weights)
    stretch = np.exp(np.max(np.abs(np.log(sd / first.sds))))
    return Shift(float(np.max(np.abs(mean - first.loc) / first.sds)), float(stretch))


def _weighted(target: Target, adapted: Adapted, of_fit: bool) -> ReferenceMoments:
    draws = WeightedDraws(target.points(adapted.draws.points), adapted.draws.weights)
    # draws without weight may lie where a column overflows
    heavy = draws.weights > 0
    kept = WeightedDraws(draws.points[heavy], draws.weights[heavy])
    columns = target.columns(kept.points)

    def own() -> Moments:
        if of_fit and not adapted.adapted and heavy.all():
            return Moments(columns.mean(0), columns.std(0))
        return target.moments

    found = Moments(*weighted_moments(columns, kept.weights))
    failed = adapted.collapsed and not adapted.reliable
    return ReferenceMoments(
        "importance sampling", kept, found, own, adapted.khat, adapted.reliable, failed
    )


def by_hmc(target: Target, adapted: Adapted, rng: np.random.Generator) -> ReferenceMoments:
    """Return the moments of short chains.

    They begin at importance draws, or at the first proposal's if the weights have collapsed.
    """
    fitting = MAX_ELEMENTS // (hmc.STEPS * len(adapted.proposal.loc))
    costly = target.density.log_joint.cost > COSTLY
    num = FEW_CHAINS if costly else int(np.clip(fitting, FEW_CHAINS, hmc.CHAINS))
    start = adapted.first_draws(num, rng) if adapted.collapsed else adapted.draws.resample(num, rng)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        chains = hmc.short_hmc(target.value_and_grad, start, adapted.proposal, rng)
        steps, num, _ = chains.points.shape
        columns = target.columns(target.points(chains.points.reshape(steps * num, -1)))
        converged = hmc.converged(columns.reshape(steps, num, -1))
        kept = chains.kept
        late = columns[len(columns) - len(kept) :]
        draws = WeightedDraws(target.points(kept), np.full(len(kept), 1 / len(kept)))
        found = Moments(late.mean(0), late.std(0))
        return ReferenceMoments(
            "HMC", draws, found, lambda: target.moments, -np.inf, converged, not converged
        )
