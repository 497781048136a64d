"""Runs of the compiled plan for many data sets, weights of the rows, or keys."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advi.core import interrupts
from advi.core.jax_config import precision
from advi.core.keys import Stream, host_rng
from advi.core.status import Status
from advi.data.spec import DataSpec
from advi.inference.many.many_fits import ManyFits, Varied
from advi.inference.many.noise import Noise, in_float, noise, stacked
from advi.inference.many.program import program
from advi.inference.plan.run import anew
from advi.model.checks.tails import first_steps, generic
from advi.model.trace import LogJoint
from advi.variational.draws import MAX_ADAPTED_DIM
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.sparse_precision import is_sparse

CHUNK = 64  # fits in one call
MAX_CHUNK_BYTES = 2**28  # of their data
ROUNDS = 2  # of adaptive importance sampling, for a verdict
MAX_DIM = 256  # above it a fit of its own is as fast


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
    weighted = varied.weights is not None
    several = len(noises) > 1 or not (weighted or spec.leaves)
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
            drawn = (
                stacked([noises[min(i, len(noises) - 1)] for i in index]) if by[2] else noises[0]
            )
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
