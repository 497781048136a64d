"""Rows that are read as a fit goes on: blocks move to the device while steps are taken."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import numpy as np

from advi.core.errors import describe_error
from advi.core.jax_config import precision
from advi.data.batching import Batching
from advi.data.prefetch import Prefetch
from advi.data.source import MAX_PASSES, Passes, Rows
from advi.data.spec import DataSpec

Block = list[np.ndarray]  # the leaves of some rows, on the host

BLOCK_STEPS, BLOCK_BYTES = 128, 2**24  # of one block, at most; at least one step
SAMPLED, KEPT, KEPT_BYTES = 4, 32, 2**26  # batches kept of one block, and of all


class StreamError(ValueError):
    """A stream that disagrees with its first batch or with `num_rows`."""


class EndlessError(StreamError):
    """An epoch that goes on after `num_rows` rows: it may give some of them twice."""


class BrokenStreamError(Exception):
    """An error raised while a stream was read."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(describe_error(error))
        self.error = error


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn errors from reading a stream into BrokenStreamError, unlike other errors of a fit."""
    try:
        yield
    except (StopIteration, EndlessError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also that a task of a loader was cancelled
        raise BrokenStreamError(error) from error


class ReadSource:
    """What sources have in common whose rows are read as the fit goes on; abstract."""

    spec: DataSpec
    batching: Batching | None
    streamed = True

    @property
    def _batching(self) -> Batching:
        assert self.batching is not None  # `batched` was called
        return self.batching

    @property
    def batch_spec(self) -> DataSpec:
        return self.spec.with_length(self._batching.batch_size)

    def check_settings(self, checkpoint: Any, tables: Sequence[str]) -> None:
        if checkpoint is not None:
            raise ValueError(
                "checkpoint: the rows of a stream, or of memory-mapped arrays, cannot be taken up "
                "where they were left; expected data in memory. Leave it out, or read the data."
            )
        if tables:
            raise ValueError(
                f"family: {tables[0]!r} has a table of parameters, one for each row, "
                "and a stream does not say which row is which; expected "
                "advi.Amortised(encode, params), or data in memory."
            )

    def passes(self, steps: int, at_least: int, rng: np.random.Generator) -> Passes:
        num_rows, readable = self._batching.num_rows, steps * self._batching.batch_size
        return Passes(  # not more reading than by the steps
            int(np.clip(readable // num_rows, 1, MAX_PASSES)),
            min(num_rows, max(readable, at_least)),
            int(rng.integers(2**32)),
        )


def with_blocks(batching: Batching, spec: DataSpec) -> Batching:
    """Return a batching with as many steps in a block as memory allows; `spec` is of all rows."""
    num_bytes = spec.with_length(batching.batch_size).num_bytes
    fitting = int(np.clip(BLOCK_BYTES // max(num_bytes, 1), 1, BLOCK_STEPS))
    # a power of two, as are the numbers of steps at which convergence is judged
    return replace(batching, block=1 << (fitting.bit_length() - 1))


class Reader:
    """An iterator of blocks on the device, which keeps a uniform sample of their batches.

    `blocks` is endless, `spec` that of one batch, `rng` the generator of the sample.
    """

    def __init__(
        self,
        blocks: Generator[Block, None, None],
        batching: Batching,
        spec: DataSpec,
        rng: np.random.Generator,
    ) -> None:
        self._batching, self._spec, self._rng = batching, spec, rng
        self._prefetch = Prefetch(blocks, self._ready)
        self._pick = np.random.default_rng(rng.integers(2**32))  # of the thread's own
        self._offered = 0
        self._most = int(np.clip(KEPT_BYTES // max(spec.num_bytes, 1), SAMPLED, KEPT))
        self.kept: list[Any] = []

    def __enter__(self) -> Self:
        self._prefetch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._prefetch.__exit__(kind, *error)

    def __iter__(self) -> Self:
        return self

    def abandon(self) -> None:
        self._prefetch.abandon()

    def __next__(self) -> Any:
        with reading():
            block, batches = next(self._prefetch)
        for batch in batches:  # reservoir sampling: every batch is as likely to be kept
            self._offered += 1
            index = int(self._rng.integers(self._offered))
            if len(self.kept) < self._most:
                self.kept.append(batch)
            elif index < self._most:
                self.kept[index] = batch
        return block

    def _ready(self, block: Block) -> tuple[Any, list[Any]]:
        size, spec = self._batching.batch_size, self._spec
        chosen = self._pick.permutation(self._batching.block)[:SAMPLED]
        batches = []
        for part in chosen:
            leaves = spec.at(block, slice(part * size, (part + 1) * size))
            rows = zip(leaves, spec.per_row, strict=True)
            batches.append(spec.treedef.unflatten([x.copy() if row else x for x, row in rows]))
        return on_device(block, spec)[0], batches


def on_device(block: Block, spec: DataSpec) -> Rows:
    """Return the rows of a block as data on the device, and their number."""
    with precision(spec.float_dtype):
        return spec.treedef.unflatten(map(jax.device_put, block)), spec.length(block)


@contextlib.contextmanager
def read_once(blocks: Generator[Block, None, None], spec: DataSpec) -> Iterator[Iterator[Rows]]:
    """Read blocks in a thread, so that the wait for them can be ended; yield them as data."""
    with Prefetch(blocks, lambda block: on_device(block, spec)) as ready:

        def rows() -> Iterator[Rows]:
            while True:
                with reading():
                    found = next(ready, None)
                if found is None:
                    return
                yield found

        yield rows()


def read_sample(sample: Callable[[], Block], spec: DataSpec) -> Rows:
    """Read a sample of rows in a thread."""
    with read_once((sample() for _ in range(1)), spec) as rows:
        return next(rows)
