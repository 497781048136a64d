"""Reference moments: importance sampling, then short HMC where that fails."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics import hmc
from advi.diagnostics.importance_sampling import Adapted, importance_sampling
from advi.diagnostics.long_hmc import Sampler, Segment, run_until_converged
from advi.diagnostics.target import Moments, Target
from advi.variational.gaussian import Gaussian

CHECK_ROUNDS, CORRECT_ROUNDS = 5, 20
COSTLY = 2**20  # elements read by one density, above which fewer chains are run
FEW_CHAINS = 96
MAX_ELEMENTS = 2**25  # of the points of all chains
MAX_KEPT = 10_000  # draws of long chains
STATES = 512  # kept, where chains may begin
MAX_DIM = MAX_ELEMENTS // (hmc.STEPS * FEW_CHAINS)
# A correction begins at the fit, and short runs stay in its neighbourhood. Of hierarchies with
# known moments, all corrections within these limits, in both together, were complete; others may
# lack a part of a neck or a tail.
MAX_FAR_SHIFT, MAX_FAR_STRETCH = 0.5, 2.0


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
    states: Floats  # (n, dim) of some of the draws, where chains may begin
    chains: Segment | None = None  # of chains that went on until they converged, or the end

    @property
    def size(self) -> str:
        """The number of draws, as printed."""
        num = len(self.draws.weights)
        if self.chains is not None:
            steps, chains, _ = self.chains.points.shape
            return f"{chains} chains of {steps:,} steps, R-hat {self.chains.convergence.rhat:.3f}"
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
        found = [_weighted(target, adapted, first is target.first)]
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


def shift_from(target: Target, better: ReferenceMoments, first: Gaussian) -> Shift:
    """Return the distance of a correction from its first proposal, or a fit that is no Gaussian."""
    first = first if target.transport is None else target.marginal
    Y = better.draws.points[:, target.structure.random]
    mean, sd = weighted_moments(Y, better.draws.weights)
    with np.errstate(divide="ignore", invalid="ignore"):  # of coordinates whose draws are all one
        stretch = np.exp(np.max(np.abs(np.log(sd / first.sds))))
        shift = np.max(np.abs(mean - first.loc) / first.sds)
    return Shift(float(shift), float(stretch))


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
        "importance sampling", kept, found, own, adapted.khat, adapted.reliable, failed,
        adapted.draws.resample(STATES, np.random.default_rng(0)),
    )  # fmt: skip


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
        steps, num, dim = chains.points.shape
        points = target.points(chains.points.reshape(-1, dim))
        columns = target.columns(points)
        converged = hmc.converged(columns.reshape(steps, num, -1))
        half = steps // 2 * num
        late, kept = columns[half:], points[half:]
        draws = WeightedDraws(kept, np.full(len(kept), 1 / len(kept)))
        found = Moments(late.mean(0), late.std(0))
        return ReferenceMoments(
            "HMC", draws, found, lambda: target.moments, -np.inf, converged, not converged,
            chains.points[-1],
        )  # fmt: skip


def by_long_hmc(
    target: Target,
    adapted: Adapted,
    start: Floats,  # states (n, dim), drawn from what is known of the posterior
    num: int,  # of chains
    rng: np.random.Generator,
    stop: Callable[[int], bool],  # of the number of gradients
    report: Callable[[Segment], object],
) -> ReferenceMoments | None:
    """Return the moments of chains that go on until they have converged, or `stop`.

    None if it comes before the end of their first segment.
    """
    states = start[rng.choice(len(start), num, replace=len(start) < num)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        of_chains = functools.partial(target.value_and_grad, repeated=True)
        sampler = Sampler(of_chains, states, adapted.proposal, rng)

        def columns(Z: Floats) -> Floats:
            return target.columns(target.points(Z))

        end = run_until_converged(sampler, columns, stop, report)
        if end is None:
            return None
        steps, chains, dim = end.points.shape
        kept = end.points[:: max(1, steps * chains // MAX_KEPT)]
        points = target.points(kept.reshape(-1, dim))
        flat = end.columns.reshape(steps * chains, -1)
    converged = end.convergence.converged
    return ReferenceMoments(
        "HMC",
        WeightedDraws(points, np.full(len(points), 1 / len(points))),
        Moments(flat.mean(0), flat.std(0)),
        lambda: target.moments,
        -np.inf,
        converged,
        not converged,
        end.points[-1],
        end,
    )
