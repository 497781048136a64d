"""The log-joint of a block of rows, where the terms of many rows are known to be independent.

A call for several points then reads a block of rows once for all of them, and its memory does not
grow with the number of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import lax
from numpy.typing import NDArray

from advi.core.jax_config import compiled
from advi.core.jaxprs.independent_rows import row_axes, same_for_each_row
from advi.core.types import Floats
from advi.data.source import gather_program
from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.trace import LogJoint, trace_anew

MIN_ROWS = 100_000  # fewer are evaluated together
# Rows of a block: fewer where a row is costly, more where a call waits for another device. Points
# of one call: with more, what the rows make of them leaves the fast memory of a core.
BLOCK_ROWS, DEVICE_BLOCK_ROWS, MIN_BLOCK_ROWS, BLOCK_POINTS = 2**14, 2**18, 2**11, 8
WORK = 2**24  # elements read for the points of one call
MAX_DIM = 2048  # a gradient of many coordinates costs as much as the rows of a block


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """The log-joint of a block of rows."""

    log_joint: LogJoint  # of one block
    spec: DataSpec  # of all rows, which knows the leaves that run over them
    num: int  # rows of one block

    @property
    def block_spec(self) -> DataSpec:
        return self.spec.with_length(self.num)

    def of(self, data: Any, weights: Floats | float) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the data of every block, the weights of its rows, and the factor of shared terms.

        `weights` are those of all rows (N,), or of each. Where the rows are no multiple of a block,
        the last one begins earlier, and has no weight for the rows of the one before it.
        """
        total, num = self.spec.num_rows, self.num
        cut, dtype = block_program(self.spec, num), self.spec.float_dtype
        each = np.broadcast_to(np.asarray(weights, dtype), total)
        full = jax.device_put(np.array(each[:num])) if np.ndim(weights) == 0 else None
        for start in range(0, total, num):
            begin = min(start, total - num)
            own = full
            if own is None or begin < start:
                seen = np.arange(begin, begin + num) < start
                own = jax.device_put(np.where(seen, 0, each[begin : begin + num]))
            yield cut(data, np.int32(begin)), own, np.asarray(start == 0, dtype)

    def sample(self, data: Any, rng: np.random.Generator) -> tuple[Any, NDArray[Any]]:
        """Return the data of as many random rows as a block has, and the weights of all rows."""
        total = self.spec.num_rows
        index = np.sort(rng.choice(total, self.num, replace=False)).astype(np.int32)
        weights = np.full(self.num, total / self.num, self.spec.float_dtype)
        return gather_program(self.spec)(data, index), weights


@lru_cache(maxsize=16)
def block_program(spec: DataSpec, num: int) -> Any:
    """Return the function (data, first row) -> data of `num` rows."""

    def block(data: Any, start: Any) -> Any:
        leaves, treedef = jax.tree.flatten(data)
        pairs = zip(leaves, spec.per_row, strict=True)
        return treedef.unflatten(
            lax.dynamic_slice_in_dim(leaf, start, num) if row else leaf for leaf, row in pairs
        )

    return compiled(block)


@lru_cache(maxsize=64)
def row_blocks(model: Model, log_joint: LogJoint, spec: DataSpec) -> RowBlocks | None:
    """Return the log-joint for blocks of rows, or None.

    There is one for many rows whose terms depend each on its own row of the data, and shared terms
    that depend on none, where the log-joint computes the same for other numbers of rows: by their
    traces.
    """
    total = log_joint.num_rows
    if total is None or total < MIN_ROWS or not spec.leaves:
        return None
    if model.local or model.size > MAX_DIM or log_joint.forward:
        return None
    by_row = spec.by_row(total)
    fitting = WORK // BLOCK_POINTS // max(log_joint.cost // total, 1)
    most = BLOCK_ROWS if jax.default_backend() == "cpu" else DEVICE_BLOCK_ROWS
    num = int(np.clip(2 ** int(np.log2(max(fitting, 1))), MIN_BLOCK_ROWS, most))
    if num > total:
        return None
    axes = [None] * len(model.latents) + [0 if row else None for row in by_row.per_row]
    try:
        block = trace_anew(model, by_row.with_length(num))
    except Exception:  # whatever the user's own code raises for another number of rows
        return None
    whole, part = log_joint.flat.jaxpr, block.flat.jaxpr
    shared, *rows = row_axes(part, axes, num)
    apart = block.num_rows == num and shared is None and set(rows) == {0}
    if not apart or not same_for_each_row(whole, part, total, num):
        return None
    return RowBlocks(block, by_row, num)
