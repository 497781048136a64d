"""Minibatches: the rows of a step, and the factor N/B."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core.errors import describe
from advi.core.jax_config import compiled
from advi.data.permutation import shuffled


@dataclass(frozen=True)
class Batching:
    """The number of rows, and how many of them one step sees."""

    num_rows: int  # N, in the data
    batch_size: int  # B, in one step
    block: int = 0  # steps whose rows are in memory at a time; 0 where all rows are

    @property
    def scale(self) -> float:
        """N/B, the factor of the sum over a batch's rows."""
        return self.num_rows / self.batch_size

    @property
    def whole(self) -> bool:
        """Whether a step sees all rows that are in memory."""
        return self.block == 1 or (self.block == 0 and self.scale == 1)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the rows left over change with every epoch."""
        return self.num_rows // self.batch_size

    def index(self, key: Array, step: Array) -> Array:
        """Return the indices (B,) into the data of the batch of step () number `step`, from 0.

        Every epoch has an order of its own, from the key and the epoch. The rows of a block are
        taken in their order.
        """
        offsets = jnp.arange(self.batch_size, dtype=step.dtype)
        if self.block:
            return step % self.block * self.batch_size + offsets
        epoch, position = jnp.divmod(step, self.steps_per_epoch)
        offsets = position * self.batch_size + offsets
        return shuffled(offsets, self.num_rows, jax.random.fold_in(key, epoch))


@lru_cache(maxsize=8)
def indices_program(batching: Batching) -> Any:
    """Return the compiled `Batching.index` of a key and several steps."""
    return compiled(jax.vmap(batching.index, in_axes=(None, 0)))


def batches_of(
    num_rows: int | None, batch_size: Any, has_data: bool, needs_all_rows: str
) -> Batching:
    """Check a batch size against the rows of a log-joint, and return the batching.

    `num_rows` is the length of `Terms.rows`, None of a scalar log-joint; `needs_all_rows` says in
    a sentence why the model needs all rows at once, or is empty. TypeError or ValueError if there
    are no such batches.
    """
    if num_rows is None:
        if needs_all_rows:
            raise ValueError(f"batch_size={batch_size}: {needs_all_rows}")
        raise ValueError(
            f"batch_size={batch_size} needs to know which part of the log-joint belongs to rows, "
            "but log_joint returned a scalar. Return advi.Terms(shared, rows) with one "
            "log-likelihood per data row, or leave batch_size out."
        )
    if not has_data:
        raise ValueError(
            f"batch_size={batch_size} takes batches of `data`, but data is None. Pass the rows as "
            "data instead of closing over them."
        )
    return Batching(num_rows, check_batch_size(batch_size, num_rows))


def check_batch_size(batch_size: Any, rows: int) -> int:
    """Return a batch size if it is an integer from 1 to the number of rows, or raise."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
        raise TypeError(f"batch_size: got {describe(batch_size)}; expected an integer.")
    if not 1 <= batch_size <= rows:
        raise ValueError(f"batch_size: got {batch_size}; expected 1 to {rows}, the number of rows.")
    return int(batch_size)


def check_batch(batching: Batching, num_rows: int | None) -> None:
    """Raise ValueError unless a log-joint returns a batch's rows for a batch."""
    if num_rows != batching.batch_size:
        raise ValueError(
            f"batch_size={batching.batch_size}: for a batch of data Terms.rows has length "
            f"{num_rows}; expected {batching.batch_size}. Take every row from `data`, and the "
            "number of rows from its shape."
        )
