"""Where steps on minibatches start: the automatic plan on some rows, then a look at all of them.

Some rows, counted as often as there are more, have a posterior of the right width, which lies
within the root of N/n of its sds of that of all rows. Gradients of all rows at a few points make up
for that distance.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import describe_error
from advi.core.keys import Stream, host_rng
from advi.core.status import Status
from advi.core.types import Floats
from advi.data.reader import BrokenStreamError, EndlessError, StreamError
from advi.data.source import MAX_PASSES, Source
from advi.inference.plan.batched_calls import Stage, run_batched
from advi.inference.plan.lbfgs import Minimum, finite_start, minimise
from advi.inference.plan.plan import NotFiniteError, run_plan
from advi.inference.stochastic.control_variate import ControlVariate
from advi.inference.stochastic.steps import Steps
from advi.model import prior_starts
from advi.model.checks.first_points import FirstPoints, UsedElsewhereError
from advi.model.density import Density
from advi.model.source_density import SourceDensity
from advi.posterior.initial import initial
from advi.variational.draws import MIN_DRAWS
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian, Structure, full_structure
from advi.variational.guide import Guide
from advi.variational.point import Point
from advi.variational.scale import TriangularScale

MAX_DIM = 256  # beyond, the plan would cost more than the steps that it saves
NUM_ROWS, ROWS_PER_DIM = 2048, 20  # rows to run the plan on
LAST_WORD = 16  # times as many rows for the plan, where nothing is known of the others
NEAR = 0.02  # sds that a coordinate of the mean may still have to go
FAR = 0.5  # sds from which on the start has failed
STEP_CAP = 1000.0  # sds; all rows may lie as far from some as the root of their ratio


class WarmStart(NamedTuple):
    """Where steps on minibatches start."""

    gaussian: Gaussian
    control: ControlVariate | tuple[()]  # nothing where rows beyond the sample told nothing
    alarms: tuple[str, ...] = ()  # what is wrong with the log density


class Found(NamedTuple):
    """What came of looking for a start."""

    start: WarmStart | None = None
    seen: int = 0  # rows that the control variate has seen
    stopped: Status | None = None  # if it was interrupted, and no step is to be taken


def can_start(guide: Guide) -> bool:
    """Return whether a guide is one that the plan on some rows is for: few latents, all shared."""
    families = all(isinstance(b.family, Family) and b.family != Point() for b in guide.blocks)
    return families and guide.model.size <= MAX_DIM


def find_start(steps: Steps, source: Source, init: Any, key: Any, num_steps: int) -> Found:
    """Return a start for steps on minibatches: the plan on some rows, then a look at all of them.

    Rows that have to be read are read as often as for the steps, at most, and twice at least. If
    the steps read less than an epoch, so does the start, and what it has read stands for all. Of a
    stream whose epoch never ends, which need not give every row as often as every other, there is
    no more than the plan on its first rows.

    There is no start for latents that it is not for, or where it ends at nothing finite.

    Parameters
    ----------
    steps
        Settings of the steps.
    source
        The rows, in batches.
    init, key
        As in `fit`.
    num_steps
        How many are taken, at most.

    Raises
    ------
    TypeError, ValueError
        If `init` is not as `initial` takes it.
    StreamError
        If a stream is not what its first batch and `num_rows` said.
    Exception
        What else it raises before the plan on some rows has ended.
    """
    guide = steps.guide
    if steps.batching is None or not can_start(guide):
        return Found()
    first, warm = initial(guide.model, init)
    rng, found = host_rng(key, Stream.START), Found()
    try:
        rows, some, passes, seen = _sampled(steps, source, num_steps, rng)
        first = first if warm else first._replace(loc=prior_starts.finite_start(some, first.loc))
        look = FirstPoints(some, lambda X: rows.value_and_grad(X)[0])
        q, status = plan_on(some, rng, first, warm, look)
        found = Found(WarmStart(q, (), look.alarms))
        if status.cause is not None:
            raise status.cause
        if passes:
            start = toward_all_rows(rows, some, rng, q, passes)
            found = Found(start and start._replace(alarms=look.alarms), seen)
    except (NotFiniteError, UsedElsewhereError):
        return Found()
    except KeyboardInterrupt:
        why = "interrupted in the search for a start; this is what it has found"
        return found._replace(stopped=Status("interrupted", why, KeyboardInterrupt()))
    except BrokenStreamError as broken:
        if found.start is None or isinstance(broken.error, StreamError):
            raise broken.error from None  # what is wrong with the arguments, too
        why = f"interrupted in the search for a start: {describe_error(broken.error)}"
        return found._replace(stopped=Status("interrupted", why, broken.error))
    return found


def _sampled(
    steps: Steps, source: Source, num_steps: int, rng: np.random.Generator
) -> tuple[SourceDensity, Density, int, int]:
    """Return the density of all rows, that of some, passes over all, and how many rows all are."""
    model, estimated, batching = steps.guide.model, steps.guide.estimated, steps.batching
    assert batching is not None
    num = min(batching.num_rows, max(NUM_ROWS, ROWS_PER_DIM * model.size))
    passes = source.passes(num_steps, num, rng)
    rows = SourceDensity(model, source, estimated, passes.rows, passes.seed)
    try:
        return rows, rows.sample(num, rng), passes.num, passes.rows
    except EndlessError:
        # no pass will make up for what the sample lacks; of all rows, the end would be looked for
        num = min(LAST_WORD * num, batching.num_rows - 1)
        rows = SourceDensity(model, source, estimated, num)
        return rows, rows.sample(num, rng), 0, num


def plan_on(
    some: Density,
    rng: np.random.Generator,
    first: Gaussian,
    warm: bool,
    look: FirstPoints | None = None,
) -> tuple[Gaussian, Status]:
    """Return where the plan on some rows, which stand for all, ends, of full rank, and why.

    Parameters
    ----------
    some
        Log density of the rows.
    rng
        Generator of all draws.
    first, warm, look
        As for `run_plan`.

    Raises
    ------
    NotFiniteError
        If the log density is finite nowhere.
    """
    structure = full_structure(len(first.loc))
    ended = run_plan(some, structure, rng, first, warm=warm, look=look)
    return ended.gaussian, ended.status


def toward_all_rows(
    density: SourceDensity,
    some: Density,
    rng: np.random.Generator,
    q: Gaussian,
    max_passes: int = MAX_PASSES,
) -> WarmStart | None:
    """Return a Gaussian near the posterior of all rows, and a control variate near its mean.

    The Gaussian of some rows is moved to where all rows have it, by L-BFGS in its own frame. What
    is maximised is the ELBO on some rows, and what all rows have beyond them at the mean (Shamir,
    Srebro & Zhang 2014, section 3): the first step leaves about the root of D/n of the way, or more
    where some rows say little of a latent, as of a rare group.

    Parameters
    ----------
    density
        Log density of all rows.
    some
        That of some rows, which stand for all.
    rng
        Generator of all draws.
    q
        Where the plan on some rows ended.
    max_passes
        Gradients of all rows, at most. If no way leads from the optimum of some rows to that of
        all, there is no control variate.

    Returns
    -------
    WarmStart or None
        None if the log density of all rows is not finite where that of some is.
    """
    structure = full_structure(len(q.loc))
    E = structure.fixed_draws(rng, max(MIN_DRAWS, 2 * structure.dim))
    seen: list[tuple[ControlVariate, Floats]] = []  # the last evaluation, its gradient in the frame
    reached: list[tuple[Floats, ControlVariate, Floats]] = []
    evals = 0

    def evaluate(X: Floats) -> tuple[Floats, Floats]:
        nonlocal evals
        evals += 1
        x = X.astype(density.dtype)
        value, gradient = density.value_and_grad(x)
        values, gradients = some.value_and_grad(np.concatenate([x, q._replace(loc=x[0]).points(E)]))
        control = ControlVariate(x[0], value[0], gradient[0])  # type: ignore[arg-type]
        gradient = gradient - gradients[0] + gradients[1:].mean(0)
        seen[:] = [(control, q.scale.rmv(gradient)[0])]
        return value - values[0] + values[1:].mean(), gradient

    def objective(points: Sequence[Floats]) -> Stage[tuple[Floats, Floats]]:
        values, gradients = yield points[0][None]
        return -values, -q.scale.rmv(gradients)

    def stage() -> Stage[Minimum | None]:
        start = yield from finite_start([q.loc], objective, lambda x: x, most=1)
        [end] = yield from minimise(
            start,
            objective,
            retract=lambda x, step: x + q.scale.mv(step[None])[0],
            metric=lambda x: np.ones(len(x)),
            cap=STEP_CAP,
            max_evals=max_passes,
            done=lambda measure: not measure.gradient > NEAR,
            eps=float(np.finfo(density.dtype).eps),
            accepted=lambda _, x, value: reached.append((x, *seen[-1])),
        )
        return end

    [minimum] = run_batched([stage()], evaluate)
    if minimum is None:
        return None
    x, control, gradient = reached[-1]
    far = minimum.measure.gradient >= FAR
    if far and max_passes < MAX_PASSES and evals == len(reached):
        # there was no time for more; the step that costs nothing leaves about sqrt(D/n) of the way
        length = min(1.0, STEP_CAP / minimum.measure.gradient)
        x = x + q.scale.mv(length * gradient[None])[0]
    elif far:
        return WarmStart(q._replace(loc=x), ())
    return WarmStart(q._replace(loc=x), control)


def project(gaussian: Gaussian, structure: Structure) -> Gaussian:
    """Return the best approximation with a structure to a Gaussian of full rank.

    Of coupled coordinates the precision is kept, so that uncoupled ones end with the sds that they
    have given all others (Bishop 2006, eq. 10.13). Families of low rank choose for themselves.
    """
    coupled = structure.same_block()
    if structure.rank or coupled.all():
        return gaussian
    sds = gaussian.sds  # in units of these, the matrices below are as far from singular as can be
    inverse = np.linalg.inv(gaussian.scale.tril() / sds[:, None])
    precision = np.where(coupled, inverse.T @ inverse, 0.0)
    scale = sds[:, None] * np.linalg.cholesky(np.linalg.inv(precision))
    return Gaussian(gaussian.loc, TriangularScale(scale))
