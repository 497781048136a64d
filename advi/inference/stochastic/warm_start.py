"""Where steps on minibatches start: the plan on some rows, whatever holds the rows."""

from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import describe_error
from advi.core.keys import Stream, host_rng
from advi.core.status import Status
from advi.data import streams
from advi.data.arrays import Rows
from advi.inference.plan.plan import NotFiniteError
from advi.inference.stochastic.pilot import (
    MAX_PASSES,
    Start,
    can_start,
    num_some,
    plan_on_rows,
    some_rows,
    toward_all,
)
from advi.inference.stochastic.steps import Stochastic
from advi.model.checks.first_points import FirstLook, UsedElsewhereError
from advi.model.density import Density
from advi.model.prior_starts import finite_first
from advi.model.stream_density import AllRows
from advi.posterior.initial import initial

UNANCHORED = 16  # times as many rows for the plan, where it has the last word


class Planned(NamedTuple):
    """What came of looking for a start."""

    start: Start | None = None
    seen: int = 0  # rows that the anchor has seen
    stopped: Status | None = None  # if it was interrupted, and no step is to be taken


def planned(
    settings: Stochastic, source: Density | streams.Stream, init: Any, key: Any, steps: int
) -> Planned:
    """Return a start for steps on minibatches: the plan on some rows, then a look at all of them.

    A stream is read for it as often as for the steps, at most, and twice at least. If they read
    less than an epoch, so does the start, and what it has read stands for all: the first rows of
    batches, rows chosen at random from a file. Of a stream whose epoch never ends, which need not
    give every row as often as every other, there is no more than the plan on its first rows.

    There is no start for latents that it is not for, or where it ends at nothing finite.

    Parameters
    ----------
    settings
        Those of the steps.
    source
        The density of all rows, or the stream that gives them.
    init, key
        As in `fit`.
    steps
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
    guide, rows = settings.guide, settings.rows
    if rows is None or not can_start(guide):
        return Planned()
    first, warm = initial(guide.model, init)
    rng, found = host_rng(key, Stream.START), Planned()
    try:
        part, some, passes, seen = _parts(source, rows, guide.model.size, steps, rng)
        first = first if warm else finite_first(some, first)
        look = FirstLook(some, lambda X: part.value_and_grad(X)[0])
        q, status = plan_on_rows(some, rng, first, warm, look)
        found = Planned(Start(q, (), look.alarms))
        if status.cause is not None:
            raise status.cause
        if passes:
            start = toward_all(part, some, rng, q, passes)
            found = Planned(start and start._replace(alarms=look.alarms), seen)
    except (NotFiniteError, UsedElsewhereError):
        return Planned()
    except KeyboardInterrupt:
        why = "interrupted in the search for a start; this is what it has found"
        return found._replace(stopped=Status("interrupted", why, KeyboardInterrupt()))
    except streams.BrokenStreamError as broken:
        if found.start is None or isinstance(broken.error, streams.StreamError):
            raise broken.error from None  # what is wrong with the arguments, too
        why = f"interrupted in the search for a start: {describe_error(broken.error)}"
        return found._replace(stopped=Status("interrupted", why, broken.error))
    return found


def _parts(
    source: Density | streams.Stream,
    rows: Rows,
    dim: int,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Density | AllRows, Density, int, int]:
    """Return the density of all rows, that of some, passes over all, and how many rows all are."""
    if isinstance(source, Density):
        return source, some_rows(source, rows, rng), MAX_PASSES, rows.num_rows
    num, readable = num_some(rows, dim), steps * rows.batch_size
    most = min(rows.num_rows, max(readable, num))
    passes = int(np.clip(readable // rows.num_rows, 1, MAX_PASSES))
    part = AllRows(source, most, int(rng.integers(2**32)))
    try:
        return part, part.some(num, rng), passes, most
    except streams.EndlessError:
        # no pass will make up for what the sample lacks; of all rows, the end would be looked for
        num = min(UNANCHORED * num, rows.num_rows - 1)
        part = AllRows(source, num)
        return part, part.some(num, rng), 0, num
