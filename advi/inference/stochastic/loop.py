"""Steps in compiled chunks, and the host's work between them: progress, stopping, Ctrl-C."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core import interrupts
from advi.core.jaxprs.traced import Traced
from advi.core.status import Progress, Status
from advi.inference.stochastic.averaging import tail_average
from advi.inference.stochastic.convergence import (
    MAX_CONTROLLED_DISTANCE,
    MAX_DISTANCE,
    Distance,
    check_due,
    distance,
    has_converged,
)
from advi.inference.stochastic.steps import State, Steps, make_step
from advi.inference.stochastic.validation import Best, Validation
from advi.model.trace import LogJoint
from advi.variational.block_transport import block_gaussian
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian

CHUNK = 128  # minimal steps of a chunk; a power of two, like the steps of checks
MAX_BAD_RUN = 100  # consecutive non-finite steps that end a fit


class History(NamedTuple):
    """The host's record of the steps; its lists grow during the fit."""

    chunks: list[np.ndarray]  # ELBO of every step, nats
    evals: list[tuple[int, float]]  # step and held-out ELBO, nats
    eval_due: int = 0  # step of the next held-out ELBO
    drift: Distance | None = None  # of the windows at the last check
    best: Best | None = None  # if a fit ends with it

    def elbos(self, step: int) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self.chunks])[:step]

    def trace(self, step: int) -> list[Progress]:
        evals = dict(self.evals)
        return [
            Progress("optimize", i, elbo, evals.get(i, np.nan))
            for i, elbo in enumerate(self.elbos(step).tolist(), start=1)
        ]


def chunk_steps(steps: Steps) -> int:
    """Return the number of steps of a chunk, a power of two.

    Every chunk begins with a copy of the state. If that has a table of all rows, a chunk takes most
    of an epoch, so that the cost of a step does not grow with the rows. Of rows that are read
    during the fit it takes the steps of one block.
    """
    batching = steps.batching
    if batching is not None and batching.block:
        return batching.block
    epoch = batching.steps_per_epoch if steps.sparse and batching is not None else 1
    return max(CHUNK, 1 << (epoch.bit_length() - 1))


def take_chunk(steps: Steps, state: State, data: Any, num: int) -> tuple[State, np.ndarray]:
    """Take at most `chunk_steps` steps; return the state and every step's ELBO in nats.

    The steps are taken without a check of every gradient, and repeated with it if anything is not
    finite after them. After a skipped step all steps are checked.
    """
    before, skipped = map(int, jax.device_get((state.step, state.skipped)))
    num_steps = jax.device_put(np.int32(num))
    new, elbos, finite = _chunk_program(steps, *steps.traces(), skipped > 0)(state, data, num_steps)
    if not skipped and not jax.device_get(finite):
        new, elbos, _ = _chunk_program(steps, *steps.traces(), True)(state, data, num_steps)
    elbos, step = jax.device_get((elbos, new.step))
    return new, elbos[: int(step) - before]


def lowered(steps: Steps, state: State, data: Any) -> str:
    """Return a chunk as StableHLO with all constants, which identifies the settings."""
    program = _chunk_program(steps, *steps.traces(), False)
    return program.lower(state, data, chunk_steps(steps)).as_text()


@lru_cache(maxsize=64)
def _chunk_program(
    steps: Steps, log_joint: LogJoint, own: Traced | None, skip_nonfinite: bool
) -> Any:
    """Return a compiled chunk of steps; `own` is the trace of the user's own classes.

    It maps a state, data and a number of steps to the new state, every step's ELBO, and whether all
    that changed is finite.
    """
    size = chunk_steps(steps)
    step = make_step(steps, log_joint, skip_nonfinite)

    def chunk(state: State, data: Any, num_steps: Array) -> tuple[State, Array, Array]:
        def more(carry: tuple[State, Array, Array]) -> Array:
            state, _, i = carry
            return (i < num_steps) & (state.bad_run < MAX_BAD_RUN)

        def body(carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
            state, elbos, i = carry
            state, info, _ = step(state, *_rows_of_step(steps, state, data))
            return state, elbos.at[i].set(info.elbo.astype(elbos.dtype)), i + 1

        elbos = jnp.full((size,), jnp.nan, steps.spec.float_dtype)
        new, elbos, taken = jax.lax.while_loop(more, body, (state, elbos, jnp.zeros((), jnp.int32)))
        lost = jnp.any(~jnp.isfinite(elbos) & (jnp.arange(len(elbos), dtype=taken.dtype) < taken))
        before, after = (state.params, state.opt_state), (new.params, new.opt_state)
        return new, elbos, ~(lost | _became_nonfinite(before, after))

    return jax.jit(chunk)


def gradient_norm(steps: Steps, state: State, data: Any) -> float:
    """Return the norm of the gradient of the next step on a block of the data."""
    program = _gradient_norm_program(steps, *steps.traces())
    return float(jax.device_get(program(state, data)))


@lru_cache(maxsize=64)
def _gradient_norm_program(steps: Steps, log_joint: LogJoint, own: Traced | None) -> Any:
    step = make_step(steps, log_joint, skip_nonfinite=False)

    def norm(state: State, data: Any) -> Array:
        gradient = step(state, *_rows_of_step(steps, state, data))[2]
        squares = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)]
        return jnp.sqrt(jnp.stack(squares).sum())

    return jax.jit(norm)


def _rows_of_step(steps: Steps, state: State, data: Any) -> tuple[Any, Array]:
    """Return the data of the next step, and the indices of its rows."""
    batching = steps.batching
    if batching is None or batching.whole:
        return data, jnp.zeros(0, jnp.int32)
    index = batching.index(state.key, state.step)
    return steps.spec.gather(data, index), index


def _became_nonfinite(before: Any, after: Any) -> Array:
    """Return whether anything in a tree was finite before and is not after.

    Optimisers may hold infinities, such as the best value before there is one.
    """
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    lost = [
        jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))
        for old, new in pairs
        if jnp.issubdtype(new.dtype, jnp.inexact)
    ]
    return jnp.any(jnp.stack(lost))


def run_steps(
    steps: Steps,
    state: State,
    history: History,
    blocks: Iterator[Any],
    max_steps: int,
    until_converged: bool,
    report: Callable[[Progress, State, History, Any], object],
    validation: Validation | None = None,
) -> Iterator[tuple[State, History, Status | None]]:
    """Yield the state and the history after every chunk, and at the end the status.

    Every chunk takes its steps on one block of the data: all of it, or a part of a stream. After it
    `report` is called, whose true answer ends the fit.
    """
    size, block = chunk_steps(steps), None
    num_rows = steps.traces()[0].num_rows if steps.batching is None else steps.batching.num_rows
    while True:
        interrupts.check()
        step = int(jax.device_get(state.step))
        # chunks end at the steps of the checks, however many steps came before
        num_steps = min(size - step % size, max_steps - step)
        if validation is not None and validation.exact:
            num_steps = min(num_steps, validation.next_due(step) - step)
        if block is None or step % size == 0:  # a block has the rows of so many steps
            block = next(blocks)
        state, elbos = take_chunk(steps, state, block, num_steps)
        history.chunks.append(elbos)
        counts = jax.device_get((state.step, state.skipped, state.bad_run))
        step, skipped, bad_run = map(int, counts)
        note = skipped_note(skipped)
        finite = elbos[np.isfinite(elbos)]
        elbo = float(finite.mean(dtype=float)) if len(finite) else math.nan
        eval_elbo = math.nan
        if validation is not None and (step >= history.eval_due or step >= max_steps):
            eval_elbo = validation.elbo(state.params)
            history.evals.append((step, eval_elbo))
            best = validation.better(history.best, step, eval_elbo, state.params)
            history = history._replace(eval_due=validation.next_due(step), best=best)
        if (status := diverged(step, bad_run, max_steps)) is None and check_due(step):
            drift = window_distance(steps, state)
            if until_converged:
                most = MAX_CONTROLLED_DISTANCE if state.control else MAX_DISTANCE
                previous = None if history.drift is None else history.drift.most
                if has_converged(drift.most, previous, history.elbos(step), most):
                    status = Status("converged", f"the averages settled after {step} steps{note}")
            history = history._replace(drift=drift)
        try:
            progress = Progress("optimize", step, elbo, eval_elbo, num_rows=num_rows)
            if status is None and report(progress, state, history, block):
                status = Status("interrupted", f"the callback asked to stop at step {step}{note}")
        except KeyboardInterrupt as stop:  # after the steps, which are not lost
            status = stopped(step, "this is the fit so far", stop)
        if status is None and step >= max_steps:
            what = "had not settled after" if until_converged else "took the"
            asked = "" if until_converged else " asked for"
            status = Status("max_steps", f"{what} {max_steps} steps{asked}{note}")
        yield state, history, status
        if status is not None:
            return


def skipped_note(skipped: int) -> str:
    """Return what a message adds on steps that were not finite."""
    return f"; {skipped} non-finite steps were skipped" if skipped else ""


def diverged(step: int, bad_run: int, max_steps: int) -> Status | None:
    """Return the status of steps of which none, or none of the last many, was finite."""
    if not bad_run or (bad_run < MAX_BAD_RUN and not bad_run == step >= max_steps):
        return None
    why = f"{bad_run} steps in a row, from step {step - bad_run + 1} on, gave a non-finite"
    return Status("diverged", f"{why} ELBO or gradient")


def stopped(step: int, why: str, cause: BaseException) -> Status:
    """Return the status of a fit that an exception stopped after some steps."""
    where = "before the first chunk of steps ended; this is where they start"
    if step:
        where = f"after step {step}: {why}"
    elif not isinstance(cause, KeyboardInterrupt):
        where += f": {why}"
    # the traceback of Ctrl-C tells nothing, and would keep its local variables alive
    cause = cause.with_traceback(None) if isinstance(cause, KeyboardInterrupt) else cause
    return Status("interrupted", f"interrupted {where}", cause)


def averaged_params(steps: Steps, state: State) -> Any:
    """Return the parameters averaged over the last half to three quarters of the steps.

    Blocks that are not `averaged` have their last ones.
    """
    average = tail_average(state.average)
    parts = zip(steps.averaged, average, state.params, strict=True)
    return tuple(mean if averaged else last for averaged, mean, last in parts)


def windows(steps: Steps, state: State) -> tuple[Any, Any] | None:
    """Return the averages over the last two windows, if all blocks have them."""
    average = jax.device_get(state.average)
    both = min(int(average.num_older), int(average.num_newer)) > 0
    return (average.older, average.newer) if both and all(steps.averaged) else None


def window_distance(steps: Steps, state: State) -> Distance:
    """Return the distance of the averages over the last two windows; NaN if there are none.

    Blocks of local latents have too many parameters to compare; they are judged by the ELBO.
    """
    average = jax.device_get(state.average)
    guide = steps.guide
    sizes = map(len, guide.indices)
    blocks = zip(guide.blocks, sizes, average.older, average.newer, steps.averaged, strict=True)
    found = [
        distance(*(Gaussian(*block_gaussian(b.family, params, dim)) for params in both))
        for b, dim, *both, averaged in blocks
        if averaged and isinstance(b.family, Family)
    ]
    shifts, stretches = zip((math.nan, math.nan), *found, strict=True)
    # fmax ignores NaN
    return Distance(float(np.fmax.reduce(shifts)), float(np.fmax.reduce(stretches)))


def last_drift(steps: Steps, state: State, history: History) -> Distance:
    """Return the drift at the end, or at the last power of two if few steps came after it.

    The average of a few steps has much of their noise, which the average of all has not.
    """
    num_older, num_newer = jax.device_get((state.average.num_older, state.average.num_newer))
    if history.drift is not None and num_newer < num_older:
        return history.drift
    return window_distance(steps, state)
