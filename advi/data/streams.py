"""Rows that do not fit into memory: batches of the user's own making, and memory-mapped arrays.

Either is read in blocks of some steps' rows, which a thread moves to the device while the steps
on the block before are taken.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array

from advi.core import interrupts
from advi.core.errors import describe, describe_error
from advi.core.jax_config import compiled
from advi.data.arrays import (
    DataSpec,
    Rows,
    check_batch_size,
    check_rows,
    converted,
    for_rows,
    make_rows,
)
from advi.data.prefetch import Prefetch
from advi.model.checks.indices import check_data_indices
from advi.model.density import precision
from advi.model.model import Model
from advi.model.resolve import Deferred, bound
from advi.model.trace import trace

Block = list[np.ndarray]  # the leaves of some rows, on the host
Epochs = Callable[[], Iterator[Any]]

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


@runtime_checkable
class _Array(Protocol):
    def __array__(self) -> Any: ...


@dataclass(frozen=True)
class Stream:
    """Rows to be read in blocks.

    Attributes
    ----------
    model
        The model, for data like this.
    rows
        How many there are, in a batch and in a block.
    spec
        Of one batch.
    first
        Some rows, not more than in a batch: a pytree on the host.
    blocks
        Begins to read, given the key of the fit; endless.
    epoch
        Begins to read a number of rows once, in blocks of which the last may be shorter: the first
        ones of batches, in a file some chosen at random, the same ones for the same seed.
    sample
        Reads a number of rows chosen at random, given of how many that `epoch` reads.
    """

    model: Model
    rows: Rows
    spec: DataSpec
    first: Any
    blocks: Callable[[Array], Generator[Block, None, None]]
    epoch: Callable[[int, int], Generator[Block, None, None]]
    sample: Callable[[int, int, np.random.Generator], Block]

    @property
    def num_first(self) -> int:
        """How many rows `first` has."""
        return _length(jax.tree.leaves(self.first), self.rows)


class Reader:
    """A stream that is being read: an iterator of blocks on the device.

    A uniform sample of the batches read so far is kept, by which the fit is judged at its end.

    Parameters
    ----------
    stream
        What is read.
    key
        Typed JAX key of the fit.
    rng
        Generator of the sample.
    """

    def __init__(self, stream: Stream, key: Array, rng: np.random.Generator) -> None:
        self._stream, self._rng = stream, rng
        self._prefetch = Prefetch(stream.blocks(key), self._ready)
        self._pick = np.random.default_rng(rng.integers(2**32))  # of the thread's own
        self._offered = 0
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in stream.spec.leaves)
        self._most = int(np.clip(KEPT_BYTES // max(size, 1), SAMPLED, KEPT))
        self.kept: list[Any] = []

    def __enter__(self) -> "Reader":
        self._prefetch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._prefetch.__exit__(kind, *error)

    def __iter__(self) -> "Reader":
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
        rows, spec = self._stream.rows, self._stream.spec
        chosen = self._pick.permutation(rows.block)[:SAMPLED]
        batches = []
        for part in chosen:
            span = slice(part * rows.batch_size, (part + 1) * rows.batch_size)
            of_rows = zip(block, rows.per_row, strict=True)
            leaves = [leaf[span].copy() if row else leaf for leaf, row in of_rows]
            batches.append(spec.treedef.unflatten(leaves))
        with precision(spec.float_dtype):
            moved = [jax.device_put(leaf) for leaf in block]
            return spec.treedef.unflatten(moved), batches


def open_stream(
    model: Model | Deferred,
    data: Any,
    num_rows: int | None,
    batch_size: int | None,
    float_dtype: str,
) -> Stream | None:
    """Return the stream that data are, or None where they are in memory or to be taken there.

    Parameters
    ----------
    model
        The model.
    data
        A re-iterable of batches, a function without arguments that returns an iterator of them,
        or a pytree with memory-mapped leaves.
    num_rows
        Rows in one epoch of a re-iterable.
    batch_size
        Rows in a step; None for that of the first batch.
    float_dtype
        As in `prepare`.

    Raises
    ------
    TypeError
        If `data` can be read only once.
    ValueError
        If `num_rows` is not given, there is no batch, or it does not suit the log-joint.
    """
    epochs = _epochs(data, num_rows)
    if epochs is not None:
        return _batches(model, epochs, num_rows, batch_size, float_dtype)
    if batch_size is not None and any(isinstance(x, np.memmap) for x in jax.tree.leaves(data)):
        return _mapped(model, data, num_rows, batch_size, float_dtype)
    return None


def _epochs(data: Any, num_rows: Any) -> Epochs | None:
    """Return what begins an epoch of batches, or None if the data are no stream."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"data: got {describe(data)}, which can be read only once; a fit takes many epochs. "
            "Give the function that makes it, data=make_batches without calling it, or a list."
        )
    if isinstance(data, list):
        if not any(isinstance(batch, Mapping) for batch in data) and (
            num_rows is None or not all(_is_batch(batch) for batch in data)
        ):
            return None  # one array
    elif not jax.tree_util.all_leaves([data]) or isinstance(data, (_Array, str, bytes, Mapping)):
        return None
    elif not callable(data) and (
        not isinstance(data, Iterable)
        or (num_rows is None and (isinstance(data, Sequence) or hasattr(data, "shape")))
    ):
        return None  # a number, numbers such as a range, or an array of a kind that is refused
    if isinstance(num_rows, bool) or not isinstance(num_rows, (int, np.integer)) or num_rows < 1:
        raise ValueError(
            f"num_rows: got {describe(num_rows)}; expected the number of rows in one epoch of the "
            "stream, by which its batches are scaled. If `data` was meant as one array, write "
            "numpy.asarray(data)."
        )
    begin: Any = data if callable(data) else lambda: data

    def epoch() -> Iterator[Any]:
        made = begin()
        if not isinstance(made, Iterable):
            raise TypeError(f"data(): returned {describe(made)}; expected an iterator of batches.")
        return iter(made)

    return epoch


def _is_batch(entry: Any) -> bool:
    return isinstance(entry, (Mapping, tuple)) or (isinstance(entry, _Array) and np.ndim(entry) > 0)


def _batches(
    model: Model | Deferred, epochs: Epochs, num_rows: Any, batch_size: int | None, float_dtype: str
) -> Stream:
    try:
        with interrupts.at_once():  # of a fit there is nothing yet to return
            epoch = epochs()
            batch = next(epoch)
    except StopIteration:
        raise ValueError("data: the stream is empty; expected at least one batch.") from None
    tree, first = converted(_as_tree(batch), float_dtype)
    model = bound(model, tree, first)
    if model.needs_all_rows:
        raise ValueError(f"data: {model.needs_all_rows}")
    of_batch = for_rows(model, first)
    log_joint = trace(of_batch, first)
    size = log_joint.num_rows
    if size is None:
        raise ValueError(
            "data: a stream gives some rows at a time, but log_joint returned a scalar, which does "
            "not say what belongs to rows. Return advi.Terms(shared, rows) with one log-likelihood "
            "per data row."
        )
    per_row = check_rows(size, first)
    if not 1 <= size <= num_rows:
        raise ValueError(
            f"num_rows: got {num_rows}, and a first batch of {size} rows; expected at least "
            "one row in it, and the number of rows in one epoch."
        )
    batch_size = size if batch_size is None else check_batch_size(batch_size, num_rows)
    rows = _with_block(num_rows, batch_size, per_row, first)

    waiting, numbers = [itertools.chain([batch], epoch)], itertools.count(1)

    def looked_at(epoch: Iterator[Block]) -> Generator[Block, None, None]:
        for place, leaves in enumerate(epoch, 1):
            if _length(leaves, rows) == size:  # the trace is for so many
                try:
                    check_data_indices(of_batch, log_joint, first, leaves)
                except ValueError as error:
                    raise StreamError(f"batch {place} of epoch 1: {error}") from None
            yield leaves

    def begin() -> Generator[Block, None, None]:
        # one reading ends before the next begins: a loader may have only one at a time
        batches = waiting.pop() if waiting else epochs()
        number = next(numbers)
        checked = _epoch(batches, number, rows, first, size)
        return looked_at(checked) if number == 1 else checked

    def blocks(key: Array) -> Generator[Block, None, None]:
        return _cut(itertools.chain.from_iterable(begin() for _ in itertools.count()), rows)

    def epoch_of(most: int, seed: int) -> Generator[Block, None, None]:
        return _cut(_at_most(begin(), rows, most), rows)

    def sample(num: int, most: int, rng: np.random.Generator) -> Block:
        chosen, start, held = _chosen(most, num, rng), 0, []
        for leaves in _at_most(begin(), rows, most):
            stop = start + _length(leaves, rows)
            here = slice(*np.searchsorted(chosen, [start, stop]))
            held.append(_at(leaves, rows, chosen[here] - start))
            start = stop
        return _joined(held, rows)

    of_first = _at([np.array(leaf) for leaf in jax.tree.leaves(tree)], rows, slice(batch_size))
    return Stream(
        model,
        rows,
        rows.batch_spec(first),
        first.treedef.unflatten(of_first),
        blocks,
        epoch_of,
        sample,
    )


def _with_block(num_rows: int, batch_size: int, per_row: tuple[bool, ...], spec: DataSpec) -> Rows:
    """Return the rows of a stream, as many steps in a block as memory allows for."""
    batch = Rows(num_rows, batch_size, per_row).batch_spec(spec)
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in batch.leaves)
    fitting = int(np.clip(BLOCK_BYTES // max(size, 1), 1, BLOCK_STEPS))
    # a power of two, as the steps are after which a fit may have settled
    return Rows(num_rows, batch_size, per_row, 1 << (fitting.bit_length() - 1))


def _as_tree(batch: Any) -> Any:
    """Return a batch as a pytree: a list, as loaders make them, is a tuple of arrays."""
    return tuple(batch) if isinstance(batch, list) else batch


def _epoch(
    batches: Iterator[Any], number: int, rows: Rows, first: DataSpec, most: int
) -> Generator[Block, None, None]:
    """Yield the leaves of an epoch's batches, checked; the last may be left out if it is short."""
    seen = 0
    for place, batch in enumerate(batches, 1):
        leaves = _checked(batch, rows, first, f"batch {place} of epoch {number}")
        seen += _length(leaves, rows)
        yield leaves
    if not rows.num_rows - most < seen <= rows.num_rows:
        hint = (
            " Give a function that makes a new iterator each time." if not seen else
            " Each epoch must give every row once."
        )  # fmt: skip
        raise StreamError(
            f"epoch {number} of the stream had {seen} rows; expected "
            f"num_rows={rows.num_rows}.{hint}"
        )


def _at_most(
    batches: Generator[Block, None, None], rows: Rows, most: int
) -> Generator[Block, None, None]:
    """Yield an epoch's batches up to a number of rows.

    Where these are all, the epoch is read to its end, and EndlessError raised if it goes on.
    """
    left = most
    with contextlib.closing(batches):
        for leaves in batches:
            left -= _length(leaves, rows)
            if left > 0 or (left == 0 and most == rows.num_rows):
                yield leaves
            elif most == rows.num_rows:
                raise EndlessError(f"one epoch of the stream had over num_rows={most} rows")
            else:
                yield _at(leaves, rows, slice(_length(leaves, rows) + left))
                return


def _cut(batches: Iterator[Block], rows: Rows) -> Generator[Block, None, None]:
    """Yield blocks of the rows of batches, in their order, and at the end what is left.

    The rows left over of one epoch begin the next block, so that every row counts as often as
    every other whatever the sizes of the batches.
    """
    size = rows.block * rows.batch_size
    held: list[Block] = []
    count = 0
    for leaves in batches:
        held.append(leaves)
        count += _length(leaves, rows)
        if count < size:
            continue
        joined = _joined(held, rows)
        for start in range(0, count - size + 1, size):
            yield _at(joined, rows, slice(start, start + size))
        held, count = [_at(joined, rows, slice(count - count % size, count))], count % size
    if count:
        yield _joined(held, rows)


def _length(leaves: Block, rows: Rows) -> int:
    return len(leaves[rows.per_row.index(True)])


def _joined(blocks: list[Block], rows: Rows) -> Block:
    return [
        np.concatenate(parts) if row and len(parts) > 1 else parts[-1]
        for parts, row in zip(map(list, zip(*blocks, strict=True)), rows.per_row, strict=True)
    ]


def _chosen(most: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of some rows (num,) out of `most`, in their order."""
    return np.sort(rng.choice(most, num, replace=False))


def _at(leaves: Block, rows: Rows, places: Any) -> Block:
    """Return the rows at some places, or of a slice."""
    return [leaf[places] if row else leaf for leaf, row in zip(leaves, rows.per_row, strict=True)]


def _checked(batch: Any, rows: Rows, first: DataSpec, what: str) -> Block:
    """Return the leaves of a batch that is like the first but for the number of its rows."""
    tree, spec = converted(_as_tree(batch), first.float_dtype)
    if spec.treedef != first.treedef:
        raise StreamError(f"{what}: got the tree {spec.treedef}; expected {first.treedef}.")
    lengths = {
        shape[0] for (shape, _), row in zip(spec.leaves, rows.per_row, strict=True) if row and shape
    }
    like_first = all(
        got[1] == expected[1] and (got[0][1:] == expected[0][1:] if row else got[0] == expected[0])
        for got, expected, row in zip(spec.leaves, first.leaves, rows.per_row, strict=True)
    )
    if len(lengths) != 1 or not like_first:
        raise StreamError(
            f"{what}: got {_described(spec)}; expected leaves like those of the first batch, "
            f"{_described(first)}, but for one number of rows."
        )
    # copies: a loader may write its next batch into the same memory
    return [np.array(leaf) for leaf in jax.device_get(jax.tree.leaves(tree))]


def _described(spec: DataSpec) -> str:
    leaves = zip(spec.names, spec.leaves, strict=True)
    return ", ".join(f"{name}: {shape} {dtype}" for name, (shape, dtype) in leaves)


def _mapped(
    model: Model | Deferred, data: Any, num_rows: Any, batch_size: Any, float_dtype: str
) -> Stream:
    """Return memory-mapped rows as a stream, in the order in which a fit in memory takes them."""
    leaves, treedef = jax.tree.flatten(data, is_leaf=lambda node: isinstance(node, list))
    mapped = [isinstance(leaf, np.memmap) and leaf.ndim > 0 for leaf in leaves]
    # one row tells the dtype without reading the others
    read = [leaf[:1] if on_disk else leaf for leaf, on_disk in zip(leaves, mapped, strict=True)]
    tree, spec = converted(treedef.unflatten(read), float_dtype)
    shapes = [
        (leaf.shape if on_disk else shape, dtype)
        for leaf, on_disk, (shape, dtype) in zip(leaves, mapped, spec.leaves, strict=True)
    ]
    spec = spec._replace(leaves=tuple(shapes))
    model = bound(model, data, spec)
    if num_rows is not None and not model.local:
        raise ValueError(
            f"num_rows: got {describe(num_rows)} for memory-mapped data, whose number of rows is "
            "that of Terms.rows; expected it for a stream of batches only. Leave it out."
        )
    whole = for_rows(model, spec, num_rows)
    log_joint = trace(whole, spec)
    check_data_indices(whole, log_joint, spec, leaves)
    every = make_rows(batch_size, log_joint.num_rows, spec)
    rows = _with_block(every.num_rows, every.batch_size, every.per_row, spec)
    sources = [
        leaf if on_disk else np.asarray(in_memory)
        for leaf, on_disk, in_memory in zip(leaves, mapped, jax.tree.leaves(tree), strict=True)
    ]

    def rows_at(places: np.ndarray) -> Block:  # copies, which a slice would not be
        part = [np.asarray(leaf) for leaf in _at(sources, rows, places)]
        tree, _ = converted(spec.treedef.unflatten(part), float_dtype)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]

    def blocks(key: Array) -> Generator[Block, None, None]:
        for first_step in itertools.count(0, rows.block):
            with precision(float_dtype):
                steps = np.arange(first_step, first_step + rows.block, dtype=np.int32)
                index = jax.device_get(_indices(every)(key, steps)).ravel()
            yield rows_at(index)

    def epoch(most: int, seed: int) -> Generator[Block, None, None]:
        size, places = rows.block * rows.batch_size, np.arange(most)
        if most < rows.num_rows:
            places = _chosen(rows.num_rows, most, np.random.default_rng(seed))
        for start in range(0, most, size):
            yield rows_at(places[start : start + size])

    def sample(num: int, most: int, rng: np.random.Generator) -> Block:
        return rows_at(_chosen(rows.num_rows, num, rng))

    first = spec.treedef.unflatten(sample(rows.batch_size, 0, np.random.default_rng(0)))
    return Stream(model, rows, rows.batch_spec(spec), first, blocks, epoch, sample)


@lru_cache(maxsize=8)
def _indices(rows: Rows) -> Any:
    return compiled(jax.vmap(rows.index, in_axes=(None, 0)))
