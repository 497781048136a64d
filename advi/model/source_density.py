"""The log density of all rows of a source, which are read for every evaluation."""

from typing import Any

import numpy as np

from advi.core.types import Floats
from advi.data.source import Rows, Source
from advi.model.density import Density
from advi.model.model import Model


class SourceDensity:
    """Log density on R^D of the rows of a source in batches, without local latents.

    An evaluation reads `most` rows, chosen by `seed`, which stand for all where they are fewer.
    """

    def __init__(
        self, model: Model, source: Source, estimated: frozenset[str], most: int, seed: int = 0
    ) -> None:
        self._model, self._source, self._estimated = model, source, estimated
        self._most, self._seed = most, seed
        self.dtype = np.dtype(source.spec.float_dtype)
        self._last: tuple[Any, Density] | None = None  # of the same block again

    def sample(self, num: int, rng: np.random.Generator) -> Density:
        """Return the log density of a sample of the rows, which stand for all."""
        return self._density(self._source.sample(num, self._most, rng))

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        with self._source.epoch(self._most, self._seed) as blocks:
            parts = [(self._density(rows).value_and_grad(X), rows[1]) for rows in blocks]
        found, counts = zip(*parts, strict=True)
        if len(found) == 1:
            return found[0]
        # every block stands for all rows, weighted by the number of its own
        values, gradients = (
            np.asarray(sum(num * part for num, part in zip(counts, parts, strict=True)))
            / sum(counts)
            for parts in zip(*found, strict=True)
        )
        return values, gradients

    def _density(self, rows: Rows) -> Density:
        if self._last is None or self._last[0] is not rows[0]:
            density = rows_density(self._model, self._source, rows, self._estimated)
            self._last = rows[0], density
        return self._last[1]


def rows_density(
    model: Model, source: Source, rows: Rows, estimated: frozenset[str] = frozenset()
) -> Density:
    """Return the log density of some rows of a source, which stand for all."""
    data, num = rows
    if source.batching is None:
        return Density(model, data, source.spec, estimated)
    spec, scale = source.spec.with_length(num), source.batching.num_rows / num
    return Density(model.with_rows(num), data, spec, estimated, scale)
