"""The log density of all rows of a source, which are read for every evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from advi.core.types import Floats
from advi.data.reader import BrokenStreamError
from advi.data.source import Rows, Source
from advi.model.density import Density, Quantity
from advi.model.model import Model


class SourceDensity:
    """Log density on R^D of the rows of a source in batches, without local latents.

    An evaluation reads `most` rows, chosen by `seed`, which stand for all where they are fewer.
    """

    def __init__(
        self, model: Model, source: Source, estimated: frozenset[str], most: int, seed: int = 0
    ) -> None:
        self._model, self._source, self._estimated = model, source, estimated
        self.most, self._seed = most, seed
        self.dtype = np.dtype(source.spec.float_dtype)
        self._last: tuple[Any, Density] | None = None  # of the same block again

    def sample(self, num: int, rng: np.random.Generator) -> Density:
        """Return the log density of a sample of the rows, which stand for all."""
        return self._density(self._source.sample(num, self.most, rng))

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        with self._source.epoch(self.most, self._seed) as blocks:
            # of one point mostly, and the same size again: padding would cost more than a program
            parts = [
                (self._density(rows).value_and_grad(X, repeated=True), rows[1]) for rows in blocks
            ]
        values, gradients = _of_all(parts)
        return values, gradients

    def _density(self, rows: Rows) -> Density:
        if self._last is None or self._last[0] is not rows[0]:
            density = rows_density(self._model, self._source, rows, self._estimated)
            self._last = rows[0], density
        return self._last[1]


class StreamedDensity(Density):
    """Log density on R^D of all rows of a source, which are read for every evaluation."""

    def __init__(self, model: Model, source: Source, estimated: frozenset[str]) -> None:
        first = rows_density(model, source, source.first, estimated)
        super().__init__(first.model, first.data, first.spec, estimated)
        self._source = source

    def _evaluate(
        self, quantity: Quantity, *arrays: Floats, size: int | None = None
    ) -> list[Floats]:
        assert self._source.batching is not None
        parts = []
        try:
            with self._source.epoch(self._source.batching.num_rows, seed=0) as blocks:
                for rows in blocks:
                    density = rows_density(self.model, self._source, rows, self.estimated)
                    parts.append((density._evaluate(quantity, *arrays), rows[1]))
        except BrokenStreamError as broken:
            raise broken.error from None
        return _of_all(parts)


def _of_all(parts: Sequence[tuple[Sequence[Floats], int]]) -> list[Floats]:
    """Return the values of all rows from those of blocks, with the number of rows of each.

    Every block stands for all rows, weighted by the number of its own.
    """
    found, counts = zip(*parts, strict=True)
    if len(found) == 1:
        return list(found[0])
    return [
        np.asarray(sum(num * part for num, part in zip(counts, of_blocks, strict=True)))
        / sum(counts)
        for of_blocks in zip(*found, strict=True)
    ]


def rows_density(
    model: Model, source: Source, rows: Rows, estimated: frozenset[str] = frozenset()
) -> Density:
    """Return the log density of some rows of a source, which stand for all."""
    data, num = rows
    if source.batching is None:
        return Density(model, data, source.spec, estimated)
    spec, scale = source.spec.with_length(num), source.batching.num_rows / num
    return Density(model.with_rows(num), data, spec, estimated, scale, by_gradient=True)
