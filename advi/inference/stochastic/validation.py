"""The ELBO on held-out rows during a stochastic fit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from advi.core.errors import check_bool, check_count, describe
from advi.core.status import Status
from advi.data.spec import DataSpec, converted, find_nan
from advi.inference.stochastic.steps import Steps
from advi.model.indices import check_data_indices
from advi.model.real_density import real_log_density
from advi.model.rows import for_rows
from advi.model.trace import LogJoint, trace
from advi.variational import draws
from advi.variational.guide import Guide
from advi.variational.objective import Elbo

EVAL_ROWS, EVAL_DRAWS = 4096, 16
SHARE = 0.05  # of the steps' work that evaluations may take
GRADIENT = 3  # work of a gradient, in values


class Best(NamedTuple):
    """The parameters whose held-out ELBO was the highest."""

    step: int
    elbo: float  # held out, nats
    params: Any  # on the device


@dataclass(frozen=True, eq=False)
class Validation:
    """Held-out rows, at most `EVAL_ROWS` of them, with draws that all evaluations share."""

    guide: Guide
    data: Any  # on the device
    spec: DataSpec
    scale: float  # factor of the rows, to stand for as many as the fit has
    eps: Array  # (EVAL_DRAWS, noise_dim) standard normals
    every: int  # steps between two evaluations
    exact: bool  # at multiples of `every`, or at the end of a chunk some time later
    keep_best: bool  # whether a fit ends with the parameters of the highest held-out ELBO
    nan: str | None = None  # the first NaN of the rows, in words

    def check_start(self, params: Any) -> None:
        """Raise ValueError if a NaN of the rows makes their ELBO NaN where the steps start."""
        if self.nan and not math.isfinite(self.elbo(params)):
            raise ValueError(
                f"eval_data: the held-out ELBO is not finite at the start. The {self.nan}: remove "
                "or mask it."
            )

    def elbo(self, params: Any) -> float:
        """Return the ELBO in nats of the model on these rows in place of its own."""
        log_joint = trace(self.guide.model, self.spec)
        program = _program(self.guide, log_joint, self.spec, self.scale)
        return float(jax.device_get(program(params, self.data, self.eps)))

    def next_due(self, step: int) -> int:
        """Return the step of the evaluation after one at a step."""
        return step + self.every - (step % self.every if self.exact else 0)

    def better(self, best: Best | None, step: int, elbo: float, params: Any) -> Best | None:
        """Return the better of the best so far and other parameters, if it is to be kept."""
        if not self.keep_best or not math.isfinite(elbo):
            return best
        return best if best is not None and best.elbo >= elbo else Best(step, elbo, params)

    def told(self, status: Status, evals: list[tuple[int, float]]) -> Status:
        """Return a fit's status, which says where no held-out ELBO, by step, was finite."""
        if not evals or any(math.isfinite(elbo) for _, elbo in evals):
            return status
        found = "the held-out ELBO was never finite"
        if self.keep_best:
            found += ", so that keep_best had no parameters to keep"
        return Status(str(status), f"{status.message}; {found}", status.cause)


class EvalSettings(NamedTuple):
    """Held-out rows, and what is done with them, as in `fit`."""

    data: Any = None
    every: int | None = None  # None: evaluations take about a twentieth of the time
    keep_best: bool = False

    def check(self) -> None:
        """Raise TypeError or ValueError for a wrong number or switch, or without any rows."""
        check_bool("keep_best", self.keep_best)
        if self.every is not None:
            check_count("eval_every", self.every)
        for name, given in (("eval_every", self.every is not None), ("keep_best", self.keep_best)):
            if given and self.data is None:
                raise ValueError(
                    f"{name}: the held-out ELBO needs rows that are not fitted; give them as "
                    "eval_data=..., or leave it out."
                )


def hold_out(settings: EvalSettings, steps: Steps, rng: np.random.Generator) -> Validation:
    """Check held-out rows, and choose which to evaluate and when.

    ValueError if the log-joint has no rows, the tree is not that of the data, an index is outside
    of its array, or a table has parameters for the fitted rows only.
    """
    guide, spec, eval_data = steps.guide, steps.spec, settings.data
    log_joint = trace(guide.model, spec)
    num_rows = log_joint.num_rows if steps.batching is None else steps.batching.num_rows
    if guide.tables:
        raise ValueError(
            f"eval_data: {guide.tables[0]!r} has a table of parameters, one for each row that is "
            "fitted, and none for others; expected advi.Amortised(encode, params)."
        )
    if num_rows is None:
        if guide.model.program.needs_all_rows:
            raise ValueError(f"eval_data: {guide.model.program.needs_all_rows}")
        raise ValueError(
            "eval_data: the held-out ELBO scales rows to as many as the fit has, but log_joint "
            "returned a scalar. Return advi.Terms(shared, rows) with one log-likelihood per row."
        )
    many = isinstance(eval_data, list) and any(isinstance(part, Mapping) for part in eval_data)
    if many or callable(eval_data) or isinstance(eval_data, Iterator):
        raise TypeError(
            f"eval_data: got {describe(eval_data)}; expected rows in memory, a tree like that of "
            "one batch. Held-out rows are not read from a stream: join its batches, up to "
            f"{EVAL_ROWS:,} rows of them."
        )
    data, given = converted(eval_data, spec.float_dtype, guide.model.known_names)
    if given.treedef != spec.treedef:
        raise ValueError(
            f"eval_data: got {describe(eval_data)}; expected a tree like that of the data, with "
            f"leaves {', '.join(spec.names)}."
        )
    model = for_rows(guide.model, given)
    held_out = trace(model, given)
    held = held_out.num_rows
    if not held:
        raise ValueError("eval_data: got no row; expected at least one.")
    check_data_indices(model, held_out, given, data, "eval_data")
    given, leaves = given.by_row(held), jax.tree.leaves(data)
    nan = find_nan(data, given)
    if held > EVAL_ROWS:
        leaves = jax.device_get(leaves)
        chosen = np.sort(rng.choice(held, EVAL_ROWS, replace=False))
        leaves, held = given.at(leaves, chosen), EVAL_ROWS
        given = given.with_length(held)
    of_step = GRADIENT * steps.draws * log_joint.cost
    guide = guide.with_rows(held)
    guide.check_encoders(given)
    every = settings.every
    if every is None:
        every = math.ceil(EVAL_DRAWS * trace(guide.model, given).cost / (SHARE * of_step))
    eps = draws.fixed(rng, EVAL_DRAWS, guide.noise_dim) if guide.noise_dim else np.zeros((1, 0))
    eps = jax.device_put(eps.astype(spec.float_dtype))
    data = spec.treedef.unflatten(jax.device_put(leaves))
    exact, scale = settings.every is not None, num_rows / held
    return Validation(guide, data, given, scale, eps, every, exact, settings.keep_best, nan)


def with_kept(status: Status, where: str) -> Status:
    """Return the status of a fit that ends with the best parameters, those of `where`."""
    kept = f"the parameters are those of {where}, where the held-out ELBO was the highest"
    return Status(str(status), f"{status.message}; {kept}", status.cause)


@lru_cache(maxsize=16)
def _program(guide: Guide, log_joint: LogJoint, spec: DataSpec, scale: float) -> Any:
    log_p = real_log_density(guide.model, log_joint, guide.estimated)

    def elbo(params: Any, data: Any, eps: Array) -> Array:
        params = guide.at_rows(params, data, spec)
        return Elbo().value(lambda real: log_p(real, data), guide, params, eps, scale)

    return jax.jit(elbo)
