"""The start of steps on minibatches: the automatic plan on some rows, then passes over all of them.

Some rows n, weighted by N/n, have a posterior of the right width, about sqrt(N/n) of its sds from
that of all rows. Gradients of all rows at a few points correct for that distance.
"""

from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import describe_error
from advi.core.keys import Stream, host_rng
from advi.core.status import Status
from advi.data.reader import BrokenStreamError, EndlessError, StreamError
from advi.data.source import MAX_PASSES, Source
from advi.inference.plan.passes import STEP_CAP, passes_over
from advi.inference.plan.plan import NotFiniteError, run_plan
from advi.inference.stochastic.control_variate import Control, ControlVariate
from advi.inference.stochastic.steps import Steps
from advi.model import prior_starts
from advi.model.checks.first_points import FirstPoints, UsedElsewhereError
from advi.model.density import Density
from advi.model.source_density import SourceDensity
from advi.posterior.initial import initial
from advi.posterior.nonfinite import not_finite_at_start
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian, full_structure
from advi.variational.guide import Guide
from advi.variational.point import Point

MAX_DIM = 256  # beyond, the plan would cost more than the steps it saves
NUM_ROWS, ROWS_PER_DIM = 2048, 20  # rows to run the plan on
ENDLESS_FACTOR = 16  # times as many rows for the plan on a stream without an end
FAR = 0.5  # sds: remaining distance from which on the start has failed


class WarmStart(NamedTuple):
    """A start of steps on minibatches."""

    gaussian: Gaussian
    control: Control  # () without a converged pass over all rows
    alarms: tuple[str, ...] = ()  # faults of the log density


class RowSampler(NamedTuple):
    """Random samples of rows in memory, each of which stands for all."""

    rows: SourceDensity
    num: int  # rows of a sample

    def draw(self, rng: np.random.Generator) -> Density:
        """Return the log density of one."""
        return self.rows.sample(self.num, rng)

    @property
    def most(self) -> int:
        """Number of samples that have half as many rows as there are."""
        return self.rows.most // (2 * self.num)


class Found(NamedTuple):
    """The result of the search for a start."""

    start: WarmStart | None = None
    seen: int = 0  # rows that the control variate has seen
    sampler: RowSampler | None = None  # of rows in memory, as many as the plan had
    stopped: Status | None = None  # if it was interrupted: no step is taken


def can_start(guide: Guide) -> bool:
    """Return whether the plan on some rows is suited to a guide: few latents, all global."""
    inferred = [b for b in guide.blocks if not set(b.names) <= set(guide.model.held)]
    families = all(isinstance(b.family, Family) and b.family != Point() for b in inferred)
    return families and guide.model.size <= MAX_DIM


def find_start(steps: Steps, source: Source, init: Any, key: Any, num_steps: int) -> Found:
    """Return a start for steps on minibatches: the plan on some rows, then passes over all of them.

    Rows on disk are read at most as often as by the steps, and at least twice. If the steps read
    less than an epoch, so does the start, and its rows represent all. Of a stream without an end,
    which may not give all rows equally often, only the first rows are used, for the plan. There is
    no start for unsuited latents, or if the log density is not finite at its end.

    ValueError if only its gradient is not finite, in steps that would all be skipped. Other errors
    are those of `initial`, of a stream that contradicts its first batch or `num_rows`, and any
    other of a stream before the plan has ended.
    """
    guide = steps.guide
    if steps.batching is None or not can_start(guide):
        return Found()
    first, warm = initial(guide.model, init)
    rng, found = host_rng(key, Stream.START), Found()
    try:
        rows, some, passes, seen, num = _sampled(steps, source, num_steps, rng)
        first = first if warm else first._replace(loc=prior_starts.finite_start(some, first.loc))
        inspect = FirstPoints(some, lambda X: rows.value_and_grad(X)[0])
        q, status = plan_on(some, rng, first, warm, inspect)
        found = Found(WarmStart(q, (), inspect.alarms))
        if status.cause is not None:
            raise status.cause
        if passes:
            start = toward_all_rows(rows, some, rng, q, passes)
            sampler = None if source.streamed else RowSampler(rows, num)
            found = Found(start and start._replace(alarms=inspect.alarms), seen, sampler)
    except (NotFiniteError, UsedElsewhereError):
        return Found()
    except KeyboardInterrupt:
        why = "interrupted in the search for a start; this is what it has found"
        return found._replace(stopped=Status("interrupted", why, KeyboardInterrupt()))
    except BrokenStreamError as broken:
        if found.start is None or isinstance(broken.error, StreamError):
            raise broken.error from None  # faults of the arguments, too
        why = f"interrupted in the search for a start: {describe_error(broken.error)}"
        return found._replace(stopped=Status("interrupted", why, broken.error))
    return found


def _sampled(
    steps: Steps, source: Source, num_steps: int, rng: np.random.Generator
) -> tuple[SourceDensity, Density, int, int, int]:
    """Return the densities of all rows and of some, the passes, and the numbers of both rows."""
    model, estimated, batching = steps.guide.model, steps.guide.estimated, steps.batching
    assert batching is not None
    num = min(batching.num_rows, max(NUM_ROWS, ROWS_PER_DIM * model.size))
    passes = source.passes(num_steps, num, rng)
    rows = SourceDensity(model, source, estimated, passes.rows, passes.seed)
    try:
        return rows, rows.sample(num, rng), passes.num, passes.rows, num
    except EndlessError:
        # without passes more rows are needed; asking for all would search the end of the stream
        num = min(ENDLESS_FACTOR * num, batching.num_rows - 1)
        rows = SourceDensity(model, source, estimated, num)
        return rows, rows.sample(num, rng), 0, num, num


def plan_on(
    some: Density,
    rng: np.random.Generator,
    first: Gaussian,
    warm: bool,
    inspect: FirstPoints | None = None,
) -> tuple[Gaussian, Status]:
    """Return the full-rank Gaussian of the plan on some rows, and its status, or NotFiniteError.

    ValueError if only gradients are not finite.
    """
    structure = full_structure(len(first.loc))
    try:
        ended = run_plan(some, structure, rng, first, warm=warm, inspect=inspect)
    except NotFiniteError as error:
        value, gradient = some.value_and_grad(first.loc[None])
        if np.isfinite(value[0]) and not np.isfinite(gradient).all():
            raise not_finite_at_start(some, first.loc, error.tried) from None
        raise
    return ended.gaussian, ended.status


def toward_all_rows(
    density: SourceDensity,
    some: Density,
    rng: np.random.Generator,
    q: Gaussian,
    max_passes: int = MAX_PASSES,
) -> WarmStart | None:
    """Return a Gaussian near the posterior of all rows, and a control variate near its mean.

    The Gaussian `q` of some rows is moved by at most `max_passes` gradients of all rows. If they do
    not converge, there is no control variate; if the log density of all rows is not finite where
    that of some is, no start: None.
    """
    found = passes_over(density, some, rng, q, max_passes)
    if found is None:
        return None
    x, at = found.points[-1]
    distance = found.minimum.measure.gradient
    if distance >= FAR and max_passes < MAX_PASSES and found.num == len(found.points):
        # no passes are left: a step without a further one leaves about sqrt(D/n)
        x = x + q.scale.mv(min(1.0, STEP_CAP / distance) * at.slope[None])[0]
    elif distance >= FAR:
        return WarmStart(q._replace(loc=x), ())
    control = ControlVariate(at.x, at.value, at.gradient)  # type: ignore[arg-type]
    return WarmStart(q._replace(loc=x), control)
