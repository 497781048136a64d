"""Reference moments: importance sampling, then short HMC where that fails."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws, weighted_moments
from advi.core.types import Floats
from advi.diagnostics import hmc
from advi.diagnostics.cost import seconds_per_factor, seconds_per_hessian
from advi.diagnostics.hub_precisions import num_precisions
from advi.diagnostics.importance_sampling import Adapted, importance_sampling
from advi.diagnostics.long_hmc import Sampler, Segment, run_until_converged
from advi.diagnostics.monte_carlo_error import MonteCarloError
from advi.diagnostics.nested_sampling import nested_sampling
from advi.diagnostics.target import Moments, Target
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian

CHECK_ROUNDS, CORRECT_ROUNDS = 5, 20
COSTLY = 2**20  # elements read by one density, above which fewer chains are run
FEW_CHAINS = 96
MAX_ELEMENTS = 2**25  # of the points of all chains
MAX_KEPT = 10_000  # draws of long chains
CHUNK = 512  # states whose very many columns are held at once
STATES = 512  # kept, where chains may begin
# Of nested importance sampling: draws of hubs in a round, the fewest, and the most of a check and a
# correction; predicted seconds of a round; rounds, the fewest, and the most where all take so long.
MIN_NESTED, CHECK_NESTED, CORRECT_NESTED, CHECK_SECONDS, CORRECT_SECONDS = 64, 128, 256, 10.0, 20.0
MIN_ROUNDS, MAX_ROUNDS, ALL_SECONDS = 3, 8, 30.0
MAX_ERROR = 0.07  # Monte Carlo error, sds, of any mean but those in long latents
MAX_CHAIN_DIM = 8192  # of chains whose every state is held
MAX_DIM = MAX_ELEMENTS // (hmc.STEPS * FEW_CHAINS)
MAX_NESTED_DIM = 2**18  # of a Gaussian with a sparse precision
# A correction begins at the fit, and short runs stay in its neighbourhood. Of hierarchies with
# known moments, all corrections within these limits, in both together, were complete; others may
# lack a part of a neck or a tail.
MAX_FAR_SHIFT, MAX_FAR_STRETCH = 0.5, 2.0


class ReferenceMoments(NamedTuple):
    """Draws nearer to the posterior than the fit's, and their moments."""

    method: str  # "importance sampling" | "nested importance sampling" | "HMC"
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
    if target.hessian is not None and 0 < len(target.hessian.hubs) < target.hessian.dim:
        budget = (CHECK_SECONDS, CHECK_NESTED) if early else (CORRECT_SECONDS, CORRECT_NESTED)
        adapted, nested = by_nested_sampling(target, target.hessian, rng, *budget)
        return adapted, [nested]
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


def by_nested_sampling(
    target: Target, hessian: SparseHessian, rng: np.random.Generator, seconds: float, most: int
) -> tuple[Adapted, ReferenceMoments]:
    """Return the moments of nested importance draws: of hubs, and of the others given these.

    A round has at most `most` draws of hubs, and fewer where they would take more `seconds`.
    """
    num, rounds = _num_nested(target.density, hessian, seconds, most)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        proposal = target.widened
        found = nested_sampling(target.density, hessian, proposal, rng, num, rounds)
        hubs, draws = found.hubs, found.draws
        columns = target.columns(draws.points)
        columns[draws.weights == 0] = 0.0  # where they may overflow
        moments = Moments(*weighted_moments(columns, draws.weights))
        error = MonteCarloError.of_draws(draws.ess, columns.shape[1])
        if not hubs.adapted:  # most of the errors is that of draws of the proposal, and known
            of_proposal = target.columns(found.of_proposal)
            error = _of_pairs(columns, draws, of_proposal, found.kept)
            moments = _relative(moments, of_proposal, target.moments_of(proposal))
            draws = _matched(draws, found.of_proposal, proposal)
    adapted = Adapted(
        draws, hubs.khat, hubs.log_ratios, hubs.first_khat, target.first, hubs.share,
        adapted=hubs.adapted,
    )  # fmt: skip
    short = slice(None) if target.many is None else target.many.short
    reliable = found.reliable and bool(error.shift[short].max(initial=0.0) <= MAX_ERROR)
    failed = adapted.collapsed and not reliable
    return adapted, ReferenceMoments(
        "nested importance sampling", draws, moments, lambda: target.moments, hubs.khat,
        reliable, failed, draws.resample(STATES, np.random.default_rng(0)), error=error,
    )  # fmt: skip


def _num_nested(
    density: Density, hessian: SparseHessian, seconds: float, most: int
) -> tuple[int, int]:
    """Return the number of draws of hubs in a round, even, and the most rounds."""
    first, per_factor = num_precisions(len(hessian.hubs)), seconds_per_factor(hessian)
    of_first = first * (seconds_per_hessian(density, hessian) + per_factor)
    num = int(np.clip(first + (seconds - of_first) / per_factor, MIN_NESTED, most)) // 2 * 2
    return num, int(np.clip((ALL_SECONDS - of_first) / (num * per_factor), MIN_ROUNDS, MAX_ROUNDS))


def _relative(moments: Moments, of_proposal: Floats, known: Moments) -> Moments:
    """Return moments by their differences from those of equal draws of a proposal, and its own."""
    mean, sd = of_proposal.mean(0), of_proposal.std(0)
    unit = np.where(sd > 0, sd, 1.0)
    factor = np.where(sd > 0, moments.sd / unit, 1.0)
    return Moments(known.mean + (moments.mean - mean) / unit * known.sd, known.sd * factor)


def _matched(draws: WeightedDraws, of_proposal: Floats, proposal: Gaussian) -> WeightedDraws:
    """Return draws moved and scaled, coordinate by coordinate, to moments of less error."""
    mean, sd = weighted_moments(draws.points, draws.weights)
    exact = Moments(proposal.loc, proposal.sds)
    better = _relative(Moments(mean, sd), of_proposal, exact)
    factor = better.sd / np.where(sd > 0, sd, 1.0)
    return WeightedDraws(better.mean + (draws.points - mean) * factor, draws.weights)


def _of_pairs(
    columns: Floats, draws: WeightedDraws, of_proposal: Floats, kept: int
) -> MonteCarloError:
    """Return the errors of differences between weighted draws and equal ones at the same noise.

    Both halves of the draws are antithetic.
    """
    mean, sd = weighted_moments(columns, draws.weights)
    sd = np.where(sd > 0, sd, 1.0)
    weights, errors = draws.weights[:, None] * len(columns), []
    for power in (1, 2):
        differences = (
            weights * (columns - mean) ** power - (of_proposal - of_proposal.mean(0)) ** power
        )
        of_pairs = differences.reshape(2, -1, kept, len(sd)).mean((0, 2)) / (power * sd**power)
        errors.append(of_pairs.std(0) / np.sqrt(len(of_pairs)))
    return MonteCarloError(*errors)


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
            if target.many is None:
                return target.columns(target.points(Z))
            parts = range(0, len(Z), CHUNK)
            return np.concatenate(
                [target.many.reduced(target.columns(Z[k : k + CHUNK])) for k in parts]
            )

        end = run_until_converged(sampler, columns, stop, report)
        if end is None:
            return None
        steps, chains, dim = end.points.shape
        most = MAX_KEPT if target.many is None else min(MAX_KEPT, MAX_ELEMENTS // dim)
        kept = end.points[:: max(1, steps * chains // most)]
        points = target.points(kept.reshape(-1, dim))
        flat, error = end.columns.reshape(steps * chains, -1), None
        if target.many is not None:
            flat = target.columns(points)
            by_chain = flat.reshape(*kept.shape[:2], -1).swapaxes(0, 1)
            sd = np.where(flat.std(0) > 0, flat.std(0), 1.0)
            error = MonteCarloError.of_batches(by_chain, sd, len(target.own_columns()))
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
        error,
    )
