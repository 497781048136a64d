"""Memory-mapped arrays: rows on disk, in the same order as a fit in memory takes them."""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from advi.core.jax_config import precision
from advi.data.batching import Batching, batches_of, indices_program
from advi.data.reader import Block, Reader, ReadSource, read_once, read_sample, with_blocks
from advi.data.source import Blocks, Declared, LeafCheck, Rows, check_no_num_rows
from advi.data.spec import DataSpec, converted
from advi.data.streams import chosen_rows
from advi.data.tables import NO_NAMES, Names


@dataclass(frozen=True, eq=False)
class MemoryMap(ReadSource):
    """Arrays on disk, a `Source`."""

    example: Any
    spec: DataSpec
    num_rows: int | None
    arrays: Sequence[np.ndarray]  # on disk, or in memory and in the dtypes of the computation
    batching: Batching | None = None
    names: Names = NO_NAMES

    @classmethod
    def open(cls, data: Any, num_rows: int | None, float_dtype: str, names: Names) -> "MemoryMap":
        """Find the dtypes from one row, without reading the others."""
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
        return cls(data, spec._replace(leaves=shapes), num_rows, arrays, names=names)

    @property
    def first(self) -> Rows:
        size = self._batching.batch_size
        chosen = chosen_rows(self._batching.num_rows, size, np.random.default_rng(0))
        return self.spec.treedef.unflatten(self._at(chosen)), size

    def check_model(self, local: bool, needs_all_rows: str, declared: Declared = None) -> None:
        check_no_num_rows(self.num_rows, local, "memory-mapped data")

    def check_leaves(self, check: LeafCheck) -> None:
        check(jax.tree.leaves(self.example))

    def batched(
        self, log_joint_rows: int | None, batch_size: Any, needs_all_rows: str = ""
    ) -> "MemoryMap":
        batching = batches_of(log_joint_rows, batch_size, True, needs_all_rows)
        spec = self.spec.by_row(batching.num_rows)
        return replace(self, spec=spec, batching=with_blocks(batching, spec))

    def blocks(self, key: Array, rng: np.random.Generator) -> Blocks:
        batching = self._batching
        every = replace(batching, block=0)

        def read() -> Generator[Block, None, None]:
            for first_step in itertools.count(0, batching.block):
                with precision(self.spec.float_dtype):
                    steps = np.arange(first_step, first_step + batching.block, dtype=np.int32)
                    index = jax.device_get(indices_program(every)(key, steps)).ravel()
                yield self._at(index)

        return Reader(read(), batching, self.batch_spec, rng)

    def sample(self, num: int, most: int, rng: np.random.Generator) -> Rows:
        total = self._batching.num_rows
        return read_sample(lambda: self._at(chosen_rows(total, num, rng)), self.spec)

    def epoch(self, most: int, seed: int) -> contextlib.AbstractContextManager[Iterator[Rows]]:
        batching = self._batching
        size, chosen = batching.block * batching.batch_size, np.arange(most)
        if most < batching.num_rows:
            chosen = chosen_rows(batching.num_rows, most, np.random.default_rng(seed))
        blocks = (self._at(chosen[start : start + size]) for start in range(0, most, size))
        return read_once(blocks, self.spec)

    def _at(self, index: np.ndarray) -> Block:
        """Return copies of some rows; slices would be views."""
        part = [np.asarray(leaf) for leaf in self.spec.at(self.arrays, index)]
        tree, _ = converted(self.spec.treedef.unflatten(part), self.spec.float_dtype)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
