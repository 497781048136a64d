"""Memory-mapped arrays: rows on disk, in the order in which a fit in memory takes them."""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core.jax_config import precision
from advi.data import reader
from advi.data.batching import Batching, batches_of, indices_program
from advi.data.reader import Block, Reader, read_once, read_sample
from advi.data.source import Blocks, LeafCheck, Passes, Rows, check_no_num_rows, refuse_settings
from advi.data.spec import DataSpec, converted
from advi.data.streams import chosen_rows


@dataclass(frozen=True, eq=False)
class MemoryMap:
    """Arrays on disk, a `Source`.

    Attributes
    ----------
    arrays
        The leaves: on disk, or in memory and in the dtypes of the computation.
    """

    example: Any
    spec: DataSpec
    num_rows: int | None
    arrays: Sequence[np.ndarray]
    batching: Batching | None = None

    streamed = True

    @classmethod
    def open(cls, data: Any, num_rows: int | None, float_dtype: str) -> "MemoryMap":
        """Find shapes and dtypes, of which one row tells without reading the others."""
        leaves, treedef = jax.tree.flatten(data, is_leaf=lambda node: isinstance(node, list))
        mapped = [isinstance(leaf, np.memmap) and leaf.ndim > 0 for leaf in leaves]
        read = [leaf[:1] if on_disk else leaf for leaf, on_disk in zip(leaves, mapped, strict=True)]
        tree, spec = converted(treedef.unflatten(read), float_dtype)
        shapes = tuple(
            (leaf.shape if on_disk else shape, dtype)
            for leaf, on_disk, (shape, dtype) in zip(leaves, mapped, spec.leaves, strict=True)
        )
        arrays = [
            leaf if on_disk else np.asarray(in_memory)
            for leaf, on_disk, in_memory in zip(leaves, mapped, jax.tree.leaves(tree), strict=True)
        ]
        return cls(data, spec._replace(leaves=shapes), num_rows, arrays)

    @property
    def batch_spec(self) -> DataSpec:
        """`DataSpec` of the data of one step."""
        assert self.batching is not None
        return self.spec.with_length(self.batching.batch_size)

    @property
    def first(self) -> Rows:
        """As many rows as in a step, chosen at random."""
        assert self.batching is not None
        size = self.batching.batch_size
        chosen = chosen_rows(self.batching.num_rows, size, np.random.default_rng(0))
        return self.spec.treedef.unflatten(self._at(chosen)), size

    def check_model(self, local: bool, needs_all_rows: str) -> None:
        """Raise ValueError for a number of rows that nothing needs."""
        check_no_num_rows(self.num_rows, local, "memory-mapped data")

    def check_settings(self, checkpoint: Any, tables: Sequence[str]) -> None:
        """Refuse both."""
        refuse_settings(checkpoint, tables)

    def check_leaves(self, check: LeafCheck) -> None:
        """Check the leaves."""
        check(jax.tree.leaves(self.example))

    def batched(
        self, log_joint_rows: int | None, batch_size: Any, needs_all_rows: str = ""
    ) -> "MemoryMap":
        """Return the arrays with rows for each step."""
        batching = batches_of(log_joint_rows, batch_size, True, needs_all_rows)
        spec = self.spec.by_row(batching.num_rows)
        batching = reader.with_blocks(batching, spec.with_length(batching.batch_size))
        return replace(self, spec=spec, batching=batching)

    def blocks(self, key: Array, rng: np.random.Generator) -> Blocks:
        """Begin to read blocks, in the order that the key gives."""
        batching = self.batching
        assert batching is not None
        every = replace(batching, block=0)

        def read() -> Generator[Block, None, None]:
            for first_step in itertools.count(0, batching.block):
                with precision(self.spec.float_dtype):
                    steps = np.arange(first_step, first_step + batching.block, dtype=np.int32)
                    index = jax.device_get(indices_program(every)(key, steps)).ravel()
                yield self._at(index)

        return Reader(read(), batching, self.batch_spec, rng)

    def sample(self, num: int, most: int, rng: np.random.Generator) -> Rows:
        """Read rows chosen at random."""
        assert self.batching is not None
        total = self.batching.num_rows
        return read_sample(lambda: self._at(chosen_rows(total, num, rng)), self.spec)

    def epoch(self, most: int, seed: int) -> contextlib.AbstractContextManager[Iterator[Rows]]:
        """Begin to read rows chosen by the seed, or all."""
        batching = self.batching
        assert batching is not None
        size, chosen = batching.block * batching.batch_size, np.arange(most)
        if most < batching.num_rows:
            chosen = chosen_rows(batching.num_rows, most, np.random.default_rng(seed))
        blocks = (self._at(chosen[start : start + size]) for start in range(0, most, size))
        return read_once(blocks, self.spec)

    def passes(self, steps: int, at_least: int, rng: np.random.Generator) -> Passes:
        """Return as many passes as the steps make."""
        assert self.batching is not None
        return reader.passes(self.batching, steps, at_least, rng)

    def _at(self, index: np.ndarray) -> Block:
        """Return copies of some rows, which slices would not be."""
        part = [np.asarray(leaf) for leaf in self.spec.at(self.arrays, index)]
        tree, _ = converted(self.spec.treedef.unflatten(part), self.spec.float_dtype)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
