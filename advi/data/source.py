"""The sources of a fit's rows: in memory, on disk, or a stream, behind one interface.

An algorithm uses the members of `Source` and does not ask which kind it is.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from jax import Array

from advi.core.errors import describe
from advi.core.jax_config import compiled
from advi.data.batching import Batching, batches_of
from advi.data.spec import DataSpec
from advi.data.tables import NO_NAMES, Names

LeafCheck = Callable[[Sequence[Any]], None]  # of the leaves of some rows; raises ValueError
Rows = tuple[Any, int]  # data on the device, and how many rows they are
Declared = tuple[str, int] | None  # the plate of the rows and its size, where a model has one

MAX_PASSES = 60  # gradients of all rows that a start may take


class Passes(NamedTuple):
    """How often rows may be read to find a start, how many each time, and which (by a seed)."""

    num: int
    rows: int
    seed: int = 0


class Blocks(Protocol):
    """Blocks of rows on the device, one for every chunk of steps, without an end."""

    kept: list[Any]  # batches that evaluate a fit where not all rows are in memory

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...

    def abandon(self) -> None:
        """Do not wait at the end for rows that are being read: they may never come."""


class Source(Protocol):
    """Rows of data."""

    # data by which a model is resolved: all of it, or the first batch of a stream; and its spec
    @property
    def example(self) -> Any: ...
    @property
    def spec(self) -> DataSpec: ...
    # rows that local latents have values for, as the user says
    @property
    def num_rows(self) -> int | None: ...
    # of categories, in the order of their codes in all rows, and labels along axes
    @property
    def names(self) -> Names: ...
    # whether rows are read as the fit goes on, so that only an optimiser's steps can use them
    @property
    def streamed(self) -> bool: ...
    # after `batched`, None where every step sees all data; and the spec of the data of one step
    @property
    def batching(self) -> Batching | None: ...
    @property
    def batch_spec(self) -> DataSpec: ...
    @property
    def first(self) -> Rows:
        """Some rows to begin with."""
        ...

    def check_model(self, local: bool, needs_all_rows: str, declared: Declared = None) -> None:
        """Raise ValueError if a model, with or without local latents, cannot take its rows here.

        `needs_all_rows` says in a sentence why it needs all rows at once, or is empty; `declared`
        has the plate of the rows, where the data are a part of them.
        """

    def check_settings(self, checkpoint: Any, tables: Sequence[str]) -> None:
        """Raise ValueError for a checkpoint, or latents with tables, where rows have no index."""

    def check_leaves(self, check: LeafCheck) -> None:
        """Check the leaves of all rows, now or when they are first read."""

    def batched(
        self, log_joint_rows: int | None, batch_size: Any, needs_all_rows: str = ""
    ) -> "Source":
        """Return the source with rows for each step.

        `log_joint_rows` is the length of `Terms.rows` for `example`, None of a scalar log-joint;
        `batch_size` None stands for the rows of the first batch, or for all data.
        """
        ...

    def blocks(self, key: Array, rng: np.random.Generator) -> Blocks:
        """Begin to read blocks; the key orders the rows, the generator samples `Blocks.kept`."""
        ...

    def sample(self, num: int, most: int, rng: np.random.Generator) -> Rows:
        """Return a random sample of `num` rows, of the `most` that `epoch` reads."""
        ...

    def epoch(self, most: int, seed: int) -> contextlib.AbstractContextManager[Iterator[Rows]]:
        """Begin to read `most` rows once, in blocks on the device; the seed chooses which."""
        ...

    def passes(self, steps: int, at_least: int, rng: np.random.Generator) -> Passes:
        """Return how often rows may be read before so many steps, at least some at a time."""
        ...


class _SameBlock:
    """All data, for every chunk of steps."""

    def __init__(self, data: Any) -> None:
        self._data, self.kept = data, []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._data)

    def __next__(self) -> Any:
        return self._data

    def abandon(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class InMemory:
    """Data on the device, a `Source`."""

    example: Any
    spec: DataSpec
    num_rows: int | None
    batching: Batching | None = None
    names: Names = NO_NAMES

    streamed = False

    @property
    def batch_spec(self) -> DataSpec:
        batching = self.batching
        return self.spec if batching is None else self.spec.with_length(batching.batch_size)

    @property
    def first(self) -> Rows:
        return self.example, 0 if self.batching is None else self.batching.num_rows

    def check_model(self, local: bool, needs_all_rows: str, declared: Declared = None) -> None:
        check_no_num_rows(self.num_rows, local, "data in memory")

    def check_settings(self, checkpoint: Any, tables: Sequence[str]) -> None:
        """Accept both: every row has an index."""

    def check_leaves(self, check: LeafCheck) -> None:
        check(self.spec.treedef.flatten_up_to(self.example))

    def batched(
        self, log_joint_rows: int | None, batch_size: Any, needs_all_rows: str = ""
    ) -> "InMemory":
        if batch_size is None:
            return self
        batching = batches_of(log_joint_rows, batch_size, bool(self.spec.leaves), needs_all_rows)
        return replace(self, spec=self.spec.by_row(batching.num_rows), batching=batching)

    def blocks(self, key: Array, rng: np.random.Generator) -> Blocks:
        return _SameBlock(self.example)

    def sample(self, num: int, most: int, rng: np.random.Generator) -> Rows:
        total = self.first[1]
        if num == total:
            return self.first
        index = np.sort(rng.choice(total, num, replace=False))
        return gather_program(self.spec)(self.example, index.astype(np.int32)), num

    def epoch(self, most: int, seed: int) -> contextlib.AbstractContextManager[Iterator[Rows]]:
        return contextlib.nullcontext(iter([self.first]))

    def passes(self, steps: int, at_least: int, rng: np.random.Generator) -> Passes:
        return Passes(MAX_PASSES, self.first[1])


@lru_cache(maxsize=16)
def gather_program(spec: DataSpec) -> Callable[[Any, Any], Any]:
    """Return the compiled `DataSpec.gather`."""
    return compiled(spec.gather)


def check_no_num_rows(num_rows: int | None, local: bool, what: str) -> None:
    """Raise ValueError for a number of rows where `Terms.rows` says it already."""
    if num_rows is not None and not local:
        raise ValueError(
            f"num_rows: got {describe(num_rows)} for {what}, whose number of rows is "
            "that of Terms.rows; expected it for streams and local latents only. Leave it out."
        )
