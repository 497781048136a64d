"""Rows that are read as a fit goes on: blocks are moved to the device while steps are taken."""

import contextlib
from collections.abc import Callable, Generator, Iterator
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
    """A stream that is not what its first batch and `num_rows` said."""


class EndlessError(StreamError):
    """An epoch that goes on after `num_rows` rows: it may give some of them twice."""


class BrokenStreamError(Exception):
    """A stream could not be read on.

    Attributes
    ----------
    error
        What reading it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(describe_error(error))
        self.error = error


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Tell what reading a stream raises from what else goes wrong in a fit."""
    try:
        yield
    except (StopIteration, EndlessError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also that a task of a loader was cancelled
        raise BrokenStreamError(error) from error


def with_blocks(batching: Batching, spec: DataSpec) -> Batching:
    """Return a batching with as many steps in a block as memory allows for.

    Parameters
    ----------
    batching
        Rows of a step.
    spec
        Of one batch.
    """
    fitting = int(np.clip(BLOCK_BYTES // max(spec.num_bytes, 1), 1, BLOCK_STEPS))
    # a power of two, as the steps are after which a fit may have settled
    return Batching(batching.num_rows, batching.batch_size, 1 << (fitting.bit_length() - 1))


class Reader:
    """An iterator of blocks on the device, which keeps a uniform sample of the batches in them.

    Parameters
    ----------
    blocks
        The blocks, endless.
    batching, spec
        Rows of a step, and the spec of one batch.
    rng
        Generator of the sample.
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
        """Do not wait for the stream at the end: it may be what hangs."""
        self._prefetch.abandon()

    def __next__(self) -> Any:
        with reading():
            block, batches = next(self._prefetch)
        for batch in batches:  # reservoir sampling: every batch is as likely to be kept
            self._offered += 1
            place = int(self._rng.integers(self._offered))
            if len(self.kept) < self._most:
                self.kept.append(batch)
            elif place < self._most:
                self.kept[place] = batch
        return block

    def _ready(self, block: Block) -> tuple[Any, list[Any]]:
        size, spec = self._batching.batch_size, self._spec
        chosen = self._pick.permutation(self._batching.block)[:SAMPLED]
        batches = []
        for part in chosen:
            span = slice(part * size, (part + 1) * size)
            rows = zip(spec.at(block, span), spec.per_row, strict=True)
            leaves = [leaf.copy() if row else leaf for leaf, row in rows]
            batches.append(spec.treedef.unflatten(leaves))
        return on_device(block, spec)[0], batches


def on_device(block: Block, spec: DataSpec) -> Rows:
    """Return the rows of a block as data on the device, and their number."""
    with precision(spec.float_dtype):
        moved = [jax.device_put(leaf) for leaf in block]
    return spec.treedef.unflatten(moved), spec.length(block)


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


def passes(batching: Batching, steps: int, at_least: int, rng: np.random.Generator) -> Passes:
    """Return `Source.passes` where rows have to be read: as often as by the steps, at most."""
    readable = steps * batching.batch_size
    return Passes(
        int(np.clip(readable // batching.num_rows, 1, MAX_PASSES)),
        min(batching.num_rows, max(readable, at_least)),
        int(rng.integers(2**32)),
    )
