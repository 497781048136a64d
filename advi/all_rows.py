"""The log density of all rows of a stream, read from end to end for every evaluation."""

from typing import Any

import jax
import numpy as np

from advi.data import Rows
from advi.density import Density, Floats, precision
from advi.prefetch import Prefetch
from advi.streams import Block, Stream


class AllRows:
    """Log density on R^D of all rows of a stream, whose latents are all shared.

    Parameters
    ----------
    stream
        The stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.dtype = np.dtype(stream.spec.float_dtype)

    def some(self, num: int, rng: np.random.Generator) -> Density:
        """Return the log density of some of the rows, which stand for all."""
        return self._density(*self._moved(self._stream.sample(num, rng)))

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        values, gradients, seen = np.zeros(len(X)), np.zeros(X.shape), 0
        with Prefetch(self._stream.epoch(), self._moved) as blocks:
            for data, num in blocks:
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
