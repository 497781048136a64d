"""The log density of the rows of a stream, read anew for every evaluation."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from advi.data.arrays import Rows
from advi.data.prefetch import Prefetch
from advi.data.streams import Block, Stream, reading
from advi.model.density import Density, Floats, precision


class AllRows:
    """Log density on R^D of all rows of a stream, whose latents are all shared.

    Parameters
    ----------
    stream
        The stream.
    most
        Rows to read for an evaluation, which stand for all where they are fewer.
    seed
        Of the choice of these rows, where there is one.
    """

    def __init__(self, stream: Stream, most: int, seed: int = 0) -> None:
        self._stream, self._most, self._seed = stream, most, seed
        self.dtype = np.dtype(stream.spec.float_dtype)

    def some(self, num: int, rng: np.random.Generator) -> Density:
        """Return the log density of a sample of the rows, which stand for all."""
        # in the thread that reads, too, so that the wait for it can be ended
        made = (self._stream.sample(num, self._most, rng) for _ in range(1))
        with Prefetch(made, self._moved) as blocks, reading():
            return self._density(*next(blocks))

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        values, gradients, seen = np.zeros(len(X)), np.zeros(X.shape), 0
        with Prefetch(self._stream.epoch(self._most, self._seed), self._moved) as blocks:
            for data, num in _read(blocks):
                value, gradient = self._density(data, num).value_and_grad(X)
                values += num * value
                gradients += num * gradient
                seen += num
        # every block stands for all rows, and counts by how many it has
        return values / seen, gradients / seen

    def _density(self, data: Any, num: int) -> Density:
        stream = self._stream
        block = Rows(stream.rows.num_rows, num, stream.rows.per_row)
        return Density(stream.model, data, block.batch_spec(stream.spec), scale=block.scale)

    def _moved(self, block: Block) -> tuple[Any, int]:
        with precision(self._stream.spec.float_dtype):
            tree = self._stream.spec.treedef.unflatten([jax.device_put(leaf) for leaf in block])
        return tree, len(block[self._stream.rows.per_row.index(True)])


def _read(blocks: Prefetch) -> Iterator[tuple[Any, int]]:
    while True:
        with reading():
            ready = next(blocks, None)
        if ready is None:
            return
        yield ready
