"""The two ends of a fit by steps whose latents are all global."""

from typing import Any, NamedTuple

import jax
import numpy as np

from advi.core.status import Estimate
from advi.core.types import Floats
from advi.data.spec import DataSpec
from advi.inference.plan.batched_calls import run_batched
from advi.inference.plan.search import start_search
from advi.inference.stochastic.ends import NOTHING_FOUND, START_SDS, last_is_better
from advi.model.density import Density
from advi.model.prior_starts import finite_start
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.initial import initial
from advi.posterior.nonfinite import nonfinite_draw, not_finite_at_start
from advi.variational import draws
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide

FINAL_DRAWS, GAIN_DRAWS, MIN_DRAWS = 256, 64, 16
FINAL_WORK = 2**32  # elements read by the final ELBO, which bounds its draws


class GlobalEnds(NamedTuple):
    """The `Ends` of a fit with global latents only, by points of R^D on the host."""

    densities: tuple[Density, ...]  # of all data, or of batches that each stand for all
    guide: Guide
    rng: np.random.Generator

    def on_batches(self, batches: list[Any], spec: DataSpec, scale: float) -> "GlobalEnds":
        [first] = self.densities
        on_device = map(jax.device_put, batches)
        densities = (Density(first.model, b, spec, first.estimated, scale) for b in on_device)
        # each with its own draws: the error of the ELBO is then also that of the rows
        return self._replace(densities=tuple(densities))

    def initial_params(self, init: Any) -> Any:
        first, warm = initial(self.guide.model, init)
        q = first if warm else Gaussian.diagonal(first.loc, START_SDS[0])
        return self.guide.from_gaussian(q)

    def start(self, init: Any) -> Any:
        first, warm = initial(self.guide.model, init)
        if warm:
            return self.guide.from_gaussian(first)
        density, structure = self.densities[0], self.guide.structure
        first = first._replace(loc=finite_start(density, first.loc))
        E = structure.fixed_draws(self.rng, MIN_DRAWS)
        search = start_search(density, structure, first.loc, self.rng)
        centers = [first.loc]
        while centers:
            loc = centers.pop()
            for sd in START_SDS:
                q = Gaussian.diagonal(loc, sd)
                if np.all(np.isfinite(density.value(q.points(E)))):
                    return self.guide.from_gaussian(q)
            if loc is first.loc:
                [found] = run_batched([search.finite_points()], density.value_and_grad)
                centers = list(found[:1])
        raise not_finite_at_start(density, first.loc, search.tried)

    def elbo(self, params: Any) -> Estimate:
        with np.errstate(all="ignore"):
            return Estimate.of(self._elbos(params, self._draws(FINAL_DRAWS)))

    def select(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        noise = self._draws(FINAL_DRAWS)
        with np.errstate(all="ignore"):
            of_last = self._elbos(last, noise)
            if average is None:
                return last, Estimate.of(of_last)
            of_average = self._elbos(average, noise)
            if last_is_better(Estimate.of(of_last - of_average), of_average):
                return last, Estimate.of(of_last)
        return average, Estimate.of(of_average)

    def gain(self, before: Any, after: Any) -> Estimate:
        noise = self._draws(GAIN_DRAWS)
        with np.errstate(all="ignore"):
            return Estimate.of(self._elbos(after, noise) - self._elbos(before, noise))

    def _draws(self, most: int) -> list[Floats]:
        """Return at most `most` draws for each density, common to all parameters."""
        work = sum(density.log_joint.cost for density in self.densities)
        num = int(np.clip(FINAL_WORK // work, MIN_DRAWS, most)) // 2 * 2
        return [draws.antithetic(self.rng, num, self.guide.noise_dim) for _ in self.densities]

    def _elbos(self, params: Any, noise: list[Floats]) -> Floats:
        """Return ELBOs of pairs of draws, or of batches, whose mean is the ELBO."""
        found = []
        for density, E in zip(self.densities, noise, strict=True):
            posterior = GlobalPosterior(self.guide, params, density)
            density.place_window(posterior.gaussian.loc, posterior.gaussian.sds)
            found.append(posterior.elbos(E))
        return found[0] if len(found) == 1 else np.array([values.mean() for values in found])

    def nonfinite(self, params: Any) -> str:
        [density, *_] = self.densities
        transport = self.guide.transport(params, density.spec.float_dtype)
        return nonfinite_draw(density, transport, self.rng) or NOTHING_FOUND
