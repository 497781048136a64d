"""Importance sampling from a Gaussian, adaptive in few dimensions, without gradients."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.types import Floats
from advi.diagnostics.proposals import Student, log_standard
from advi.diagnostics.psis import pareto_smooth
from advi.variational.draws import MAX_ADAPTED_DIM, STUDENT_DEGREES, antithetic
from advi.variational.gaussian import Gaussian
from advi.variational.scale import TriangularScale

ROUND_DRAWS = 1000
MIN_SHARE, MAX_KHAT = 0.6, 0.7
# Draws of the Gaussian need no other proposal where their effective share exceeds these: of the
# first draws, of a round, and in few dimensions, where adapted proposals reach farther out.
FIRST_SHARE, NEAR_SHARE, EQUAL_SHARE, NEAR_KHAT = 0.9, 0.8, 0.995, 0.5
FIRST_DRAWS, FIRST_OF_FEW = 256, 128
# In very many dimensions a share of the first draws below this ends it: more would not be reliable.
MANY_DIM, HOPELESS_SHARE, MAX_ELEMENTS = 512, 0.3, 2**24
COLLAPSED_SHARE = 0.1  # effective share below which moments of weighted draws are useless
RADII = 1000  # of the quadrature in `gaussian_share`


class Adapted(NamedTuple):
    """The weighted draws of all rounds, and the last proposal."""

    draws: WeightedDraws
    khat: float  # of the weights
    log_ratios: Floats  # (n,) log p - log q of the first draws, those of the Gaussian
    first_khat: float  # of these
    proposal: Gaussian
    # effective share of the draws, of all or of the last round, over that for a Gaussian posterior
    share: float
    adapted: bool  # whether proposals other than the first Gaussian were drawn from

    @property
    def collapsed(self) -> bool:
        """Whether a few draws have nearly all of the weight."""
        return self.draws.ess < COLLAPSED_SHARE * len(self.draws.weights) or self.khat > MAX_KHAT

    def first_draws(self, num: int, rng: np.random.Generator) -> Floats:
        """Return `num` draws of the first proposal, with finite log density if possible."""
        finite = np.flatnonzero(np.isfinite(self.log_ratios))
        if not len(finite):
            finite = np.arange(len(self.log_ratios))
        return self.draws.points[rng.choice(finite, num, replace=num > len(finite))]

    @property
    def reliable(self) -> bool:
        """Whether the moments of the draws are reliable.

        A part of the posterior without draws, such as the neck of a funnel, is invisible to k-hat.
        It comes with a shape that is not Gaussian, which lowers the share of adapted proposals.
        """
        return bool(self.share >= MIN_SHARE and self.khat <= MAX_KHAT)


def importance_sampling(
    log_p: Callable[[Floats], Floats],
    gaussian: Gaussian,
    rng: np.random.Generator,
    rounds: int,
    num: int = ROUND_DRAWS,
    *,
    early: bool = False,
) -> Adapted:
    """Weight draws of a Gaussian, and of further proposals if needed, in up to `rounds` rounds.

    Each round has `num` antithetic draws. Where the weights of the Gaussian's draws are nearly
    equal, more of them follow. Otherwise, in up to `MAX_ADAPTED_DIM` dimensions, the moments of the
    proposals adapt round by round; in more, further draws of the Gaussian follow if their weights
    are even enough to be reliable. With `early` it ends at nearly equal weights, which show that
    the Gaussian is right, but with too few draws for other moments.
    """
    few = len(gaussian.loc) <= MAX_ADAPTED_DIM

    def even(found: Adapted, share: float) -> bool:
        return found.share >= (EQUAL_SHARE if few else share) and found.khat <= NEAR_KHAT

    num_first = FIRST_OF_FEW if few else FIRST_DRAWS
    sample = drawn(log_p, gaussian, rng, num_first)
    found = weighted(sample, gaussian)
    if early and even(found, FIRST_SHARE):
        return found
    if len(gaussian.loc) > MANY_DIM and not found.share >= HOPELESS_SHARE:
        return found
    sample = sample.joined(drawn(log_p, gaussian, rng, num - num_first))
    found = weighted(sample, gaussian)
    if early and even(found, NEAR_SHARE):
        return found
    if few and not even(found, NEAR_SHARE):
        return adaptive(log_p, gaussian, sample, found.khat, rng, rounds)
    if found.share < MIN_SHARE:
        return found
    fitting = max(num, MAX_ELEMENTS // max(len(gaussian.loc), 1) // 2 * 2)
    sample = sample.joined(drawn(log_p, gaussian, rng, min((rounds - 1) * num, fitting)))
    return weighted(sample, gaussian)


class Sample(NamedTuple):
    """Draws of a Gaussian."""

    points: Floats  # (n, D)
    log_p: Floats  # (n,) nats
    log_ratios: Floats  # (n,) log p - log q

    def joined(self, other: "Sample") -> "Sample":
        return Sample(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))


def weighted(sample: Sample, gaussian: Gaussian) -> Adapted:
    """Return draws of a Gaussian with their importance weights."""
    weights, khat = pareto_smooth(sample.log_ratios)
    draws = WeightedDraws(sample.points, weights)
    share = draws.ess / len(weights)
    return Adapted(draws, khat, sample.log_ratios, khat, gaussian, share, adapted=False)


def drawn(
    log_p: Callable[[Floats], Floats], gaussian: Gaussian, rng: np.random.Generator, num: int
) -> Sample:
    """Return antithetic draws of a Gaussian."""
    E = antithetic(rng, num, len(gaussian.loc))
    Z = gaussian.points(E)
    values = _finite(log_p(Z))
    standard = log_standard((E**2).sum(1), E.shape[1], np.inf)
    return Sample(Z, values, values - standard + gaussian.scale.log_det(np.ones(E.shape[1], bool)))


def adaptive(
    log_p: Callable[[Floats], Floats],
    gaussian: Gaussian,
    first: Sample,
    first_khat: float,
    rng: np.random.Generator,
    rounds: int,
    kind: type[Student] = Student,
    enough: float = np.inf,
) -> Adapted:
    """Sample from Student-t proposals with adapted moments, after a `first` round of a Gaussian.

    It ends with the `rounds`, or where the proposals have settled and `enough` draws are effective.
    All rounds are weighted by the mixture of all proposals, and the weights are Pareto-smoothed.
    Cornuet, Marin, Mira & Robert (2012), Adaptive Multiple Importance Sampling, section 2.
    """
    Z, values, log_ratios = first
    num, dim = Z.shape
    proposals = [kind(gaussian.loc, gaussian.scale.tril(), np.inf)]
    densities = proposals[0].log_density(Z)[:, None]  # of every draw under every proposal
    while True:
        weights, khat = pareto_smooth(values - _log_mean_exp(densities))
        draws = WeightedDraws(Z, weights)
        proposals.append(proposals[-1].adapted(draws))
        last_round = _effective_share(values[-num:] - densities[-num:, -1]) / gaussian_share(dim)
        settled = last_round >= NEAR_SHARE and khat <= NEAR_KHAT
        if len(proposals) > rounds or (settled and draws.ess >= enough):
            break
        last = proposals[-1]
        new = last.draw(rng, num)
        values = np.concatenate([values, _finite(log_p(new))])
        under_last = last.log_density(Z)[:, None]
        of_new = np.stack([q.log_density(new) for q in proposals], axis=1)
        densities = np.concatenate([np.concatenate([densities, under_last], axis=1), of_new])
        Z = np.concatenate([Z, new])
    share = max(draws.ess / len(draws.weights) / gaussian_share(dim), last_round)
    proposal = Gaussian(proposals[-1].loc, TriangularScale(proposals[-1].scale_tril))
    return Adapted(draws, khat, log_ratios, first_khat, proposal, share, adapted=True)


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, -np.inf)


def _log_mean_exp(x: Floats) -> Floats:
    top = x.max(1)
    return top + np.log(np.exp(x - top[:, None]).mean(1))


def _effective_share(log_weights: Floats) -> float:
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def gaussian_share(dim: int) -> float:
    """Return the effective share of Student-t draws with the moments of a Gaussian target."""
    r = np.linspace(0, np.sqrt(dim) + 8, RADII + 1)[1:]
    log_p, log_q = (log_standard(r**2, dim, degrees) for degrees in (np.inf, STUDENT_DEGREES))
    of_radius = log_p + (dim - 1) * np.log(r)
    p = np.exp(of_radius - of_radius.max())
    return float(p.sum() / (p * np.exp(log_p - log_q)).sum())
