"""Nested importance sampling: hubs are weighted, the others drawn from their Gaussian given them.

Hubs are here hyperparameters: entries of short latents that very many others depend on. Given these
the others, such as effects of groups, are nearly Gaussian, with a precision of the same sparsity.
The weights are those of the joint density: where others are not Gaussian given the hubs, it shows
in their k-hat. Rue, Martino & Chopin (2009), Approximate Bayesian inference for latent Gaussian
models by using integrated nested Laplace approximations.
"""

import functools
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.types import Floats
from advi.diagnostics.given_hubs import MAX_VARIANCE, GivenHubs
from advi.diagnostics.importance_sampling import (
    FIRST_SHARE,
    MAX_KHAT,
    Adapted,
    Sample,
    adaptive,
    drawn,
    weighted,
)
from advi.diagnostics.proposals import SplitStudent
from advi.diagnostics.psis import pareto_smooth
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian

PER_DIMENSION = 20  # draws of the hubs for each of them in a round, where proposals adapt
# Effective share of draws of the fit: below, more of them do not help. Among very many hubs it is
# lowered by a little skewness of each.
MIN_PLAIN_SHARE = 0.2


class NestedDraws(NamedTuple):
    """Draws of all coordinates; `kept` of them, one after another, share their hubs."""

    draws: WeightedDraws  # (n kept, D)
    # (n kept, D) draws of the proposal at the same noise, unless draws given hubs were resampled
    of_proposal: Floats | None
    hubs: Adapted  # the importance sampling of the hubs
    kept: int
    variance: float  # of the log weights of the others given the hubs

    @property
    def reliable(self) -> bool:
        """Whether the moments of so many draws, or of more, are reliable."""
        reliable = self.hubs.reliable
        if not self.hubs.adapted:
            reliable = self.hubs.share >= MIN_PLAIN_SHARE and self.hubs.khat <= MAX_KHAT
        return reliable and self.variance <= MAX_VARIANCE

    @property
    def even(self) -> bool:
        """Whether the proposal is so nearly right that no other would be better."""
        return self.hubs.share >= FIRST_SHARE and self.hubs.khat <= MAX_KHAT


class NestedSampler:
    """Draws from a posterior with hubs, in rounds."""

    def __init__(
        self, density: Density, hessian: SparseHessian, q: Gaussian, rng: np.random.Generator
    ) -> None:
        self.rng = rng
        self.first = Gaussian(q.loc[hessian.hyperparameters], q.scale.take(hessian.hyperparameters))
        self.given = GivenHubs(density, hessian, q, rng)

    @property
    def num_given(self) -> int:
        """How many draws of the others are made given each draw of the hubs."""
        return self.given.inner

    def first_round(self, num: int) -> NestedDraws:
        """Return draws of `q`, so many of the hubs."""
        self.sample = drawn(self.given.log_density, self.first, self.rng, num)
        return self._nested(weighted(self.sample, self.first))

    def more_rounds(self, rounds: int, enough: float) -> NestedDraws:
        """Return draws of up to so many rounds, or until `enough` are effective.

        They are of proposals that adapt, or of `q` if there are very many hubs.
        """
        found, num = weighted(self.sample, self.first), len(self.sample.points)
        of = self.given.log_density, self.first
        if np.isfinite(found.khat) and num >= PER_DIMENSION * len(self.first.loc):
            found = adaptive(*of, self.sample, found.khat, self.rng, rounds, SplitStudent, enough)
        elif found.share >= MIN_PLAIN_SHARE:
            more = [drawn(*of, self.rng, num) for _ in range(rounds - 1)]
            found = weighted(functools.reduce(Sample.joined, more, self.sample), self.first)
        return self._nested(found)

    def _nested(self, hubs: Adapted) -> NestedDraws:
        given = self.given
        points, of_proposal, log_inner = given.joined()
        with np.errstate(divide="ignore"):
            log_weights = np.log(hubs.draws.weights)[:, None] + log_inner
        # of a few draws given hubs one may have very much of the weight
        weights, _ = pareto_smooth(log_weights.ravel())
        draws = WeightedDraws(points, weights)
        return NestedDraws(draws, of_proposal, hubs, given.kept, given.variance)
