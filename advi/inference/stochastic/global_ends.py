"""The two ends of a fit by steps whose latents are all global."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advi.core.status import Estimate
from advi.core.types import Floats
from advi.data.spec import DataSpec
from advi.inference.plan.batched_calls import run_batched
from advi.inference.plan.search import start_search
from advi.inference.stochastic.control_variate import Control, ControlledDensity
from advi.inference.stochastic.ends import GAIN_ERRORS, NOTHING_FOUND, START_SDS, last_is_better
from advi.inference.stochastic.warm_start import RowSampler
from advi.model.density import Density
from advi.model.prior_starts import finite_start
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.initial import initial
from advi.posterior.nonfinite import nonfinite_draw, not_finite_at_start
from advi.variational import draws
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide

FINAL_DRAWS, FEW_DRAWS = 256, 16
FINAL_WORK = 2**29  # elements read by the final ELBO on all rows, which bounds its draws
MIN_DRAWS = 32  # of it, whatever its work
# of some rows; with the centre of a control variate they are not above 64 points
BATCH_DRAWS = 62
SAMPLES, FEW_SAMPLES = 16, 8  # of the rows, for an ELBO and for a difference of two
MAX_ERROR = 0.02  # nats, times the root of the coordinates: of an ELBO on samples of the rows
SAME_NATS = 0.01  # of the ELBO, per coordinate: too little to choose by

Rounds = Iterator[list[tuple[Density, Floats]]]  # log densities, with noise (n, noise_dim) each


class GlobalEnds(NamedTuple):
    """The `Ends` of a fit with global latents only, by points of R^D on the host.

    ELBOs are of all rows; or of batches that were kept; or, with a control variate of all rows, of
    random samples of them. Batches and samples have draws of their own: the error of the ELBO is
    then also that of the rows.
    """

    densities: tuple[Density, ...]  # of all data, or of batches that each stand for all
    guide: Guide
    rng: np.random.Generator
    sampler: RowSampler | None = None
    control: Control = ()  # of all rows, at the end of a fit

    def in_batches(
        self, kept: list[Any], spec: DataSpec, scale: float, control: Control
    ) -> "GlobalEnds":
        if not kept:
            return self._replace(control=control)
        [first] = self.densities
        on_device = map(jax.device_put, kept)
        found = [Density(first.model, b, spec, first.estimated, scale) for b in on_device]
        if control:
            found = [ControlledDensity(density, control) for density in found]
        return self._replace(densities=tuple(found))

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

    def select(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        if average is not None:
            gain = self.gain(average, last, SAME_NATS * (1 + self.guide.structure.dim))
            if not last_is_better(gain):
                elbo = self.elbo(average)
                if np.isfinite(elbo.value):
                    return average, elbo
        return last, self.elbo(last)

    def gain(self, before: Any, after: Any, threshold: float) -> Estimate:
        found, gain = np.zeros(0), Estimate(np.nan, np.nan)
        with np.errstate(all="ignore"):
            for some in self._of_samples(FEW_SAMPLES) or self._of_draws():
                difference = self._elbos(after, some) - self._elbos(before, some)
                found = np.concatenate([found, difference])
                gain = Estimate.of(found)
                if not abs(gain.value - threshold) < GAIN_ERRORS * gain.mcse:
                    break  # also if it is not finite, as it would be on more
        return gain

    def elbo(self, params: Any) -> Estimate:
        found, most = np.zeros(0), MAX_ERROR * np.sqrt(1 + self.guide.structure.dim)
        with np.errstate(all="ignore"):
            for some in self._of_samples(SAMPLES) or ():
                found = np.concatenate([found, self._elbos(params, some)])
                elbo = Estimate.of(found)
                if elbo.mcse <= most:
                    return elbo
            return Estimate.of(self._elbos(params, self._with_noise(self.densities, self._most)))

    def _of_samples(self, first: int) -> Rounds | None:
        """Yield samples of the rows, twice as many in all with every round, up to half of them.

        None where these would be too few, or would differ too much for want of a control variate.
        """
        sampler, control = self.sampler, self.control
        if sampler is None or not control or first > sampler.most:
            return None
        return (
            self._with_noise(
                [ControlledDensity(sampler.draw(self.rng), control) for _ in range(num)],
                BATCH_DRAWS,
            )
            for num in _doubling(first, sampler.most)
        )

    def _of_draws(self) -> Rounds:
        """Yield all rows with draws, twice as many in all with every round, or all batches."""
        if len(self.densities) > 1:
            yield self._with_noise(self.densities, self._most)
        else:
            for num in _doubling(FEW_DRAWS, self._most):
                yield self._with_noise(self.densities, num)

    @property
    def _most(self) -> int:
        """Draws for each density, by its work."""
        work = sum(density.log_joint.cost for density in self.densities)
        most = FINAL_DRAWS if len(self.densities) == 1 else BATCH_DRAWS
        return int(np.clip(FINAL_WORK // work, MIN_DRAWS, most)) // 2 * 2

    def _with_noise(self, densities: Sequence[Density], num: int) -> list[tuple[Density, Floats]]:
        dim = self.guide.noise_dim
        return [(density, draws.antithetic(self.rng, num, dim)) for density in densities]

    def _elbos(self, params: Any, some: list[tuple[Density, Floats]]) -> Floats:
        """Return ELBOs of pairs of draws, or of batches, whose mean is the ELBO."""
        found = []
        for density, E in some:
            posterior = GlobalPosterior(self.guide, params, density)
            density.place_window(posterior.gaussian.loc, posterior.gaussian.sds)
            found.append(posterior.elbos(E))
        return found[0] if len(found) == 1 else np.array([values.mean() for values in found])

    def nonfinite(self, params: Any) -> str:
        [density, *_] = self.densities
        transport = self.guide.transport(params, density.spec.float_dtype)
        return nonfinite_draw(density, transport, self.rng) or NOTHING_FOUND


def _doubling(first: int, most: int) -> Iterator[int]:
    """Yield numbers whose sums double from `first` as long as they are not above `most`."""
    total = 0
    while max(first, 2 * total) <= most:
        yield max(first, total)
        total += max(first, total)
