"""Many fits of one shape: data sets, weights of the rows, or keys."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from advi.core import interrupts
from advi.core.draw_set import DrawSet
from advi.core.jax_config import precision
from advi.core.keys import Stream, host_rng, key_words
from advi.core.status import Estimate, Status
from advi.core.types import Floats
from advi.data.spec import DataSpec
from advi.inference.many.noise import WEIGHTED_DRAWS, Noise, in_float, noise, stacked
from advi.inference.many.program import Ended, program
from advi.inference.plan.run import anew
from advi.model.checks.tails import first_steps, generic
from advi.model.density import Density
from advi.model.trace import LogJoint
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.variational.draws import antithetic
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.scale import DiagonalScale, TriangularScale
from advi.variational.sparse_precision import is_sparse

CHUNK = 64  # fits in one call
MAX_CHUNK_BYTES = 2**28  # of their data
ROUNDS = 2  # of adaptive importance sampling, for a verdict
MAX_ADAPTED_DIM = 50  # of its proposals
MAX_DIM = 256  # above it a fit of its own is as fast


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
            of = jax.tree.map(lambda leaf: np.asarray(leaf[index], float), self.ended)
            return of.loc + noise @ of.tril.T, of.log_ratios
        rng = host_rng(key, Stream.WEIGHTED)
        drawn = posterior.transport.draw(antithetic(rng, WEIGHTED_DRAWS, self.guide.noise_dim))
        return drawn.points, posterior.density.value(drawn.points) - drawn.log_q

    def end(self, index: int) -> Ended:
        """Return the end of one fit by the compiled plan, with moments of inferred latents only."""
        of = jax.tree.map(lambda leaf: np.asarray(leaf[index], float), self.ended)
        flags = [name not in self.guide.estimated for name in self.guide.model.latents]
        inferred = np.repeat(flags, self._sizes)
        better = of.weighted._replace(mean=of.weighted.mean[inferred], sd=of.weighted.sd[inferred])
        return of._replace(mean=of.mean[inferred], sd=of.sd[inferred], weighted=better)

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
        gaussian, elbo, gap = self.first, Estimate(np.nan, np.nan), np.nan
        if self.ended is not None and index < self.num_run:
            of = jax.tree.map(lambda leaf: np.asarray(leaf[index], float), self.ended)
            coupled = self.guide.structure.coupled
            scale = TriangularScale(of.tril) if coupled else DiagonalScale(np.diag(of.tril))
            gaussian, elbo = Gaussian(of.loc, scale), Estimate.of(of.elbos)
            gap = float(of.fixed_elbo) - elbo.value
        params = self.guide.params_of(gaussian, density.dtype, key_words(key)[-1])
        outcome = Outcome(self._status(index), elbo, [], 0, gap)
        return FitRecord(GlobalPosterior(self.guide, params, density), outcome, key)

    def _status(self, index: int) -> Status:
        if self.ended is None or index >= self.num_run:
            return Status("interrupted", "interrupted before its turn", KeyboardInterrupt())
        of = jax.tree.map(lambda leaf: leaf[index], self.ended)
        if self.converged[index]:
            return Status("converged", f"the ELBO has settled ({of.num_evals} Newton steps)")
        if of.apart:
            return Status("max_steps", "other starts ended elsewhere, nearly as high")
        if np.isfinite(of.elbos).all():
            return Status("max_steps", f"Newton steps had not settled after {of.num_evals}")
        return Status("diverged", "the ELBO is not finite")


def run(
    guide: Guide,
    log_joint: LogJoint,
    spec: DataSpec,
    varied: Varied,
    first: Gaussian,
    show: Callable[[int], None],
    rounds: int = 0,
) -> ManyFits:
    """Run the compiled plan of every fit; `show` is called with the number of those done.

    With `rounds` of adaptive importance sampling the log density is evaluated far out, too.
    KeyboardInterrupt between two calls.
    """
    structure, dtype, dim = guide.structure, np.dtype(spec.float_dtype), guide.model.size
    noises = [_noise_of(guide, key, dtype, rounds) for key in varied.keys]
    far = first_steps(guide.model) if rounds and not log_joint.open_ended else np.zeros((0, dim))
    weighted, several = varied.weights is not None, len(noises) > 1
    by = not (weighted or several), weighted, several
    same_block = structure.same_block()
    blocks = "whole" if same_block.all() else "several" if structure.coupled else "diagonal"
    compiled = program(guide.model, log_joint, guide.estimated, blocks, by)
    most = int(np.clip(MAX_CHUNK_BYTES // max(spec.num_bytes, 1), 1, CHUNK))
    size = math.ceil(varied.num / math.ceil(varied.num / most))
    shared = (
        first.loc.astype(dtype), structure.random, same_block,
        generic(np.full(dim, np.inf)).astype(dtype), far.astype(dtype),
    )  # fmt: skip
    parts, done = [], 0
    try:
        for begin in range(0, varied.num, size):
            interrupts.check()
            # the last call repeats the last fit
            index = np.minimum(np.arange(begin, begin + size), varied.num - 1)
            data = varied.data[0]
            if by[0]:
                data = jax.tree.map(lambda *rows: np.stack(rows), *(varied.data[i] for i in index))
            weights = None if varied.weights is None else varied.weights[index].astype(dtype)
            drawn = stacked([noises[i] for i in index]) if by[2] else noises[0]
            with precision(spec.float_dtype):
                parts.append(jax.device_get(compiled(data, weights, drawn, shared)))
            done = min(begin + size, varied.num)
            show(done)
    except KeyboardInterrupt:
        if not parts:
            raise
    ended = jax.tree.map(lambda *rows: _padded(np.concatenate(rows), varied.num), *parts)
    return ManyFits(guide, spec, varied, first, ended, done, noises)


def _padded(rows: Any, num: int) -> Any:
    """Return `num` rows, NaN or 0 where there are fewer."""
    missing = np.zeros((max(num - len(rows), 0), *rows.shape[1:]), rows.dtype)
    if rows.dtype.kind == "f":
        missing[:] = np.nan
    return np.concatenate([rows[:num], missing])


def fit_again(many: ManyFits, begin: Callable[[str], None]) -> None:
    """Fit those that have not ended by the plan of one fit; Ctrl-C leaves the rest as they are."""
    try:
        for index in np.flatnonzero(~many.converged[: many.num_run]):
            begin(f"fit {index}")
            _by_plan(many, int(index))
    except KeyboardInterrupt:
        return


def one_by_one(
    guide: Guide, spec: DataSpec, varied: Varied, first: Gaussian, show: Callable[[int], None]
) -> ManyFits:
    """Run the plan of one fit for every fit; after Ctrl-C the rest have not been run."""
    many = ManyFits(guide, spec, varied, first, None, varied.num)
    try:
        for index in range(varied.num):
            _by_plan(many, index)
            show(index + 1)
    except KeyboardInterrupt:
        if not many.replaced:
            raise
    return many


def _by_plan(many: ManyFits, index: int) -> None:
    """Fit one by the plan of one fit."""
    try:
        found = anew(many.density_of(index), many.guide, many.first, many.varied.key_of(index))
    except ValueError as error:  # no start has a finite value
        status = Status("diverged", str(error))
        many.replaced[index] = many.record(index).with_outcome(status=status)
        return
    many.replaced[index] = found
    many.refitted.add(index)


def suits(guide: Guide) -> bool:
    """Return whether there is a compiled plan of a guide: Gaussians without low rank or angles."""
    structure = guide.structure
    if guide.local or guide.angles or is_sparse(guide):
        return False
    return guide.is_gaussian and not structure.rank and 0 < structure.dim <= MAX_DIM


def _noise_of(guide: Guide, key: Any, dtype: Any, rounds: int) -> Noise:
    structure = guide.structure
    if not structure.random.all() or structure.dim > MAX_ADAPTED_DIM:
        rounds = 0
    return in_float(noise(structure, host_rng(key, Stream.MANY), rounds), dtype)
