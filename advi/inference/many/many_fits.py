"""Many fits by the compiled plan: what differs between them, how each ended, and its record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from advi.core.draw_set import DrawSet
from advi.core.keys import Stream, host_rng, key_words
from advi.core.status import Estimate, Status
from advi.core.types import Floats
from advi.data.spec import DataSpec
from advi.inference.many.noise import WEIGHTED_DRAWS, Noise
from advi.inference.many.program import Ended
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.variational.draws import antithetic
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.scale import DiagonalScale, TriangularScale


@dataclass(frozen=True)
class Varied:
    """What differs between fits: exactly one of data, weights of the rows, and keys."""

    num: int
    data: Sequence[Any]  # of each fit, host arrays; or of all
    weights: Floats | None = None  # (n, N)
    keys: Sequence[Any] = ()  # of each fit, or of all

    def data_of(self, index: int) -> Any:
        return self.data[index if len(self.data) > 1 else 0]

    def key_of(self, index: int) -> Any:
        return self.keys[index if len(self.keys) > 1 else 0]

    def weights_of(self, index: int) -> Floats | None:
        return None if self.weights is None else self.weights[index]


@dataclass(eq=False)
class ManyFits:
    """The ends of many fits, as arrays with a leading axis, and the record of each."""

    guide: Guide
    spec: DataSpec
    varied: Varied
    first: Gaussian  # where all started
    ended: Ended | None  # host arrays, NaN for fits that have not been run; None without a program
    num_run: int
    noises: Sequence[Noise] = ()  # of each fit, or of all
    replaced: dict[int, FitRecord] = field(default_factory=dict)  # examined or fitted anew
    refitted: set[int] = field(default_factory=set)

    @property
    def num(self) -> int:
        """Number of fits."""
        return self.varied.num

    def record(self, index: int) -> FitRecord:
        """Return the record of one fit."""
        if index not in self.replaced:
            self.replaced[index] = self._made(index)
        return self.replaced[index]

    def density_of(self, index: int) -> Density:
        """Return the log density of one of the fits."""
        data, weights = self.varied.data_of(index), self.varied.weights_of(index)
        guide = self.guide
        return Density(
            guide.model, data, self.spec, guide.estimated, by_gradient=True, weights=weights
        )

    @cached_property
    def converged(self) -> Any:
        """Whether each fit has gained all that there was, (n,)."""
        assert self.ended is not None
        finite = np.isfinite(self.ended.elbos).all(1) & np.isfinite(self.ended.tril).all((1, 2))
        return self.ended.arrived & finite & ~self.ended.apart

    def moments(self, name: str) -> dict[str, Floats]:
        """Return means or sds, by latent (n, *shape); `name` is "mean" or "sd"."""
        if self.ended is None:
            columns = np.full((self.varied.num, sum(self._sizes)), np.nan)
        else:
            columns = np.array(getattr(self.ended, name), dtype=float)
        for index in self.refitted:
            found = self.record(index).posterior.moments(getattr(DrawSet, name))
            latents = (found[n] for n in self.guide.model.latents)
            columns[index] = np.concatenate([np.ravel(values) for values in latents])
        return self._by_latent(columns)

    def draws(self, index: int) -> tuple[Floats, Floats]:
        """Return draws (n, D) of one fit on R^D, and their log p - log q (n,), nats."""
        record, key = self.record(index), self.varied.key_of(index)
        posterior = record.global_posterior
        if self.ended is not None and index not in self.refitted:
            noise = self.noises[index if len(self.noises) > 1 else 0].weighted
            of = self._end(index)
            return of.loc + noise @ of.tril.T, of.log_ratios
        rng = host_rng(key, Stream.WEIGHTED)
        drawn = posterior.transport.draw(antithetic(rng, WEIGHTED_DRAWS, self.guide.noise_dim))
        return drawn.points, posterior.density.value(drawn.points) - drawn.log_q

    def judged(self, index: int) -> Ended:
        """Return the end of one fit by the compiled plan, with moments of inferred latents only."""
        of = self._end(index)
        flags = [name not in self.guide.estimated for name in self.guide.model.latents]
        inferred = np.repeat(flags, self._sizes)
        better = of.weighted._replace(mean=of.weighted.mean[inferred], sd=of.weighted.sd[inferred])
        return of._replace(mean=of.mean[inferred], sd=of.sd[inferred], weighted=better)

    def _end(self, index: int) -> Ended:
        return jax.tree.map(lambda leaf: np.asarray(leaf[index], float), self.ended)

    @cached_property
    def _sizes(self) -> list[int]:
        """Number of entries of each latent on the constrained scale."""
        return [int(np.prod(v.shape, dtype=int)) for v in self.guide.model.latents.values()]

    def _by_latent(self, columns: Floats) -> dict[str, Floats]:
        latents = self.guide.model.latents
        parts = np.split(columns, np.cumsum(self._sizes)[:-1], axis=1)
        return {
            name: part.reshape(-1, *latent.shape)
            for (name, latent), part in zip(latents.items(), parts, strict=True)
        }

    def _made(self, index: int) -> FitRecord:
        density, key = self.density_of(index), self.varied.key_of(index)
        gaussian, elbo, gap, num = self.first, Estimate(np.nan, np.nan), np.nan, 0
        if self.ended is not None and index < self.num_run:
            of = self._end(index)
            elbo = Estimate.of(of.elbos)
            gap, num = float(of.fixed_elbo) - elbo.value, int(of.num_gradients)
            if np.isfinite(of.loc).all() and np.isfinite(of.tril).all():
                coupled = self.guide.structure.coupled
                scale = TriangularScale(of.tril) if coupled else DiagonalScale(np.diag(of.tril))
                gaussian = Gaussian(of.loc, scale)
        params = self.guide.params_of(gaussian, density.dtype, key_words(key)[-1])
        outcome = Outcome(self._status(index), elbo, [], num, gap)
        return FitRecord(GlobalPosterior(self.guide, params, density), outcome, key)

    def _status(self, index: int) -> Status:
        if self.ended is None or index >= self.num_run:
            return Status("interrupted", "interrupted before its turn", KeyboardInterrupt())
        of, num = self._end(index), self.ended.num_evals[index]
        if self.converged[index]:
            return Status("converged", f"the ELBO has settled ({num} Newton steps)")
        if of.apart:
            return Status("max_steps", "other starts ended elsewhere, nearly as high")
        if np.isfinite(of.elbos).all():
            return Status("max_steps", f"Newton steps had not settled after {num}")
        return Status("diverged", "the ELBO is not finite")
