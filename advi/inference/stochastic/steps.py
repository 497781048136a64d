"""The stochastic path: any Optax optimiser on fresh draws, in compiled chunks of steps."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from advi.core import interrupts
from advi.core.arrays import on_host
from advi.core.jax_config import mixed_dtypes
from advi.core.jaxprs.traced import Traced, traced
from advi.core.status import Progress, Status
from advi.data.arrays import DataSpec, Rows
from advi.inference.stochastic.averaging import Average, chosen, tail_average, with_step
from advi.inference.stochastic.control_variate import Anchor, anchored
from advi.inference.stochastic.convergence import (
    MAX_ANCHORED,
    MAX_DISTANCE,
    Distance,
    distance,
    due,
    settled,
)
from advi.inference.stochastic.sparse_updates import rows_of, tables_of, with_rows
from advi.inference.stochastic.validation import HeldOut
from advi.model.density import log_density, precision
from advi.model.trace import LogJoint, trace
from advi.variational import draws
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.objective import Objective, near_optimum
from advi.variational.per_row import PerRow

CHUNK = 128  # steps between two looks of the host, at least; a power of two, as the checks are
MAX_BAD_RUN = 100  # non-finite steps in a row that end a fit
LINE_SEARCH_DRAWS = 64
OWN = "objective"  # place of its trace


class State(NamedTuple):
    """Everything a stochastic fit carries, arrays only."""

    params: Any
    opt_state: Any
    average: Average
    key: Array  # typed key
    step: Array  # () steps taken
    fixed_eps: Array  # (M, noise_dim) draws of a line search; (0, noise_dim) when they are fresh
    anchor: Anchor | tuple[()]  # what batches are compared with, or nothing
    skipped: Array  # () non-finite steps
    bad_run: Array  # () non-finite steps in a row up to now


class Course(NamedTuple):
    """What the host remembers of the steps taken; its lists grow as the fit goes on."""

    chunks: list[np.ndarray]  # ELBO of every step, nats
    evals: list[tuple[int, float]]  # step and held-out ELBO, nats
    eval_due: int = 0  # step of the next held-out ELBO
    drift: Distance | None = None  # of the windows at the last check

    def elbos(self, step: int) -> np.ndarray:
        """Return the ELBO of every step up to one, (step,)."""
        return np.concatenate([np.zeros(0, np.float32), *self.chunks])[:step]

    def trace(self, step: int) -> list[Progress]:
        """Return the progress up to a step."""
        evals = dict(self.evals)
        return [
            Progress("optimize", i, elbo, evals.get(i, np.nan))
            for i, elbo in enumerate(self.elbos(step).tolist(), start=1)
        ]


class Stochastic(NamedTuple):
    """Settings of a stochastic fit, hashable: what its compiled chunk depends on."""

    guide: Guide
    spec: DataSpec  # of one batch
    objective: Objective
    optimizer: optax.GradientTransformation
    rows: Rows | None
    averaged: tuple[bool, ...]  # which blocks end with the average of their steps

    @property
    def sparse(self) -> bool:
        """Whether a step sees only some rows of a table."""
        tables = any(isinstance(b.family, PerRow) for b in self.guide.blocks)
        return tables and self.rows is not None and self.rows.scale > 1

    @property
    def chunk_steps(self) -> int:
        """Steps between two looks of the host, a power of two.

        Every chunk begins with a copy of the state. Where that holds a table of all rows, a chunk
        goes through most of them, so that a step costs the same however many there are. Of a
        stream it takes the steps of one block.
        """
        if self.rows is not None and self.rows.block:
            return self.rows.block
        epoch = self.rows.steps_per_epoch if self.sparse and self.rows is not None else 1
        return max(CHUNK, 1 << (epoch.bit_length() - 1))

    @property
    def draws(self) -> int:
        """Draws per step."""
        if self.objective.draws is not None:
            return self.objective.draws
        if self.line_search:
            return LINE_SEARCH_DRAWS
        return 2 if self.rows is not None and self.rows.scale > 1 else 8

    @property
    def line_search(self) -> bool:
        """Whether the optimiser evaluates the objective itself, which then must not be noisy."""
        return _uses_value_fn(self.guide, self.optimizer)

    def init(
        self,
        params: Any,
        key: Array,
        rng: np.random.Generator,
        anchor: Anchor | tuple[()] = (),
    ) -> State:
        """Return the state before the first step; `params` and `anchor` are host arrays."""
        dtype = np.dtype(self.spec.float_dtype)
        params, anchor = jax.tree.map(
            lambda leaf: jax.device_put(on_host(leaf, dtype)), (params, anchor)
        )
        dim = self.guide.noise_dim
        fixed = np.zeros((0, dim))
        if self.line_search:
            # without noise (points only) there is nothing to draw
            fixed = draws.fixed(rng, self.draws + self.draws % 2, dim) if dim else np.zeros((1, 0))
        program = _init(self.optimizer, self.averaged)
        return program(params, key, jax.device_put(fixed.astype(dtype)), anchor)

    def drift(self, state: State) -> Distance:
        """Return how far apart the averages over the last two windows are; NaN if there are none.

        Blocks of local latents have too many parameters to compare: of these the ELBO tells.
        """
        average = jax.device_get(state.average)
        blocks = zip(self.guide.blocks, average.older, average.newer, self.averaged, strict=True)
        found = [
            distance(Gaussian(*b.family.to_gaussian(older)), Gaussian(*b.family.to_gaussian(newer)))
            for b, older, newer, averaged in blocks
            if averaged and isinstance(b.family, Family)
        ]
        shifts, stretches = zip((math.nan, math.nan), *found, strict=True)
        # fmax passes over what is NaN
        return Distance(float(np.fmax.reduce(shifts)), float(np.fmax.reduce(stretches)))

    def last_drift(self, state: State, course: Course) -> Distance:
        """Return the drift at the end, or at the last power of two if few steps came after it.

        The average of a few steps has much of their noise, by which that of all is not off.
        """
        counts = jax.device_get((state.average.num_older, state.average.num_newer))
        num_older, num_newer = map(int, counts)
        if course.drift is not None and num_newer < num_older:
            return course.drift
        return self.drift(state)

    def windows(self, state: State) -> tuple[Any, Any] | None:
        """Return the averages over the last two windows, where all blocks have them."""
        average = jax.device_get(state.average)
        both = min(int(average.num_older), int(average.num_newer)) > 0
        return (average.older, average.newer) if both and all(self.averaged) else None

    def average(self, state: State) -> Any:
        """Return the parameters averaged over the last half to three quarters of the steps.

        Those of blocks that are not `averaged` are the last ones.
        """
        average = tail_average(state.average)
        parts = zip(self.averaged, average, state.params, strict=True)
        return tuple(mean if averaged else last for averaged, mean, last in parts)

    def program(self, state: State, data: Any) -> str:
        """Return a chunk as StableHLO, with all numbers in it: what the settings amount to."""
        return self._compiled(False).lower(state, data, self.chunk_steps).as_text()

    def chunk(self, state: State, data: Any, num_steps: int) -> tuple[State, np.ndarray]:
        """Take at most `chunk_steps` steps; return the state and every step's ELBO in nats.

        To look at every gradient costs a large network a fifth of its time. So the steps are taken
        without, and taken anew, with each one looked at, if anything is not finite after them; and
        so are all steps after one that was skipped.
        """
        before, skipped = map(int, jax.device_get((state.step, state.skipped)))
        num = jax.device_put(np.int32(num_steps))
        new, elbos, finite = self._compiled(skipped > 0)(state, data, num)
        if not skipped and not jax.device_get(finite):
            new, elbos, _ = self._compiled(True)(state, data, num)
        elbos, step = jax.device_get((elbos, new.step))
        return new, elbos[: int(step) - before]

    def _compiled(self, checked: bool) -> Any:
        log_joint = trace(self.guide.model, self.spec)
        traces = self.guide.model.traces
        if OWN not in traces:
            traces[OWN] = _trace_own(self, log_joint)
        return _chunk(self, log_joint, traces[OWN], checked)


def run_steps(
    settings: Stochastic,
    state: State,
    course: Course,
    blocks: Iterator[Any],
    max_steps: int,
    until_settled: bool,
    callback: Callable[[Progress], object] | None,
    held_out: HeldOut | None = None,
) -> Iterator[tuple[State, Course, Status | None]]:
    """Yield the state and the course after every chunk, and at the end the status.

    Every chunk is of the steps on one block of the data: all of it, or a part of a stream.
    """
    size = settings.chunk_steps
    while True:
        interrupts.check()
        step = int(jax.device_get(state.step))
        # however many steps came before, chunks end where the checks are due
        num_steps = min(size - step % size, max_steps - step)
        state, elbos = settings.chunk(state, next(blocks), num_steps)
        course.chunks.append(elbos)
        counts = jax.device_get((state.step, state.skipped, state.bad_run))
        step, skipped, bad_run = map(int, counts)
        note = f"; {skipped} non-finite steps were skipped" if skipped else ""
        status = None
        finite = elbos[np.isfinite(elbos)]
        progress = Progress("optimize", step, float(finite.mean()) if len(finite) else np.nan)
        if held_out is not None and (step >= course.eval_due or step >= max_steps):
            progress = progress._replace(eval_elbo=held_out.elbo(state.params))
            course.evals.append((step, progress.eval_elbo))
            course = course._replace(eval_due=step + held_out.every)
        if bad_run >= MAX_BAD_RUN or bad_run == step >= max_steps:
            first = step - bad_run + 1
            status = Status(
                "diverged",
                f"{bad_run} steps in a row, from step {first} on, gave a non-finite "
                "ELBO or gradient",
            )
        elif due(step):
            drift, before = settings.drift(state), course.drift
            if until_settled:
                most = MAX_ANCHORED if state.anchor else MAX_DISTANCE
                previous = None if before is None else before.most
                if settled(drift.most, previous, course.elbos(step), most):
                    status = Status("converged", f"the averages settled after {step} steps{note}")
            course = course._replace(drift=drift)
        try:
            if status is None and callback is not None and callback(progress):
                status = Status("interrupted", f"the callback asked to stop at step {step}{note}")
        except KeyboardInterrupt as stop:  # after the steps, which are not lost
            status = stopped(step, "this is the fit so far", stop)
        if status is None and step >= max_steps:
            what = "had not settled after" if until_settled else "took the"
            asked = "" if until_settled else " asked for"
            status = Status("max_steps", f"{what} {max_steps} steps{asked}{note}")
        yield state, course, status
        if status is not None:
            return


def stopped(step: int, why: str, cause: BaseException) -> Status:
    """Return the status of a fit that something stopped after some steps."""
    where = "before the first chunk of steps ended; this is where they start"
    if step:
        where = f"after step {step}: {why}"
    elif not isinstance(cause, KeyboardInterrupt):
        where += f": {why}"
    # where Ctrl-C came tells nothing, and its traceback would keep all that was there alive
    cause = cause.with_traceback(None) if isinstance(cause, KeyboardInterrupt) else cause
    return Status("interrupted", f"interrupted {where}", cause)


@lru_cache(maxsize=64)
def _uses_value_fn(guide: Guide, optimizer: optax.GradientTransformation) -> bool:
    used = []

    def update(params: Any) -> Any:
        def value_fn(p: Any) -> Array:
            used.append(True)
            return sum((leaf.sum() for leaf in jax.tree.leaves(p)), start=jnp.zeros(()))

        return optax.with_extra_args_support(optimizer).update(
            params, optimizer.init(params), params,
            value=jnp.zeros(()), grad=params, value_fn=value_fn,
        )  # fmt: skip

    size = guide.model.size
    params = guide.params_of((np.zeros(size), np.ones(size)), np.float32)
    with mixed_dtypes():
        jax.eval_shape(update, params)
    return bool(used)


@lru_cache(maxsize=64)
def _init(optimizer: optax.GradientTransformation, averaged: tuple[bool, ...]) -> Any:
    def init(params: Any, key: Array, fixed_eps: Array, anchor: Anchor | tuple[()]) -> State:
        zeros = jax.tree.map(jnp.zeros_like, chosen(params, averaged))
        count = jnp.zeros((), jnp.int32)
        return State(
            params=params,
            # typed as steps leave it: Python numbers would have the chunk compiled twice
            opt_state=jax.tree.map(
                lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)),
                optimizer.init(params),
            ),
            average=Average(zeros, zeros, count, count),
            key=key,
            step=count,
            fixed_eps=fixed_eps,
            anchor=anchor,
            skipped=count,
            bad_run=count,
        )

    return jax.jit(init)


@lru_cache(maxsize=64)
def _chunk(settings: Stochastic, log_joint: LogJoint, own: Traced | None, checked: bool) -> Any:
    """Return a compiled chunk of steps; `own` tells apart what the user's own classes compute.

    It maps a state, data and a number of steps to the new state, every step's ELBO, and whether
    all that changed is finite. If `checked`, steps that are not finite leave the state as it was.
    """
    guide, rows, objective = settings.guide, settings.rows, settings.objective
    log_p = log_density(guide.model, log_joint, guide.estimated)
    optimizer = optax.with_extra_args_support(settings.optimizer)
    num_draws, line_search = settings.draws, settings.line_search
    per_row = rows.per_row if rows is not None else (False,) * len(settings.spec.leaves)
    scale = rows.scale if rows is not None else 1.0

    def step(state: State, data: Any) -> tuple[State, Array]:
        batch, index = data, jnp.zeros(0, jnp.int32)
        if rows is not None and not rows.whole:
            index = rows.index(state.key, state.step)
            batch = rows.take(data, index)
        tables, in_state = tables_of(
            settings.sparse, guide, optimizer, state.opt_state, state.params
        )
        old_params = rows_of(state.params, tables, index)
        old_opt_state = rows_of(state.opt_state, in_state, index)
        eps = state.fixed_eps
        if not line_search:
            # epochs fold in numbers from 0 up, steps from the other end
            key = jax.random.fold_in(state.key, -1 - state.step)
            eps = objective.noise(key, num_draws, guide.noise_dim)

        log_p_batch = anchored(lambda real: log_p(real, batch), guide.model, state.anchor, scale)

        aim = near_optimum(objective) if state.anchor else objective

        def loss(params: Any) -> Array:
            params = guide.at_rows(params, batch, per_row)
            return -aim.value(log_p_batch, guide, params, eps, scale, state.step)

        value, gradients = jax.value_and_grad(loss)(old_params)
        with mixed_dtypes():
            updates, opt_state = optimizer.update(
                gradients, old_opt_state, old_params, value=value, grad=gradients, value_fn=loss
            )
            params = optax.apply_updates(old_params, updates)
        good = jnp.ones((), bool)
        if checked:
            good = _finite((value, gradients, params))
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(good, new, old),
                (params, opt_state),
                (old_params, old_opt_state),
            )
        params = with_rows(state.params, params, tables, index)
        opt_state = with_rows(state.opt_state, opt_state, in_state, index)
        new = State(
            params=params,
            opt_state=opt_state,
            average=with_step(state.average, chosen(params, settings.averaged), state.step + 1),
            key=state.key,
            step=state.step + 1,
            fixed_eps=state.fixed_eps,
            anchor=state.anchor,
            skipped=state.skipped + (~good).astype(jnp.int32),
            bad_run=jnp.where(good, 0, state.bad_run + 1),
        )
        return new, -value

    def chunk(state: State, data: Any, num_steps: Array) -> tuple[State, Array, Array]:
        def more(carry: tuple[State, Array, Array]) -> Array:
            state, _, i = carry
            return (i < num_steps) & (state.bad_run < MAX_BAD_RUN)

        def body(carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
            state, elbos, i = carry
            state, elbo = step(state, data)
            return state, elbos.at[i].set(elbo.astype(elbos.dtype)), i + 1

        elbos = jnp.full((settings.chunk_steps,), jnp.nan, settings.spec.float_dtype)
        new, elbos, taken = jax.lax.while_loop(more, body, (state, elbos, jnp.zeros((), jnp.int32)))
        lost = jnp.any(~jnp.isfinite(elbos) & (jnp.arange(len(elbos), dtype=taken.dtype) < taken))
        return (
            new,
            elbos,
            ~(lost | _spoilt((state.params, state.opt_state), (new.params, new.opt_state))),
        )

    return jax.jit(chunk)


def _trace_own(settings: Stochastic, log_joint: LogJoint) -> Traced | None:
    """Return the trace of the objective, if it or a family is of the user's own class.

    What these read from outside may have changed, which no comparison of settings can tell.
    """
    guide, objective, spec = settings.guide, settings.objective, settings.spec
    parts = (objective, *(b.family for b in guide.blocks), *(b.base for b in guide.blocks))
    if all(type(part).__module__.split(".")[0] == "advi" for part in parts):
        return None
    log_p = log_density(guide.model, log_joint, guide.estimated)
    rows = settings.rows
    per_row = rows.per_row if rows is not None else (False,) * len(spec.leaves)
    scale = rows.scale if rows is not None else 1.0

    def value(params: Any, eps: Array, leaves: list[Array], step: Array) -> Array:
        data = spec.treedef.unflatten(leaves)
        params = guide.at_rows(params, data, per_row)
        return objective.value(lambda real: log_p(real, data), guide, params, eps, scale, step)

    size, dtype = guide.model.size, np.dtype(spec.float_dtype)
    with precision(spec.float_dtype):
        return traced(
            value,
            guide.params_of((np.zeros(size), np.ones(size)), dtype),
            jax.ShapeDtypeStruct((settings.draws, guide.noise_dim), dtype),
            [jax.ShapeDtypeStruct(shape, kind) for shape, kind in spec.leaves],
            jax.ShapeDtypeStruct((), np.int32),
        )[0]


def _finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _spoilt(before: Any, after: Any) -> Array:
    """Return whether anything in a tree was finite before and is not after.

    Optimisers keep infinities of their own, such as the best value before there is one.
    """
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.any(
        jnp.stack(
            [
                jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))
                for old, new in pairs
                if jnp.issubdtype(new.dtype, jnp.inexact)
            ]
        )
    )
