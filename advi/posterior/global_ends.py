"""The two ends of a stochastic fit without local latents: where it starts, what it ends with."""

from typing import Any, NamedTuple

import jax
import numpy as np

from advi.core.status import Estimate
from advi.data.arrays import DataSpec
from advi.inference.plan.lockstep import lockstep
from advi.inference.plan.plan import start_search
from advi.model.density import Density
from advi.model.prior_starts import finite_first
from advi.posterior.initial import initial
from advi.posterior.local_ends import LAST_ERRORS, START_SCALES
from advi.posterior.nonfinite import blame, not_finite_at_start
from advi.variational import draws
from advi.variational.gaussian import Floats, Gaussian, structure_of
from advi.variational.guide import Guide

FINAL_DRAWS = 256
MIN_FINAL_DRAWS = 16
GAIN_DRAWS = 64
FINAL_WORK = 2**32  # elements read by the final ELBO, which bounds its draws


class FlatEnds(NamedTuple):
    """Where a stochastic fit starts and what it ends with, by points of R^D on the host."""

    densities: tuple[Density, ...]  # of all data, or of batches that each stand for all
    guide: Guide
    rng: np.random.Generator

    def judged_by(self, batches: list[Any], spec: DataSpec, scale: float) -> "FlatEnds":
        """Return the ends of a fit to a stream, of which some batches were kept."""
        [first] = self.densities
        return self._replace(
            densities=tuple(
                Density(first.model, jax.device_put(batch), spec, first.estimated, scale)
                for batch in batches
            )
        )

    def unjudged_start(self, init: Any) -> Any:
        """Return the parameters to start from, whatever the log density there."""
        first, warm = initial(self.guide.model, init)
        if warm:
            return self.guide.from_gaussian(*first)
        return self.guide.from_gaussian(first.loc, np.full(len(first.loc), START_SCALES[0]))

    def start(self, init: Any) -> Any:
        """Return the parameters to start from, their scale small enough for finite values."""
        first, warm = initial(self.guide.model, init)
        if warm:
            return self.guide.from_gaussian(*first)
        density = self.densities[0]
        first = finite_first(density, first)
        E = structure_of(self.guide).fixed_draws(self.rng, MIN_FINAL_DRAWS)
        search = start_search(density, structure_of(self.guide), first.loc, self.rng)
        places = [first.loc]
        while places:
            loc = places.pop()
            for scale in START_SCALES:
                q = Gaussian(loc, np.full(len(loc), scale))
                if np.all(np.isfinite(density.value(q.points(E)))):
                    return self.guide.from_gaussian(*q)
            if loc is first.loc:
                [found] = lockstep([search.anywhere()], density.value_and_grad)
                places = list(found[:1])
        raise not_finite_at_start(density, first.loc, search.tried)

    def better(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        """Return the averaged parameters, or the last if common draws show them to be better.

        The last are better while a fit still improves; at rest the average is, by less than
        shows. There is no average, None, where nothing was averaged. Several densities are those
        of batches, each with draws of its own: what they say of the whole differs by their rows
        too, and so does the error.
        """
        noise = self._noise(FINAL_DRAWS)
        with np.errstate(all="ignore"):
            of_last = self._elbos(last, noise)
            if average is None:
                return last, Estimate.of(of_last)
            of_average = self._elbos(average, noise)
            gain = Estimate.of(of_last - of_average)
            if gain.value > LAST_ERRORS * gain.mcse or not np.all(np.isfinite(of_average)):
                return last, Estimate.of(of_last)
        return average, Estimate.of(of_average)

    def gain(self, before: Any, after: Any) -> Estimate:
        """Return by how many nats the ELBO of some parameters is above that of others."""
        noise = self._noise(GAIN_DRAWS)
        with np.errstate(all="ignore"):
            return Estimate.of(self._elbos(after, noise) - self._elbos(before, noise))

    def _noise(self, most: int) -> list[Floats]:
        """Return draws for each density, at most so many, on which parameters are compared."""
        work = sum(density.log_joint.cost for density in self.densities)
        num = int(np.clip(FINAL_WORK // work, MIN_FINAL_DRAWS, most)) // 2 * 2
        structure = structure_of(self.guide)
        return [
            structure.spread(draws.antithetic(self.rng, num, structure.dim)) for _ in self.densities
        ]

    def _elbos(self, params: Any, noise: list[Floats]) -> Floats:
        """Return ELBOs whose mean is that of the parameters, of pairs of draws or of batches."""
        q, structure = Gaussian(*self.guide.to_gaussian(params)), structure_of(self.guide)
        for density in self.densities:
            density.place_window(q.loc, q.sds)
        values = [
            structure.paired_elbos(density.value(q.points(E)), E, q)
            for density, E in zip(self.densities, noise, strict=True)
        ]
        return values[0] if len(values) == 1 else np.array([v.mean() for v in values])

    def blame(self, params: Any) -> str:
        """Return what makes the log density or its gradient non-finite, in words."""
        q = Gaussian(*self.guide.to_gaussian(params))
        found = blame(self.densities[0], self.guide, q, self.rng)
        return found or "at its present place the fit is finite: the step size is too large"
