"""The ELBO on held-out rows during a stochastic fit."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core.errors import describe
from advi.data.spec import DataSpec, converted
from advi.inference.stochastic.steps import Steps
from advi.model.density import real_log_density
from advi.model.indices import check_data_indices
from advi.model.rows import for_rows
from advi.model.trace import LogJoint, trace
from advi.variational import draws
from advi.variational.guide import Guide
from advi.variational.objective import Elbo

EVAL_ROWS, EVAL_DRAWS = 4096, 16
SHARE = 0.05  # of the steps' work that evaluations may take
GRADIENT = 3  # work of a gradient, in values


@dataclass(frozen=True, eq=False)
class Validation:
    """Held-out rows, at most `EVAL_ROWS` of them, with draws that all evaluations share."""

    guide: Guide
    data: Any  # on the device
    spec: DataSpec
    scale: float  # factor of the rows, to stand for as many as the fit has
    eps: Array  # (EVAL_DRAWS, noise_dim) standard normals
    every: int  # steps between two evaluations, which take a small share of the time

    def elbo(self, params: Any) -> float:
        """Return the ELBO in nats of the model on these rows in place of its own."""
        log_joint = trace(self.guide.model, self.spec)
        program = _program(self.guide, log_joint, self.spec, self.scale)
        return float(jax.device_get(program(params, self.data, self.eps)))


def hold_out(eval_data: Any, steps: Steps, rng: np.random.Generator) -> Validation:
    """Check held-out rows, and choose which to evaluate and when.

    ValueError if the log-joint has no rows, the tree is not that of the data, an index is outside
    of its array, or a table has parameters for the fitted rows only.
    """
    guide, spec = steps.guide, steps.spec
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
    data, given = converted(eval_data, spec.float_dtype)
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
    if held > EVAL_ROWS:
        leaves = jax.device_get(leaves)
        chosen = np.sort(rng.choice(held, EVAL_ROWS, replace=False))
        leaves, held = given.at(leaves, chosen), EVAL_ROWS
        given = given.with_length(held)
    of_step = GRADIENT * steps.draws * log_joint.cost
    guide = guide.with_rows(held)
    guide.check_encoders(given)
    every = math.ceil(EVAL_DRAWS * trace(guide.model, given).cost / (SHARE * of_step))
    eps = draws.fixed(rng, EVAL_DRAWS, guide.noise_dim) if guide.noise_dim else np.zeros((1, 0))
    eps = jax.device_put(eps.astype(spec.float_dtype))
    data = spec.treedef.unflatten(jax.device_put(leaves))
    return Validation(guide, data, given, num_rows / held, eps, every)


@lru_cache(maxsize=16)
def _program(guide: Guide, log_joint: LogJoint, spec: DataSpec, scale: float) -> Any:
    log_p = real_log_density(guide.model, log_joint, guide.estimated)

    def elbo(params: Any, data: Any, eps: Array) -> Array:
        params = guide.at_rows(params, data, spec)
        return Elbo().value(lambda real: log_p(real, data), guide, params, eps, scale)

    return jax.jit(elbo)
