"""Some rows of data, in chunks of one size, so that code for them compiles once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from advi.core.axes import Labels
from advi.core.errors import unknown
from advi.core.types import Indices
from advi.data.spec import DataSpec, prepare

CHUNK_ROWS = 256


@dataclass(frozen=True, eq=False)
class RowSubset:
    """Some rows of data."""

    data: Any
    spec: DataSpec  # which knows the leaves that run over rows
    index: Indices  # (n,) of the rows

    @classmethod
    def of(cls, data: Any, spec: DataSpec, num_rows: int) -> "RowSubset":
        """Return all rows of the data of a fit."""
        return cls(data, spec.by_row(num_rows), np.arange(num_rows))

    def new(self, data: Any, known: Labels) -> "RowSubset":
        """Return new data of the same kind, with any number of rows; leaves may be left out.

        `known` has the names of categories. ValueError if a leaf is unknown, a row has another
        shape, or leaves differ in their rows.
        """
        data, spec = prepare(data, self.spec.float_dtype, known)
        known, rows = self.spec.shapes, dict(zip(self.spec.names, self.spec.per_row, strict=True))
        per_row, lengths = [], {}
        for name, shape in spec.shapes.items():
            if name not in known:
                raise ValueError(f"data: {unknown('leaf', name, known)}")
            old, row = known[name], rows[name]
            if shape[row:] != old[row:] or len(shape) != len(old):
                wanted = f"(n, {', '.join(map(str, old[1:]))})" if row else str(old)
                raise ValueError(f"data leaf {name!r}: got shape {shape}; expected {wanted}.")
            per_row.append(row)
            lengths |= {name: shape[0]} if row else {}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
            raise ValueError(
                f"data: got leading axes {listed}; expected one number of rows, at least one."
            )
        spec = spec._replace(per_row=tuple(per_row))
        return RowSubset(data, spec, np.arange(next(iter(lengths.values()))))

    def joined(self, batches: list[Any]) -> "RowSubset":
        """Return the rows of several batches, each like the data."""
        leaves = self.spec.joined([jax.tree.leaves(batch) for batch in batches])
        num, data = self.spec.length(leaves), self.spec.treedef.unflatten(leaves)
        return RowSubset(data, self.spec.with_length(num), np.arange(num))

    def sample(self, num: int, rng: np.random.Generator) -> "RowSubset":
        """Return a random sample of the rows, or all where there are not more than `num`."""
        if len(self.index) <= num:
            return self
        return replace(self, index=rng.permutation(self.index)[:num])

    def head(self, num: int) -> tuple[Any, DataSpec]:
        """Return the data of the first `num` rows, or of all where there are not more."""
        num = min(num, len(self.index))
        leaves, treedef = jax.tree.flatten(self.data)
        return treedef.unflatten(self.spec.at(leaves, slice(num))), self.spec.with_length(num)

    @property
    def chunk_spec(self) -> DataSpec:
        """`DataSpec` of one chunk."""
        return self.spec.with_length(CHUNK_ROWS)

    def chunks(self) -> Iterator[tuple[Any, Indices, int]]:
        """Yield chunks of rows: their data, indices into `index`, and how many of them count.

        The last chunk repeats its last row until it is full.
        """
        leaves, treedef = jax.tree.flatten(self.data)
        rows = zip(leaves, self.spec.per_row, strict=True)
        leaves = [jax.device_get(leaf) if row else leaf for leaf, row in rows]
        for start in range(0, len(self.index), CHUNK_ROWS):
            within = np.minimum(np.arange(start, start + CHUNK_ROWS), len(self.index) - 1)
            batch = self.spec.at(leaves, self.index[within])
            yield treedef.unflatten(batch), within, min(CHUNK_ROWS, len(self.index) - start)
