"""A step of an Optax optimiser on fresh draws: `init` and `step`, pure functions of arrays."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from advi.core.arrays import on_host
from advi.core.identity import is_of_advi
from advi.core.jax_config import mixed_dtypes, precision
from advi.core.jaxprs.traced import Traced, traced
from advi.data.batching import Batching
from advi.data.spec import DataSpec
from advi.inference.stochastic.averaging import TailAverage, averaged_only, with_step
from advi.inference.stochastic.by_latent import first_update, total
from advi.inference.stochastic.control_variate import Control, controlled
from advi.inference.stochastic.sparse_updates import rows_of, tables_of, with_rows
from advi.model.real_density import real_log_density
from advi.model.trace import LogJoint, trace
from advi.variational import draws
from advi.variational.guide import Guide
from advi.variational.objective import Objective, near_optimum
from advi.variational.objective_check import bound
from advi.variational.per_row import PerRow

LINE_SEARCH_DRAWS = 64
MAP_DRAWS = 32  # of families that are no Gaussian
OWN = "objective"  # key of its trace

Step = Callable[["State", Any, Array], tuple["State", "StepInfo", Any]]


class State(NamedTuple):
    """Everything that steps carry, arrays only."""

    params: Any
    opt_state: Any
    average: TailAverage
    key: Array  # typed key
    step: Array  # () steps taken
    fixed_eps: Array  # (M, noise_dim) draws of a line search; (0, noise_dim) when they are fresh
    control: Control  # of minibatches
    skipped: Array  # () non-finite steps
    bad_run: Array  # () latest consecutive non-finite steps


class StepInfo(NamedTuple):
    """The result of a step."""

    elbo: Array  # () nats, at the parameters before the step; higher is better
    finite: Array  # () the objective, its gradient and the new parameters


class Steps(NamedTuple):
    """Settings of steps, hashable: all that compiled code depends on."""

    guide: Guide
    spec: DataSpec  # of one batch
    objective: Objective
    optimizer: optax.GradientTransformation
    batching: Batching | None
    averaged: tuple[bool, ...]  # which blocks end with the average of their steps

    @property
    def sparse(self) -> bool:
        """Whether a step sees only some rows of a table."""
        tables = any(isinstance(b.family, PerRow) for b in self.guide.blocks)
        return tables and self.batching is not None and self.batching.scale > 1

    @property
    def scale(self) -> float:
        """N/B, the factor of the rows of a step."""
        return 1.0 if self.batching is None else self.batching.scale

    @property
    def draws(self) -> int:
        if self.objective.draws is not None:
            return self.objective.draws
        if self.line_search:
            return LINE_SEARCH_DRAWS
        if not self.guide.is_gaussian:
            return MAP_DRAWS  # the tails of a map need more than its middle
        return 2 if self.scale > 1 else 8

    @property
    def line_search(self) -> bool:
        """Whether the optimiser evaluates the objective, which then must be deterministic."""
        return _uses_value_fn(self.guide, self.optimizer)

    def init(self, params: Any, key: Any, rng: np.random.Generator, control: Control = ()) -> State:
        """Return the state before the first step; `params` and `control` are host arrays."""
        dtype = np.dtype(self.spec.float_dtype)
        params, control = jax.tree.map(
            lambda leaf: jax.device_put(on_host(leaf, dtype)), (params, control)
        )
        fixed = jax.device_put(self.fixed_draws(rng).astype(dtype))
        return _init_program(self.optimizer, self.averaged)(params, key, fixed, control)

    def fixed_draws(self, rng: np.random.Generator) -> Any:
        """Return the draws of a line search (M, noise_dim), or none (0, noise_dim)."""
        dim = self.guide.noise_dim
        if not self.line_search:
            return np.zeros((0, dim))
        # without noise (points only) there is nothing to draw
        return draws.fixed(rng, self.draws + self.draws % 2, dim) if dim else np.zeros((1, 0))

    def traces(self) -> tuple[LogJoint, Traced | None]:
        """Return the traces of the log-joint, and of the user's own classes if there are any."""
        log_joint = trace(self.guide.model, self.spec)
        traces = self.guide.model.traces
        if OWN not in traces:
            traces[OWN] = _trace_own(self, log_joint)
        return log_joint, traces[OWN]


def initial_state(
    optimizer: optax.GradientTransformation,
    averaged: tuple[bool, ...],
    params: Any,
    key: Array,
    fixed_eps: Array,
    control: Control = (),
) -> State:
    """Return the state before the first step, a pure function of arrays."""
    zeros = jax.tree.map(jnp.zeros_like, averaged_only(params, averaged))
    count = jnp.zeros((), jnp.int32)
    return State(
        params=params,
        # typed as after a step: Python numbers would have the chunk compiled twice
        opt_state=jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)),
            optimizer.init(params),
        ),
        average=TailAverage(zeros, zeros, count, count),
        key=key,
        step=count,
        fixed_eps=fixed_eps,
        control=control,
        skipped=count,
        bad_run=count,
    )


@lru_cache(maxsize=64)
def _init_program(optimizer: optax.GradientTransformation, averaged: tuple[bool, ...]) -> Any:
    return jax.jit(lambda *arrays: initial_state(optimizer, averaged, *arrays))


def make_step(steps: Steps, log_joint: LogJoint, skip_nonfinite: bool) -> Step:
    """Return the function of a state, the data of a step and the indices (B,) of its rows.

    It returns the new state, what the step found, and the gradient of the loss. The indices matter
    for tables of parameters by row. With `skip_nonfinite` a step whose results are not finite
    leaves the state as it was; to check every gradient costs a large network a fifth of its time.
    """
    guide, objective, spec, scale = steps.guide, steps.objective, steps.spec, steps.scale
    log_p = real_log_density(guide.model, log_joint, guide.estimated)
    optimizer = optax.with_extra_args_support(steps.optimizer)
    num_draws, line_search = steps.draws, steps.line_search

    def step(state: State, batch: Any, index: Array) -> tuple[State, StepInfo, Any]:
        tables, in_state = tables_of(steps.sparse, guide, optimizer, state.opt_state, state.params)
        old_params = rows_of(state.params, tables, index)
        old_opt_state = rows_of(state.opt_state, in_state, index)
        eps = state.fixed_eps
        if not line_search:
            # epochs fold in numbers from 0 up, steps from the other end
            key = jax.random.fold_in(state.key, -1 - state.step)
            eps = objective.noise(key, num_draws, guide.noise_dim)
        log_p_batch = controlled(lambda real: log_p(real, batch), guide.model, state.control, scale)
        used = near_optimum(objective) if state.control else objective

        def loss(params: Any) -> Array:
            params = guide.at_rows(params, batch, spec)
            return -bound(used, log_p_batch, guide, params, eps, scale, state.step)

        value, gradients = jax.value_and_grad(loss)(old_params)
        with mixed_dtypes():
            updates, opt_state = optimizer.update(
                gradients, old_opt_state, old_params, value=value, grad=gradients, value_fn=loss
            )
            params = optax.apply_updates(old_params, updates)
        finite = jnp.ones((), bool)
        if skip_nonfinite:
            finite = _all_finite((value, gradients, params))
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state),
                (old_params, old_opt_state),
            )
        params = with_rows(state.params, params, tables, index)
        opt_state = with_rows(state.opt_state, opt_state, in_state, index)
        average = with_step(state.average, averaged_only(params, steps.averaged), state.step + 1)
        new = state._replace(
            params=params,
            opt_state=opt_state,
            average=average,
            step=state.step + 1,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            bad_run=jnp.where(finite, 0, state.bad_run + 1),
        )
        return new, StepInfo(-value, finite), gradients

    return step


@lru_cache(maxsize=64)
def _uses_value_fn(guide: Guide, optimizer: optax.GradientTransformation) -> bool:
    used = []

    def value_fn(params: Any) -> Array:
        used.append(True)
        return total(params)

    with mixed_dtypes():
        inner = optax.with_extra_args_support(optimizer)
        jax.eval_shape(lambda p: first_update(inner, p, value_fn), guide.unit_params(np.float32))
    return bool(used)


def _trace_own(steps: Steps, log_joint: LogJoint) -> Traced | None:
    """Return the trace of the objective, if it or a family is of the user's own class.

    Their closures may have changed, which no comparison of settings detects.
    """
    guide, objective, spec = steps.guide, steps.objective, steps.spec
    parts = (objective, *(b.family for b in guide.blocks), *(b.base for b in guide.blocks))
    if all(map(is_of_advi, parts)):
        return None
    log_p = real_log_density(guide.model, log_joint, guide.estimated)

    def value(params: Any, eps: Array, data: Any, step: Array) -> Array:
        params = guide.at_rows(params, data, spec)
        log_p_batch = lambda real: log_p(real, data)  # noqa: E731
        return bound(objective, log_p_batch, guide, params, eps, steps.scale, step)

    dtype = np.dtype(spec.float_dtype)
    eps = jax.ShapeDtypeStruct((steps.draws, guide.noise_dim), dtype)
    with precision(spec.float_dtype):
        step = jax.ShapeDtypeStruct((), np.int32)
        return traced(value, guide.unit_params(dtype), eps, spec.abstract, step)[0]


def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
