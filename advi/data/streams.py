"""Streams of the user's batches, joined and cut into the rows of steps."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core import interrupts
from advi.core.axes import NOTHING, Labels
from advi.data.batching import Batching, check_batch_size
from advi.data.reader import (
    Block,
    EndlessError,
    Reader,
    ReadSource,
    StreamError,
    read_once,
    read_sample,
    with_blocks,
)
from advi.data.source import Blocks, Declared, LeafCheck, Rows
from advi.data.spec import DataSpec, converted
from advi.data.tables import NO_NAMES, Names, tables_and_names

Epochs = Callable[[], Iterator[Any]]


@dataclass(eq=False)
class BatchStream(ReadSource):
    """Batches that are read once each epoch, a `Source`."""

    epochs: Epochs  # begins an epoch
    rows_per_epoch: int
    example: Any
    spec: DataSpec
    waiting: list[Iterator[Any]]  # the epoch whose first batch has been read
    check: LeafCheck | None = None
    batching: Batching | None = None
    names: Names = NO_NAMES
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # of the epochs

    num_rows = None

    @classmethod
    def open(
        cls, epochs: Epochs, num_rows: int, float_dtype: str, coords: Labels = NOTHING
    ) -> "BatchStream":
        """Read the first batch, whose categories are those of all; ValueError if there is none."""
        try:
            with interrupts.at_once():  # of a fit there is nothing yet to return
                epoch = epochs()
                batch = next(epoch)
        except StopIteration:
            raise ValueError("data: the stream is empty; expected at least one batch.") from None
        tree, names = tables_and_names(as_tree(batch), coords)
        example, spec = converted(tree, float_dtype)
        whole: Iterator[Any] = itertools.chain([batch], epoch)
        return cls(epochs, num_rows, example, spec, [whole], names=names)

    @property
    def first(self) -> Rows:
        leaves = [np.array(leaf) for leaf in jax.tree.leaves(self.example)]
        rows = self.spec.at(leaves, slice(self._batching.batch_size))
        return self.spec.treedef.unflatten(rows), self.spec.length(rows)

    def check_model(self, local: bool, needs_all_rows: str, declared: Declared = None) -> None:
        if needs_all_rows:
            raise ValueError(f"data: {needs_all_rows}")
        if declared is not None and declared[1] != self.rows_per_epoch:
            name, size = declared
            raise ValueError(
                f"num_rows: got {self.rows_per_epoch}, but the plate {name!r} of the model has "
                f"{size} rows; expected one number for both."
            )

    def check_leaves(self, check: LeafCheck) -> None:
        self.check = check

    def batched(
        self, log_joint_rows: int | None, batch_size: Any, needs_all_rows: str = ""
    ) -> "BatchStream":
        size, num_rows = log_joint_rows, self.rows_per_epoch
        if size is None:
            raise ValueError(
                "data: a stream gives some rows at a time, but log_joint returned a scalar, which "
                "does not say what belongs to rows. Return advi.Terms(shared, rows) with one "
                "log-likelihood per data row."
            )
        spec = self.spec.by_row(size)
        if not 1 <= size <= num_rows:
            raise ValueError(
                f"num_rows: got {num_rows}, and a first batch of {size} rows; expected at least "
                "one row in it, and the number of rows in one epoch."
            )
        batch_size = size if batch_size is None else check_batch_size(batch_size, num_rows)
        batching = with_blocks(Batching(num_rows, batch_size), spec)
        return replace(self, spec=spec, batching=batching)

    def blocks(self, key: Array, rng: np.random.Generator) -> Blocks:
        batches = itertools.chain.from_iterable(self._begin() for _ in itertools.count())
        return Reader(self._cut(batches), self._batching, self.batch_spec, rng)

    def sample(self, num: int, most: int, rng: np.random.Generator) -> Rows:
        def read() -> Block:
            chosen, start, held = chosen_rows(most, num, rng), 0, []
            for leaves in self._at_most(most):
                stop = start + self.spec.length(leaves)
                here = slice(*np.searchsorted(chosen, [start, stop]))
                held.append(self.spec.at(leaves, chosen[here] - start))
                start = stop
            return self.spec.joined(held)

        return read_sample(read, self.spec)

    def epoch(self, most: int, seed: int) -> contextlib.AbstractContextManager[Iterator[Rows]]:
        return read_once(self._cut(self._at_most(most)), self.spec)

    def _begin(self) -> Generator[Block, None, None]:
        # one reading ends before the next begins: a loader may have only one at a time
        batches = self.waiting.pop() if self.waiting else self.epochs()
        number = next(self.numbers)
        leaves = self._leaves(batches, number)
        return self._checked(leaves, self.check) if number == 1 and self.check else leaves

    def _checked(self, epoch: Iterator[Block], check: LeafCheck) -> Generator[Block, None, None]:
        for number, leaves in enumerate(epoch, 1):
            if self.spec.length(leaves) == self.spec.num_rows:  # the trace is for so many
                try:
                    check(leaves)
                except ValueError as error:
                    raise StreamError(f"batch {number} of epoch 1: {error}") from None
            yield leaves

    def _leaves(self, batches: Iterator[Any], number: int) -> Generator[Block, None, None]:
        """Yield the leaves of an epoch's batches, checked; a short last one may be left out."""
        seen, num_rows = 0, self.rows_per_epoch
        for index, batch in enumerate(batches, 1):
            leaves = self._like_first(batch, f"batch {index} of epoch {number}")
            seen += self.spec.length(leaves)
            yield leaves
        if not num_rows - self.spec.num_rows < seen <= num_rows:
            each, again = "Each epoch must give every row once.", "makes a new iterator each time."
            raise StreamError(
                f"epoch {number} of the stream had {seen} rows; expected num_rows={num_rows}. "
                + (each if seen else f"Give a function that {again}")
            )

    def _at_most(self, most: int) -> Generator[Block, None, None]:
        """Yield an epoch's batches up to a number of rows.

        Where these are all, the epoch is read to its end, and EndlessError raised if it goes on.
        """
        left = most
        with contextlib.closing(self._begin()) as batches:
            for leaves in batches:
                length = self.spec.length(leaves)
                left -= length
                if left > 0 or (left == 0 and most == self.rows_per_epoch):
                    yield leaves
                elif most == self.rows_per_epoch:
                    raise EndlessError(f"one epoch of the stream had over num_rows={most} rows")
                else:
                    yield self.spec.at(leaves, slice(length + left))
                    return

    def _cut(self, batches: Iterator[Block]) -> Generator[Block, None, None]:
        """Yield blocks of the rows of batches, in their order, and at the end the rest.

        The rows left over of one epoch begin the next block, so that every row counts as often as
        every other whatever the sizes of the batches.
        """
        spec, size = self.spec, self._batching.block * self._batching.batch_size
        held: list[Block] = []
        count = 0
        for leaves in batches:
            held.append(leaves)
            count += spec.length(leaves)
            if count < size:
                continue
            joined = spec.joined(held)
            for start in range(0, count - size + 1, size):
                yield spec.at(joined, slice(start, start + size))
            held, count = [spec.at(joined, slice(count - count % size, count))], count % size
        if count:
            yield spec.joined(held)

    def _like_first(self, batch: Any, what: str) -> Block:
        """Return the leaves of a batch, which is like the first but for its number of rows."""
        first = self.spec
        try:
            tree, spec = converted(as_tree(batch), first.float_dtype, self.names.categories)
        except ValueError as error:
            raise StreamError(f"{what}: {error}") from None
        if spec.treedef != first.treedef:
            raise StreamError(f"{what}: got the tree {spec.treedef}; expected {first.treedef}.")
        shapes = zip(spec.shapes.values(), first.per_row, strict=True)
        lengths = {shape[0] for shape, row in shapes if row and shape}
        resized = first.with_length(lengths.pop() if len(lengths) == 1 else -1)
        if resized.leaves != spec.leaves:
            raise StreamError(
                f"{what}: got {_described(spec)}; expected leaves like those of the first batch, "
                f"{_described(first)}, but for one number of rows."
            )
        # copies: a loader may write its next batch into the same memory
        return [np.array(leaf) for leaf in jax.device_get(jax.tree.leaves(tree))]


def as_tree(batch: Any) -> Any:
    """Return a batch as a pytree: a list, as loaders make them, is a tuple of arrays."""
    return tuple(batch) if isinstance(batch, list) else batch


def chosen_rows(most: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """Return some rows (num,) out of `most`, in their order."""
    return np.sort(rng.choice(most, num, replace=False))


def _described(spec: DataSpec) -> str:
    leaves = zip(spec.names, spec.leaves, strict=True)
    return ", ".join(f"{name}: {shape} {dtype}" for name, (shape, dtype) in leaves)
